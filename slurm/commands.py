"""The commands for clusters, added to `spurbench` as an entry point of the group `spurbench.commands`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from spurbench.bench.cli import options
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.terminal import plain, shell

StoreFolder = Annotated[Path, typer.Argument(help="The folder of the results.")]
Cells = Annotated[list[str] | None, typer.Argument(help="Dataset, method, label or task; all if left out.")]
JobsPerTask = Annotated[
    int, typer.Option(min=1, help="How many jobs, each some seeds of a cell, a task does one after the other.")
]
MaxParallel = Annotated[int | None, typer.Option(min=1, help="Tasks at once, over all arrays.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted; submit nothing.")]
NodeLocal = Annotated[bool, typer.Option("--node-local", help="The store may lie in /tmp.")]
Snapshot = Annotated[bool, typer.Option("--snapshot/--no-snapshot", help="Run a copy of the code as it is now.")]


def add_to(app: typer.Typer) -> None:
    """Put the commands of this folder into the command line."""
    for command in (submit, retry, cancel, collect, logs):
        app.command(rich_help_panel="On a SLURM cluster")(command)


def submit(
    grid: Annotated[str, typer.Argument(help="Name of a shipped grid, or a .yaml file.")],
    store: Annotated[
        Path | None, typer.Option(help="Folder of the results, one all nodes see; default stores/GRID.")
    ] = None,
    set_: options.Sets = None,
    only: options.Only = None,
    cluster: Annotated[str | None, typer.Option(help="Name in ~/.config/spurbench/clusters.yaml.")] = None,
    partition: Annotated[str | None, typer.Option(help="As sbatch's; the cluster's default if left out.")] = None,
    account: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    qos: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    constraint: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Nodes not to use, as sbatch's.")] = None,
    reservation: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs of each task (1), also as a100:2 or gpu:a100:2; 0 computes on CPUs.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores of each task (2).")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory of each task (8G); none leaves it to the cluster.")] = None,
    mem_per_cpu: Annotated[str | None, typer.Option(help="Memory of each core of a task, instead.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Time limit of a task: 90m, 4h (the default), or as sbatch's: 90, 4:00:00, 2-12.")
    ] = None,
    setup: Annotated[list[str] | None, typer.Option(help="A shell line before each task: module load cuda.")] = None,
    srun: Annotated[bool | None, typer.Option("--srun/--no-srun", help="Start tasks through srun.")] = None,
    max_parallel: MaxParallel = None,
    jobs_per_task: JobsPerTask = 1,
    device: Annotated[str, typer.Option(help="auto: a GPU if the task has one, else the CPU; cpu; cuda.")] = "auto",
    retry: Annotated[bool, typer.Option("--retry", help="Do failed runs again.")] = False,
    compile_: options.Compile = False,
    dry_run: DryRun = False,
    node_local: NodeLocal = False,
    snapshot: Snapshot = True,
    plugin: options.Plugin = None,
) -> None:
    """Send what a grid still lacks to SLURM and return; submit again at any time, nothing is done twice.

    What a task asks for may also stand under `resources:` in the grid file (for all, for a dataset, for a method) and
    in a profile of yours; the command line comes first, then the grid, the profile, and SBATCH_ variables.

    [dim]spurbench submit paper --store /shared/paper --partition gpu --time 4h --dry-run[/dim]
    """
    from spurbench.bench.grid.load import load_grid
    from spurbench.bench.launch.runner import Settings
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store
    from spurbench.slurm import profiles
    from spurbench.slurm.submit import Wish, check
    from spurbench.slurm.submit import submit as send

    add_plugins(plugin)
    given = {"partition": partition, "account": account, "qos": qos, "constraint": constraint, "exclude": exclude,
             "reservation": reservation, "gpus": gpus, "cpus": cpus, "mem": mem, "mem_per_cpu": mem_per_cpu,
             "time": time, "setup": setup, "srun": srun}  # fmt: skip
    asked = {name: value for name, value in given.items() if value is not None}
    below = [profiles.shell(), profiles.profile(cluster)]
    profiles.resources(*below, ("the command line", asked))  # complaints come before anything is written
    chosen = load_grid(grid, set_ or [])
    where = store or Path("stores") / Path(grid).stem
    wish = Wish(jobs_per_task, max_parallel, dry_run, node_local, snapshot)
    check(where, wish)
    folder = Store(where) if dry_run and not where.exists() else Store.open(where, create=True)
    sent = send(
        chosen, folder, Settings(device=device, retry=retry, only=only or [], compile=compile_), wish,
        lambda of_cell: profiles.resources(*below, (grid, of_cell), ("the command line", asked)),
    )  # fmt: skip
    if sent.name != chosen.name:
        print(f"{where} has another grid called {chosen.name}: this one is kept beside it as {sent.name}")
    say(sent, where, dry_run)


def retry(
    store: StoreFolder,
    cell: Cells = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Also what failed by itself: exceptions, divergence.")
    ] = False,
    mem: Annotated[str | None, typer.Option(help="Memory now: 32G, or x2 for twice what it was.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit now: 8h, or x2.")] = None,
    max_parallel: MaxParallel = None,
    jobs_per_task: JobsPerTask = 1,
    dry_run: DryRun = False,
    node_local: NodeLocal = False,
    snapshot: Snapshot = True,
    plugin: options.Plugin = None,
) -> None:
    """Submit again what was killed, cancelled, lost, or ran out of time or memory, as it was or with more of these.

    [dim]spurbench retry /shared/paper --mem x2 --time x2[/dim]
    """
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store
    from spurbench.slurm.arrays import changed
    from spurbench.slurm.submit import Wish, again

    add_plugins(plugin)
    wish = Wish(jobs_per_task, max_parallel, dry_run, node_local, snapshot)
    say(again(Store.open(store), cell or [], failed, wish, lambda was: changed(was, mem, time)), store, dry_run)


def cancel(
    store: StoreFolder,
    cell: Cells = None,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Instead, let what SLURM will never tell of count as not sent."),
    ] = False,
) -> None:
    """Take submitted tasks out of the queue; they stay out until their runs are submitted again."""
    from spurbench.bench.store.store import Store
    from spurbench.slurm import queue

    if forget:
        if cell:
            raise UserError("--forget is for all arrays of which SLURM does not tell: name no cell")
        arrays = queue.forget(Store.open(store))
        print(f"forgot {len(arrays)} arrays: those of their tasks that have not begun will do nothing")
        return
    gone = queue.cancel(Store.open(store), cell or [])
    again = f"; `spurbench retry {shell(store)}` sends their runs again" if gone else ""
    print(f"cancelled {len(gone)} tasks{again}")


def collect(store: StoreFolder) -> None:
    """Write down why runs ended without a record, so that leaderboards and other machines know."""
    from spurbench.bench.store.store import Store
    from spurbench.slurm import queue

    kinds = Counter(record.cause.kind for record in queue.collect(Store.open(store)) if record.cause)
    causes = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(f"{kinds.total()} runs had ended without a record{': ' if causes else ''}{causes}")
    if kinds:
        print(f"next: spurbench retry {shell(store)}")


def logs(
    store: StoreFolder,
    cell: Cells = None,
    lines: Annotated[int, typer.Option(min=1, help="How many of the last lines of each log.")] = 20,
) -> None:
    """Show the end of the logs of submitted tasks."""
    from spurbench.bench.store.store import Store
    from spurbench.slurm.submissions import named, tasks

    for task in named(list(tasks(Store.open(store))), cell or []):
        text = task.log.read_text("utf-8", "replace").splitlines() if task.log.exists() else ["(no log yet)"]
        print(plain(f"== {task.id}: {', '.join(job.title for job in task.jobs)}\n   {task.log}"))
        print(plain("\n".join(text[-lines:])))


def say(sent: Any, where: Path, dry_run: bool) -> None:
    """What was submitted and what to do next."""
    from spurbench.bench.store.store import Store
    from spurbench.slurm.queue import way_out

    refused = False
    for array, text in zip(sent.arrays, sent.scripts, strict=True) if dry_run else ():
        ok, verdict = tried(text)
        refused |= not ok
        print(plain(f"# {len(array.tasks)} tasks, {array.parallel} at once; {verdict}\n{text}\n"))
    tasks = sum(len(array.tasks) for array in sent.arrays)
    print(
        f"{'would submit' if dry_run else 'submitted'} {sent.runs} runs as {tasks} tasks of {len(sent.arrays)} arrays"
        + (f": {', '.join(sent.ids)}" if sent.ids else "")
    )
    open_ = sum(sent.unknown.values())
    if sent.queued > sent.ending + open_:
        print(f"{sent.queued - sent.ending - open_} runs are in the queue already")
    for why, count in sent.unknown.items():
        print(f"{count} runs may be in the queue and are left out: {why}")
    if sent.ending:
        print(f"{sent.ending} runs are of cancelled tasks that have not ended yet; send them again when they have")
    if sent.beyond:
        print(f"{sent.beyond} jobs are more than the cluster lets you queue; submit again when some have ended")
    if sent.left:
        print(f"{sent.left} runs failed by themselves and were left: --failed sends them too")
    for files, (count, code) in sent.outdated.items():
        names = " ".join(shell(Path(name)) for name in code)
        or_else = f", `spurbench accept {shell(where)} {names}` says that the edit alters nothing" if code else ""
        told = f"{count} runs were made before {plain(files)} was edited and are kept as they are"
        print(f"{told}: `spurbench run --fresh` trains them again{or_else}")
    if sent.searching:
        print("these are searches; submit again when they have ended, for the runs they decide")
    if refused:
        raise UserError("SLURM would refuse this")
    if sent.unknown and not sent.runs:
        raise UserError(f"nothing is sent: what is in the queue is not known; {way_out(Store(where))}")
    if not dry_run:
        print(f"next: spurbench watch {shell(where)}")


def tried(script: str) -> tuple[bool, str]:
    """Whether SLURM would take a script, and what it says of it; it cannot be asked where there is no sbatch."""
    from spurbench.slurm import profiles, program

    said = program.call("sbatch", "--test-only", given=script, environment=program.for_sbatch(profiles.SHELL))
    reason = " ".join(said.error.replace("sbatch: ", "").split()) or said.reason
    if said.unsure or ("fatal:" in said.error and "config" in said.error):
        return True, f"SLURM cannot be asked: {reason}"
    return said.good, f"SLURM {'would take it' if said.good else 'refuses it'}: {reason}"
