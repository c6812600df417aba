"""From a grid to arrays in the queue: arrange what is still to be done, write manifests, sbatch, write that down."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spurbench.bench import catalogue, registry
from spurbench.bench.errors import UserError
from spurbench.bench.files import write_atomically
from spurbench.bench.grid import Grid
from spurbench.bench.job import Job
from spurbench.bench.layout import GPU_HEIGHT, SMALL_HEIGHT, Layout
from spurbench.bench.record import OUTSIDE, Record, canonical, fingerprint
from spurbench.bench.runner import Settings, arranged, draws, outstanding
from spurbench.bench.store import Store
from spurbench.slurm import snapshot
from spurbench.slurm.arrays import Array, Resources, plan
from spurbench.slurm.profiles import resources as resources_from
from spurbench.slurm.queue import ask, in_queue, manifest_of, named, read_manifest, tasks

PERCENT = "the.percent.sign"  # what stands for it in a path until submitit has put its own patterns in
LOCAL_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # a compute node sees others of these names


@dataclass(frozen=True)
class Wish:
    """How the user wants to submit, whatever it is."""

    jobs_per_task: int = 1
    max_parallel: int | None = None
    dry_run: bool = False
    node_local: bool = False  # the store may lie in a folder of this node
    snapshot: bool = True  # run a copy of the code as it is now
    retry: bool = False  # do failed runs again


@dataclass(frozen=True)
class Submission:
    """What was sent, or would be: the arrays, their scripts and, once sent, their job ids."""

    folder: Path
    arrays: list[Array]
    scripts: list[str]
    ids: list[str]
    queued: int = 0  # runs left out because an earlier submission has them
    searching: bool = False
    beyond: int = 0  # jobs left out because the cluster takes no more now
    left: int = 0  # runs left out because they failed by themselves

    @property
    def runs(self) -> int:
        return sum(len(job.runs) for array in self.arrays for task in array.tasks for job in task)


def submit(
    grid: Grid, store: Store, settings: Settings, wish: Wish, resources: Callable[[Mapping[str, Any]], Resources]
) -> Submission:
    """Send everything of the grid that is neither done nor in the queue; returns at once.

    `resources` makes what a task asks for of what the grid says of a cell.
    """
    check(store, wish)
    state, planned, waiting = outstanding(grid, store, settings, look_only=wish.dry_run)
    here = queued(store)
    searches = waiting & draws(state)
    wanted = (searches or waiting) - here
    if not wish.dry_run:
        for name in sorted({run.dataset for run, _ in planned if run.id in wanted}):
            catalogue.prepare(name)
    groups: dict[Resources, set[str]] = {}
    for cell, row in zip(grid.cells, state["cells"], strict=True):
        parts = [*(row["search"] or {"draws": []})["draws"], row]
        ids = {id for part in parts for id in part["ids"]} & wanted
        wanted -= ids  # a run that two cells share goes with the first
        if ids:
            groups.setdefault(resources(cell.resources), set()).update(ids)
    jobs = {
        asked: [
            replace(job, options=replace(job.options, device=device(settings, asked)))
            for job in arranged(planned, ids, layout(settings, asked), settings)
        ]
        for asked, ids in groups.items()
    }
    sent = send(jobs, grid.name, store, replace(wish, retry=settings.retry))
    return replace(sent, queued=len(waiting & here), searching=bool(searches))


def again(
    store: Store, patterns: Sequence[str], failures: bool, wish: Wish, change: Callable[[Resources], Resources]
) -> Submission:
    """Send once more what ended before it was done, and with `failures` what failed by itself.

    Each run asks for what it asked for last time, changed by `change`.
    """
    check(store, wish)
    last = {run.id: (job, task) for task in named(store, patterns) for job in task.jobs for run in job.runs}
    if not last:
        raise UserError(f"nothing was submitted for {store.root}")
    fates = {id: fate(store.record(id)) for id in last.keys() - queued(store)}
    ids = {id for id, ended in fates.items() if ended == "outside" or (failures and ended == "itself")}
    groups: dict[Resources, list[Job]] = {}
    for job, task in {job.name: (job, task) for job, task in (last[id] for id in sorted(ids))}.values():
        manifest = read_manifest(task.folder, task.array)
        for path in manifest["plugins"]:
            registry.add_plugin(path)
        runs = [run for run in job.runs if run.id in ids and last[run.id][0] is job]
        asked = change(resources_from((f"{task.folder}", manifest["resources"])))
        groups.setdefault(asked, []).append(replace(job, runs=runs))
    left = sum(ended == "itself" and id not in ids for id, ended in fates.items())
    return replace(send(groups, "retry", store, replace(wish, retry=True)), left=left)


def fate(record: Record | None) -> str:
    """How a submitted run that is no longer in the queue ended: `done`, by `itself` or from `outside`.

    Lack of memory counts as from outside: another try with more of it may do.
    """
    if record is None or (record["cause"] or {}).get("kind") in OUTSIDE | {"out_of_memory"}:
        return "outside"
    return "done" if record["status"] == "done" else "itself"


def check(store: Store, wish: Wish) -> None:
    """What must hold before anything is written."""
    if not wish.dry_run and shutil.which("sbatch") is None:
        raise UserError("no sbatch here: submit from a node of the cluster, or try slurm/local_cluster.sh")
    if "\\" in str(store.root.resolve()) or "\n" in str(store.root.resolve()):
        raise UserError(
            f"sbatch takes no path with a backslash or a line break, as {store.root} has: name another store"
        )
    if not wish.node_local and any(store.root.resolve().is_relative_to(folder) for folder in LOCAL_FOLDERS):
        raise UserError(f"{store.root} lies in a folder that other nodes do not share: name one they do, with --store")


def device(settings: Settings, resources: Resources) -> str:
    return ("cuda" if resources.gpus else "cpu") if settings.device == "auto" else settings.device


def layout(settings: Settings, resources: Resources) -> Layout:
    """How the runs of a cell share tasks: as on one machine with one such process."""
    where = device(settings, resources)
    return Layout((where,), SMALL_HEIGHT if where == "cpu" else GPU_HEIGHT, resources.cpus)


def queued(store: Store) -> set[str]:
    """The runs of earlier submissions that a task in the queue still has to do."""
    submitted = list(tasks(store))
    queue = in_queue() if submitted else {}
    return {id for task in submitted if task.id in queue and not task.end for id in task.runs}


# ---- what the cluster allows ----------------------------------------------------------------------------------------


def largest_array() -> int:
    """How many tasks the cluster allows in an array; SLURM's default where it does not say."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "", re.M)
    return max(1, int(match[1]) - 1) if match else 1000


