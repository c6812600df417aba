"""The commands for clusters: `submit`, `retry`, `cancel`, `collect` and `logs`, for every launcher there is."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from spurbench.bench.cli import options
from spurbench.bench.cluster.launcher import launchers
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.terminal import plain, plural, shell

if TYPE_CHECKING:
    from spurbench.bench.cluster.submit import Submission

StoreFolder = Annotated[Path, typer.Argument(help="Store folder.")]
Cells = Annotated[list[str] | None, typer.Argument(help="Dataset, method, label or task; by default all.")]
JobsPerTask = Annotated[
    int, typer.Option(min=1, help="Jobs per task (a job is some seeds of one cell), run one after another.")
]
MaxParallel = Annotated[int | None, typer.Option(min=1, help="Tasks running at once, over all arrays.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted; submit nothing.")]
NodeLocal = Annotated[bool, typer.Option("--node-local", help="Allow a store in /tmp.")]
Snapshot = Annotated[bool, typer.Option("--snapshot/--no-snapshot", help="Run a copy of the code as it is now.")]


def add_to(app: typer.Typer) -> None:
    """Put the commands into the command line, if there is a launcher."""
    if known := launchers():
        resources = [field for launcher in known.values() for field in fields(launcher.resources)]
        for command in (with_options(submit, resources), retry, cancel, collect, logs):
            app.command(rich_help_panel="On a cluster")(command)


def with_options(command: Callable[..., None], resources: Iterable[Field[Any]]) -> Callable[..., None]:
    """The command with an option for each resource in place of `asked`, which gets the given values."""
    by_name = {field.name: field for field in reversed(list(resources))}

    @wraps(command)
    def with_resources(**given: Any) -> None:
        asked = {name: value for name in by_name if (value := given.pop(name)) is not None}
        command(**given, asked=asked)

    hints = get_type_hints(command, include_extras=True)
    hints |= {name: option_of(field) for name, field in reversed(by_name.items())}
    own = [one.replace(annotation=hints[one.name]) for one in inspect.signature(command).parameters.values()]
    place = [one.name for one in own].index("asked")
    of_resources = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints[name])
        for name in reversed(by_name)
    ]
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    parameters[place : place + 1] = of_resources
    with_resources.__annotations__ = {name: hint for name, hint in hints.items() if name != "asked"}
    with_resources.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return with_resources


def option_of(field: Field[Any]) -> Any:
    """The annotation of a resource's option; its value is checked when all layers of resources are combined."""
    default = field.default
    kind = bool if isinstance(default, bool) else list[str] if isinstance(default, tuple) else str
    return Annotated[kind | None, typer.Option(help=field.metadata["help"], rich_help_panel="What each task requests")]


def submit(
    grid: Annotated[str, typer.Argument(help="Name of a shipped grid, or a .yaml file.")],
    store: Annotated[
        Path | None, typer.Option(help="Store folder, visible from all nodes; by default stores/GRID.")
    ] = None,
    set_: options.Sets = None,
    only: options.Only = None,
    cluster: Annotated[str | None, typer.Option(help="Name in ~/.config/spurbench/clusters.yaml.")] = None,
    launcher: Annotated[
        str | None, typer.Option(help="By default the batch system that answers here, such as slurm.")
    ] = None,
    asked: Mapping[str, Any] | None = None,
    max_parallel: MaxParallel = None,
    jobs_per_task: JobsPerTask = 1,
    device: Annotated[str, typer.Option(help="auto: a GPU if the task has one, else the CPU; cpu; cuda.")] = "auto",
    retry: Annotated[bool, typer.Option("--retry", help="Rerun failed runs.")] = False,
    compile_: options.Compile = False,
    micro_batch: options.MicroBatch = None,
    keep_weights: options.KeepWeights = False,
    dry_run: DryRun = False,
    node_local: NodeLocal = False,
    snapshot: Snapshot = True,
    plugin: options.Plugin = None,
) -> None:
    """Submit what a grid still lacks to a cluster and return; submit again at any time, nothing runs twice.

    Resources may also stand under `resources:` in the grid file (for all cells, a dataset or a method) and in your
    profile. The command line wins over the grid, the grid over the profile, the profile over SBATCH_ variables.

    [dim]spurbench submit paper --store /shared/paper --partition gpu --time 4h --dry-run[/dim]
    """
    from spurbench.bench.cluster.launcher import find_launcher
    from spurbench.bench.cluster.resources import combine, profile
    from spurbench.bench.cluster.sending import SubmitOptions
    from spurbench.bench.cluster.submit import check_folder
    from spurbench.bench.cluster.submit import submit as send
    from spurbench.bench.grid.load import load_grid
    from spurbench.bench.launch.runner import Settings
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    to = find_launcher(launcher)
    below, above = [to.resources_of_shell(), profile(cluster)], ("the command line", asked or {})
    combine(to.resources, *below, above)  # complaints come before anything is written
    chosen = load_grid(grid, set_ or [])
    where = store or Path("stores") / Path(grid).stem
    how = SubmitOptions(jobs_per_task, max_parallel, dry_run, node_local, snapshot)
    check_folder(to, where, how)
    folder = Store(where) if dry_run and not where.exists() else Store.open(where, create=True)
    settings = Settings(
        device=device,
        retry=retry,
        only=only or [],
        micro_batch=micro_batch,
        compile=compile_,
        keep_weights=keep_weights,
    )
    sent = send(
        to, chosen, folder, settings, how,
        lambda of_cell: combine(to.resources, *below, (grid, of_cell), above),
    )  # fmt: skip
    if sent.name != chosen.name:
        print(f"{where} has another grid called {chosen.name}: this one is kept beside it as {sent.name}")
    say(sent, where, dry_run)


