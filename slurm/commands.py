"""The commands for clusters, added to `spurbench` as an entry point of the group `spurbench.commands`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from spurbench.bench.cli import options
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.terminal import plain, plural, shell

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
    """Put the commands of this folder into the command line."""
    for command in (submit, retry, cancel, collect, logs):
        app.command(rich_help_panel="On a SLURM cluster")(command)


def submit(
    grid: Annotated[str, typer.Argument(help="Name of a shipped grid, or a .yaml file.")],
    store: Annotated[
        Path | None, typer.Option(help="Store folder, visible from all nodes; by default stores/GRID.")
    ] = None,
    set_: options.Sets = None,
    only: options.Only = None,
    cluster: Annotated[str | None, typer.Option(help="Name in ~/.config/spurbench/clusters.yaml.")] = None,
    partition: Annotated[str | None, typer.Option(help="As for sbatch; by default the cluster's.")] = None,
    account: Annotated[str | None, typer.Option(help="As for sbatch.")] = None,
    qos: Annotated[str | None, typer.Option(help="As for sbatch.")] = None,
    constraint: Annotated[str | None, typer.Option(help="As for sbatch.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Nodes not to use, as for sbatch.")] = None,
    reservation: Annotated[str | None, typer.Option(help="As for sbatch.")] = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs per task (1), also a100:2 or gpu:a100:2; 0 for CPUs only.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores per task (2).")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory per task (8G); none leaves it to the cluster.")] = None,
    mem_per_cpu: Annotated[str | None, typer.Option(help="Memory per core, instead of --mem.")] = None,
    time: Annotated[
        str | None,
        typer.Option(help="Time limit per task: 90m, 4h (the default), or as for sbatch: 90, 4:00:00, 2-12."),
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(help="Shell line to run before each task, e.g. module load cuda; may be repeated."),
    ] = None,
    srun: Annotated[bool | None, typer.Option("--srun/--no-srun", help="Start tasks through srun.")] = None,
    max_parallel: MaxParallel = None,
    jobs_per_task: JobsPerTask = 1,
    device: Annotated[str, typer.Option(help="auto: a GPU if the task has one, else the CPU; cpu; cuda.")] = "auto",
    retry: Annotated[bool, typer.Option("--retry", help="Rerun failed runs.")] = False,
    compile_: options.Compile = False,
    dry_run: DryRun = False,
    node_local: NodeLocal = False,
    snapshot: Snapshot = True,
    plugin: options.Plugin = None,
) -> None:
    """Submit what a grid still lacks to SLURM and return; submit again at any time, nothing runs twice.

    Resources may also stand under `resources:` in the grid file (for all cells, a dataset or a method) and in your
    profile. The command line wins over the grid, the grid over the profile, the profile over SBATCH_ variables.

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
        typer.Option("--forget", help="Instead, treat what SLURM will never report on as not sent."),
    ] = False,
) -> None:
    """Cancel submitted tasks; their runs stay out of the queue until they are submitted again."""
    from spurbench.bench.store.store import Store
    from spurbench.slurm import queue

    if forget:
        if cell:
            raise UserError("--forget is for all arrays of which SLURM does not tell: name no cell")
        arrays = queue.forget(Store.open(store))
        print(f"forgot {len(arrays)} arrays: those of their tasks that have not begun will do nothing")
        return
    gone = queue.cancel(Store.open(store), cell or [])
    again = f"; `spurbench retry {shell(store)}` resubmits their runs" if gone else ""
    print(f"cancelled {plural(len(gone), 'task')}{again}")


def collect(store: StoreFolder) -> None:
    """Record why runs ended without a result, so that leaderboards and other machines know."""
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
    lines: Annotated[int, typer.Option(min=1, help="Lines to show from the end of each log.")] = 20,
) -> None:
    """Show the end of each submitted task's log."""
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
        f"{'would submit' if dry_run else 'submitted'} {plural(sent.runs, 'run')} as {plural(tasks, 'task')} "
        f"of {plural(len(sent.arrays), 'array')}" + (f": {', '.join(sent.ids)}" if sent.ids else "")
    )
    open_ = sum(sent.unknown.values())
    if sent.queued > sent.ending + open_:
        print(f"{sent.queued - sent.ending - open_} runs are in the queue already")
    for why, count in sent.unknown.items():
        print(f"{count} runs may be in the queue and are left out: {why}")
    if sent.ending:
        print(f"{sent.ending} runs belong to cancelled tasks that have not ended yet; submit again once they have")
    if sent.beyond:
        print(f"{sent.beyond} jobs exceed what the cluster lets you queue; submit again when some have ended")
    if sent.left:
        print(f"{sent.left} runs failed by themselves and were left out: --failed resubmits them")
    for files, (count, code) in sent.outdated.items():
        names = " ".join(shell(Path(name)) for name in code)
        or_else = f", `spurbench accept {shell(where)} {names}` says that the edit alters nothing" if code else ""
        told = f"{count} runs were made before {plain(files)} was edited and are kept as they are"
        print(f"{told}: `spurbench run --fresh` trains them again{or_else}")
    if sent.searching:
        print("these are search runs; once they have ended, submit again for the runs they decide")
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