def room() -> int | None:
    """How many more tasks this user may have in the queue; None where the cluster sets no limit or does not say."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # not in the list of users, as in many a container
        user = str(os.getuid())
    said = ask("sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={user}", "format=MaxSubmitJobs")
    limits = [int(line) for line in (said or "").split() if line.isdigit()]
    return max(0, min(limits) - len(in_queue())) if limits else None


def fitting(groups: Mapping[Resources, Sequence[Job]], tasks: int, jobs_per_task: int) -> dict[Resources, list[Job]]:
    """The first jobs that fit in so many tasks, group by group."""
    found: dict[Resources, list[Job]] = {}
    for asked, jobs in groups.items():
        if tasks:
            found[asked] = list(jobs[: tasks * jobs_per_task])
            tasks -= -(-len(found[asked]) // jobs_per_task)
    return found


# ---- sending --------------------------------------------------------------------------------------------------------


def send(groups: Mapping[Resources, Sequence[Job]], name: str, store: Store, wish: Wish) -> Submission:
    """Plan the arrays, write their manifests and submit them; if one is refused, none stays in the queue."""
    free = room()
    fit = groups if free is None else fitting(groups, free, wish.jobs_per_task)
    beyond = sum(map(len, groups.values())) - sum(map(len, fit.values()))
    arrays = plan(fit, wish.jobs_per_task, largest_array(), wish.max_parallel)
    ids = [run.id for jobs in fit.values() for job in jobs for run in job.runs]
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = store.root.resolve() / "slurm" / f"{stamp}-{fingerprint(sorted(ids))[:6]}"
    given = registry.plugin_paths()
    code, plugins = None, given
    if wish.snapshot and arrays:
        code, plugins = snapshot.take(store.root, given) if not wish.dry_run else (Path("CODE"), given)
    scripts = [
        script(array, folder, i, f"{name}-{i}" if len(arrays) > 1 else name, code) for i, array in enumerate(arrays)
    ]
    sent = Submission(folder, arrays, scripts, [], beyond=beyond)
    if wish.dry_run or not arrays:
        return sent
    common = {"store": str(store.root.resolve()), "plugins": given, "copies": plugins, "retry": wish.retry}
    for i, array in enumerate(arrays):
        tasks = [[job.to_dict() for job in task] for task in array.tasks]
        content = {**common, "resources": asdict(array.resources), "tasks": tasks}
        write_atomically(manifest_of(folder, i), canonical(content))
    release(store, set(ids))
    return replace(sent, ids=sbatch_all(sent))


def release(store: Store, ids: set[str]) -> None:
    """Take away the claims that tasks which are no longer in the queue left behind on these runs."""
    queue = set((ask("squeue", "--me", "--noheader", "--array", "--format=%A") or "").split())
    for id, held in store.claims.living().items():
        if id in ids and held["task"] and held["task"] not in queue:
            store.claims.remove(id)


def script(array: Array, folder: Path, number: int, name: str, code: Path | None) -> str:
    """The text that sbatch gets."""
    made = executor(array, folder, name, code)
    text: str = made._make_submission_file_text(command(array, folder, number), "spurbench")
    return text.replace(PERCENT, "%%")


def executor(array: Array, folder: Path, name: str, code: Path | None) -> Any:
    """submitit's, which words the options and speaks with sbatch; its pickles are not used."""
    import submitit

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # a dry run needs no cluster

    made = Executor(Path(str(folder).replace("%", PERCENT)) / "logs")
    parameters = array.resources.parameters(name, array.parallel)
    if code is not None:
        path = f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        parameters["setup"] = [*parameters.get("setup", []), path]
    made.update_parameters(**parameters)
    made.update_parameters(wckey=None)
    made.parameters["map_count"] = len(array.tasks)
    return made


def command(array: Array, folder: Path, number: int) -> str:
    """Without srun the shell is replaced by Python, so that SLURM's signals reach it."""
    words = [sys.executable, "-P", "-m", "spurbench.slurm.task", str(manifest_of(folder, number))]
    return f"{'' if array.resources.srun else 'exec '}{shlex.join(words)}"


def sbatch_all(sent: Submission) -> list[str]:
    """Submit every array; their job ids. What is refused leaves nothing behind."""
    (sent.folder / "logs").mkdir(parents=True, exist_ok=True)
    ids: list[str] = []
    try:
        for number, text in enumerate(sent.scripts):
            ids.append(sbatch(text, sent.folder / f"array-{number}.sh"))
    except UserError:
        subprocess.run(["scancel", *ids], check=False) if ids else None
        shutil.rmtree(sent.folder)
        raise
    write_atomically(sent.folder / "submission.json", canonical({"arrays": ids}))
    return ids


def sbatch(text: str, file: Path) -> str:
    """Submit a script; the array's job id. The environment is that of the user's shell, not that of a job."""
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
