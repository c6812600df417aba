"""The commands for clusters, added to `spurbench` as an entry point of the group `spurbench.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def add_to(app: typer.Typer) -> None:
    """Put the commands of this folder into the command line."""
    for command in (submit, cancel, logs):
        app.command()(command)


def submit(
    grid: Annotated[str, typer.Argument(help="Name of a shipped grid, or a .yaml file.")],
    store: Annotated[Path | None, typer.Option(help="Folder of the results, one all nodes see.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only cells of this dataset, method or label.")] = None,
    partition: Annotated[str | None, typer.Option(help="As sbatch's; the cluster's default if left out.")] = None,
    account: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    qos: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    constraint: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each task; 0 computes on CPUs.")] = 1,
    cpus: Annotated[int, typer.Option(min=1, help="Cores of each task.")] = 2,
    mem: Annotated[str, typer.Option(help="Memory of each task, as 8G.")] = "8G",
    time: Annotated[str, typer.Option(help="Time limit of a task: 90m, 4h, 2-12:00:00.")] = "4h",
    max_parallel: Annotated[int | None, typer.Option(min=1, help="Tasks at once, over all arrays.")] = None,
    jobs_per_task: Annotated[int, typer.Option(min=1, help="Jobs a task does one after the other.")] = 1,
    setup: Annotated[list[str] | None, typer.Option(help="A shell line before each task: module load cuda.")] = None,
    device: Annotated[str, typer.Option(help="auto: a GPU if there are any, else the CPU; cpu; cuda.")] = "auto",
    retry: Annotated[bool, typer.Option("--retry", help="Do failed runs again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted; submit nothing.")] = False,
    node_local: Annotated[bool, typer.Option("--node-local", help="The store may lie in /tmp.")] = False,
    plugin: Annotated[list[Path] | None, typer.Option("--plugin", help="A method or dataset file of your own.")] = None,
) -> None:
    """Send what a grid still lacks to SLURM and return; submit again at any time, nothing is done twice.

    [dim]spurbench submit paper --store /shared/paper --partition gpu --time 4h --dry-run[/dim]
    """
    from spurbench.bench import registry
    from spurbench.bench.grid import load_grid
    from spurbench.bench.runner import Settings
    from spurbench.bench.store import Store
    from spurbench.slurm.arrays import Resources, minutes
    from spurbench.slurm.submit import Wish
    from spurbench.slurm.submit import submit as send

    for path in plugin or []:
        registry.add_plugin(str(path))
    resources = Resources(partition, account, qos, constraint, gpus, cpus, mem, minutes(time), tuple(setup or ()))
    settings = Settings(device=device, retry=retry, only=only or [])
    wish = Wish(resources, settings, jobs_per_task, max_parallel, dry_run, node_local)
    chosen = load_grid(grid)
    where = store or Path("stores") / Path(grid).stem
    folder = Store(where) if dry_run and not where.exists() else Store.open(where, create=True)
    say(send(chosen, folder, wish), where, dry_run)


def cancel(
    store: Annotated[Path, typer.Argument(help="The folder of the results.")],
    cell: Annotated[list[str] | None, typer.Argument(help="Dataset, method, label or task; all if left out.")] = None,
) -> None:
    """Take submitted tasks out of the queue; their runs count as cancelled until they are submitted again."""
    from spurbench.bench.store import Store
    from spurbench.slurm import queue

    gone = queue.cancel(Store.open(store), cell or [])
    print(f"cancelled {len(gone)} tasks; `spurbench submit` does their runs again")


def logs(
    store: Annotated[Path, typer.Argument(help="The folder of the results.")],
    cell: Annotated[list[str] | None, typer.Argument(help="Dataset, method, label or task; all if left out.")] = None,
    lines: Annotated[int, typer.Option(help="How many of the last lines of each log.")] = 20,
) -> None:
    """Show the end of the logs of submitted tasks."""
    from spurbench.bench.store import Store
    from spurbench.slurm import queue

    for task in queue.tasks(Store.open(store)):
        if task.of(cell or []):
            text = task.log.read_text(errors="replace").splitlines() if task.log.exists() else ["(no log yet)"]
            print(f"== {task.id}: {', '.join(job.title for job in task.jobs)}\n   {task.log}")
            print("\n".join(text[-lines:]))


def say(sent: Any, where: Path, dry_run: bool) -> None:
    """What was submitted and what to do next."""
    for array, text in zip(sent.arrays, sent.scripts, strict=True) if dry_run else ():
        print(f"# {len(array.tasks)} tasks, {array.parallel} at once\n{text}\n")
    tasks = sum(len(array.tasks) for array in sent.arrays)
    verb = "would submit" if dry_run else "submitted"
    print(
        f"{verb} {sent.runs} runs as {tasks} tasks of {len(sent.arrays)} arrays"
        + (f": {', '.join(sent.ids)}" if sent.ids else "")
    )
    if sent.queued:
        print(f"{sent.queued} runs are in the queue already")
    if sent.searching:
        print("these are searches; submit again when they have ended, for the runs they decide")
    if not dry_run:
        print(f"next: spurbench status {where}")