def retry(
    store: StoreFolder,
    cell: Cells = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Also runs that failed by themselves: exceptions, divergence.")
    ] = False,
    mem: Annotated[str | None, typer.Option(help="New memory: 32G, or x2 for twice as much.")] = None,
    time: Annotated[str | None, typer.Option(help="New time limit: 8h, or x2.")] = None,
    max_parallel: MaxParallel = None,
    jobs_per_task: JobsPerTask = 1,
    dry_run: DryRun = False,
    node_local: NodeLocal = False,
    snapshot: Snapshot = True,
    plugin: options.Plugin = None,
) -> None:
    """Resubmit what was killed, cancelled, lost, or ran out of time or memory, unchanged or with more of these.

    [dim]spurbench retry /shared/paper --mem x2 --time x2[/dim]
    """
    from spurbench.bench.cluster.sending import SubmitOptions
    from spurbench.bench.cluster.submit import resubmit
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    how = SubmitOptions(jobs_per_task, max_parallel, dry_run, node_local, snapshot)
    say(resubmit(Store.open(store), cell or [], failed, how, mem, time), store, dry_run)


def cancel(
    store: StoreFolder,
    cell: Cells = None,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Instead, treat what the cluster will never report on as not sent."),
    ] = False,
) -> None:
    """Cancel submitted tasks; their runs stay out of the queue until they are submitted again."""
    from spurbench.bench.cluster import control
    from spurbench.bench.store.store import Store

    if forget:
        if cell:
            raise UserError("--forget is for all arrays whose state is not known: name no cell")
        arrays = control.forget(Store.open(store))
        print(f"forgot {plural(len(arrays), 'array')}: tasks that have not started will do nothing")
        return
    gone = control.cancel(Store.open(store), cell or [])
    hint = f"; `spurbench retry {shell(store)}` resubmits their runs" if gone else ""
    print(f"cancelled {plural(len(gone), 'task')}{hint}")


def collect(store: StoreFolder) -> None:
    """Record why runs ended without a result, so that leaderboards and other machines know."""
    from spurbench.bench.cluster import control
    from spurbench.bench.store.store import Store

    kinds = Counter(record.cause.kind for record in control.collect(Store.open(store)) if record.cause)
    causes = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(f"{plural(kinds.total(), 'run')} had ended without a record{': ' if causes else ''}{causes}")
    if kinds:
        print(f"next: spurbench retry {shell(store)}")


def logs(
    store: StoreFolder,
    cell: Cells = None,
    lines: Annotated[int, typer.Option(min=1, help="Lines to show from the end of each log.")] = 20,
) -> None:
    """Show the end of each submitted task's log."""
    from spurbench.bench.cluster.submissions import named, tasks
    from spurbench.bench.store.store import Store

    for task in named(list(tasks(Store.open(store))), cell or []):
        text = task.log.read_text("utf-8", "replace").splitlines() if task.log.exists() else ["(no log yet)"]
        print(plain(f"== {task.id}: {', '.join(job.title for job in task.jobs)}\n   {task.log}"))
        print(plain("\n".join(text[-lines:])))


def say(sent: Submission, where: Path, dry_run: bool) -> None:
    """Print what was submitted and what to do next."""
    from spurbench.bench.cluster.control import forget_hint
    from spurbench.bench.store.store import Store

    refused = False
    for array, text in zip(sent.arrays, sent.scripts, strict=True) if dry_run else ():
        ok, verdict = sent.launcher.test(text)
        refused |= not ok
        print(plain(f"# {plural(len(array.tasks), 'task')}, {array.parallel} at once; {verdict}\n{text}\n"))
    tasks = sum(len(array.tasks) for array in sent.arrays)
    print(
        f"{'would submit' if dry_run else 'submitted'} {plural(sent.runs, 'run')} as {plural(tasks, 'task')} "
        f"of {plural(len(sent.arrays), 'array')}" + (f": {', '.join(sent.ids)}" if sent.ids else "")
    )
    open_ = sum(sent.unknown.values())
    if sent.queued > sent.ending + open_:
        print(f"{plural(sent.queued - sent.ending - open_, 'run')} already in the queue")
    for why, count in sent.unknown.items():
        print(f"{plural(count, 'run')} possibly in the queue, left out: {why}")
    if sent.ending:
        print(f"{plural(sent.ending, 'run')} of cancelled tasks that have not ended yet; submit again once they have")
    if sent.beyond:
        print(f"{plural(sent.beyond, 'job')} beyond what the cluster lets you queue; submit again when some have ended")
    if sent.left:
        print(f"{plural(sent.left, 'run')} with failures of their own left out: --failed resubmits them")
    for files, (count, code) in sent.outdated.items():
        names = " ".join(shell(Path(name)) for name in code)
        or_else = f", `spurbench accept {shell(where)} {names}` declares that the edit changes nothing" if code else ""
        were = "run was" if count == 1 else "runs were"
        kept = f"{count} {were} made before {plain(files)} was edited and kept unchanged"
        print(f"{kept}: `spurbench run --fresh` trains them again{or_else}")
    if sent.searching:
        print("these are search runs; once they have ended, submit again for the runs they decide")
    if refused:
        raise UserError(f"{sent.launcher.title} would refuse this")
    if sent.unknown and not sent.runs:
        raise UserError(f"nothing is sent: it is not known what is in the queue; {forget_hint(Store(where))}")
    if not dry_run:
        print(f"next: spurbench watch {shell(where)}")
