"""From a grid to arrays in the queue: arrange what is still to be done, write manifests, sbatch, write that down."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spurbench.bench import catalogue, registry
from spurbench.bench.errors import UserError
from spurbench.bench.grid import Grid
from spurbench.bench.layout import GPU_HEIGHT, SMALL_HEIGHT, Layout
from spurbench.bench.record import canonical, fingerprint
from spurbench.bench.runner import Settings, arranged, draws, outstanding
from spurbench.bench.store import Store, write_atomically
from spurbench.slurm.arrays import Array, Resources, plan
from spurbench.slurm.queue import in_queue, tasks

LOCAL_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # a compute node sees others of these names


@dataclass(frozen=True)
class Wish:
    """How the user wants a grid to be submitted."""

    resources: Resources
    settings: Settings
    jobs_per_task: int = 1
    max_parallel: int | None = None
    dry_run: bool = False
    node_local: bool = False  # the store may lie in a folder of this node


@dataclass(frozen=True)
class Submission:
    """What was sent, or would be: the arrays, their scripts and, once sent, their job ids."""

    folder: Path
    arrays: list[Array]
    scripts: list[str]
    ids: list[str]
    runs: int
    queued: int = 0  # runs left out because an earlier submission has them
    searching: bool = False


def submit(grid: Grid, store: Store, wish: Wish) -> Submission:
    """Send everything of the grid that is neither done nor in the queue; returns at once."""
    if not wish.dry_run:
        on_path("sbatch")
    if not wish.node_local and any(store.root.resolve().is_relative_to(folder) for folder in LOCAL_FOLDERS):
        raise UserError(f"{store.root} lies in a folder that other nodes do not share: name one they do, with --store")
    state, planned, waiting = outstanding(grid, store, wish.settings, look_only=wish.dry_run)
    here = queued(store)
    searches = waiting & draws(state)
    wanted = (searches or waiting) - here
    prepared = {run.dataset for run, _ in planned if run.id in wanted}
    if not wish.dry_run:
        for name in sorted(prepared):
            catalogue.prepare(name)
    jobs = arranged(planned, wanted, layout_of(wish), wish.settings)
    jobs = [replace(job, options=replace(job.options, device=device_of(wish))) for job in jobs]
    arrays = plan(jobs, wish.jobs_per_task, largest_array(), wish.max_parallel)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = store.root / "slurm" / f"{stamp}-{fingerprint(sorted(wanted))[:6]}"
    names = [f"{grid.name}-{i}" if len(arrays) > 1 else grid.name for i in range(len(arrays))]
    scripts = [
        script(array, folder, i, name, wish.resources)
        for i, (array, name) in enumerate(zip(arrays, names, strict=True))
    ]
    sent = Submission(folder, arrays, scripts, [], len(wanted), len(waiting & here), bool(searches))
    return sent if wish.dry_run or not arrays else send(sent, store, wish)


def on_path(program: str) -> None:
    if shutil.which(program) is None:
        raise UserError(f"no {program} here: submit from a node of the cluster, or try slurm/local_cluster.sh")


def device_of(wish: Wish) -> str:
    device = wish.settings.device
    return ("cuda" if wish.resources.gpus else "cpu") if device == "auto" else device


def layout_of(wish: Wish) -> Layout:
    """How the runs of a cell share tasks: as on one machine with one such process."""
    device = device_of(wish)
    return Layout(
        (device,), SMALL_HEIGHT if device == "cpu" else GPU_HEIGHT, wish.settings.threads or wish.resources.cpus
    )


def largest_array() -> int:
    """How many tasks the cluster allows in an array; SLURM's default where it does not say."""
    if shutil.which("scontrol"):
        said = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False).stdout
        if match := re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.M):
            return max(1, int(match[1]) - 1)
    return 1000


def script(array: Array, folder: Path, number: int, name: str, resources: Resources) -> str:
    """The text that sbatch gets."""
    text: str = executor(array, folder, name, resources)._make_submission_file_text(
        command(folder, number), "spurbench"
    )
    return text


def executor(array: Array, folder: Path, name: str, resources: Resources) -> Any:
    """submitit's, which words the options and speaks with sbatch; its pickles are not used."""
    import submitit

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # a dry run needs no cluster

    made = Executor(folder / "logs")
    made.update_parameters(**resources.parameters(name, array.parallel))
    made.update_parameters(wckey=None)
    made.parameters["map_count"] = len(array.tasks)
    return made


def manifest_of(folder: Path, number: int) -> Path:
    return folder / f"array-{number}.json"


def command(folder: Path, number: int) -> str:
    """The shell is replaced by Python, so that SLURM's signals reach it."""
    return f"exec {sys.executable} -m spurbench.slurm.task {manifest_of(folder, number)}"


def send(wanted: Submission, store: Store, wish: Wish) -> Submission:
    """Write the manifests, then submit array by array; if one is refused, none stays in the queue."""
    (wanted.folder / "logs").mkdir(parents=True, exist_ok=True)
    common = {"store": str(store.root.resolve()), "plugins": registry.plugin_paths(), "retry": wish.settings.retry}
    ids: list[str] = []
    for number, array in enumerate(wanted.arrays):
        tasks = [[job.to_dict() for job in task] for task in array.tasks]
        write_atomically(manifest_of(wanted.folder, number), canonical({**common, "tasks": tasks}))
    try:
        for number, text in enumerate(wanted.scripts):
            ids.append(sbatch(text, wanted.folder, number))
    except UserError:
        subprocess.run(["scancel", *ids], check=False) if ids else None
        shutil.rmtree(wanted.folder)
        raise
    record = {"resources": asdict(wish.resources), "arrays": ids}
    write_atomically(wanted.folder / "submission.json", canonical(record))
    return replace(wanted, ids=ids)


def sbatch(text: str, folder: Path, number: int) -> str:
    """Submit a script; the array's job id. The environment is that of the user's shell, not that of a job."""
    file = folder / f"array-{number}.sh"
    write_atomically(file, text.encode())
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SLURM_", "SBATCH_")) or key == "SLURM_CONF"
    }
    done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True, check=False, env=clean)
    if done.returncode:
        raise UserError(
            f"sbatch refuses: {' '.join(done.stderr.split()).removeprefix('sbatch: error: ')}; nothing is submitted"
        )
    return done.stdout.strip().split(";")[0]


def queued(store: Store) -> set[str]:
    """The runs of earlier submissions that are still in the queue."""
    queue = in_queue()
    return {id for task in tasks(store) if task.id in queue for id in task.runs} if queue else set()
