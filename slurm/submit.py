"""From a grid to arrays in the queue: arrange what is left to do, write down what is meant, sbatch, note the ids."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.grid.cells import Grid
from spurbench.bench.jobs.job import Job
from spurbench.bench.launch import snapshot
from spurbench.bench.launch.placement import GPU_HEIGHT, SMALL_HEIGHT, Layout
from spurbench.bench.launch.runner import Outstanding, Settings, arrange_jobs, find_outstanding
from spurbench.bench.plugins import dataset_files, registry
from spurbench.bench.provenance import edits
from spurbench.bench.records.plan import Plan
from spurbench.bench.records.record import Record
from spurbench.bench.store.store import Store
from spurbench.slurm import limits, submissions
from spurbench.slurm.arrays import Array, Resources, gpus_asked, plan
from spurbench.slurm.notes import KINDS
from spurbench.slurm.profiles import resources as resources_from
from spurbench.slurm.queue import SILENT, Fate, ending, last_fates, settle, way_out
from spurbench.slurm.sending import OVERTAKEN, sbatch_all, script
from spurbench.slurm.submissions import named, read_manifest, submitting, tasks

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

    arrays: list[Array]
    scripts: list[str]
    ids: list[str]
    queued: int = 0  # runs left out because an earlier submission has them
    ending: int = 0  # of these, runs of tasks that were cancelled and have not ended yet
    unknown: dict[str, int] = field(
        default_factory=dict
    )  # of these, runs that may be in the queue, by why that is open
    searching: bool = False
    beyond: int = 0  # jobs left out because the cluster takes no more now
    left: int = 0  # runs left out because they failed by themselves
    name: str = ""  # of the grid's plan in the store
    outdated: dict[str, tuple[int, list[str]]] = field(
        default_factory=dict
    )  # names of edited files → how many runs were made before that, and which of the files are code

    @property
    def runs(self) -> int:
        return sum(len(job.runs) for array in self.arrays for task in array.tasks for job in task)


def submit(
    grid: Grid, store: Store, settings: Settings, wish: Wish, resources: Callable[[Mapping[str, Any]], Resources]
) -> Submission:
    """Send everything of the grid that is neither done nor in the queue; returns at once.

    `resources` makes what a task asks for of what the grid says of a cell.
    Errors: UserError, among others if SLURM does not say what is in the queue already.
    """
    check(store.root, wish)
    with submitting(store, not wish.dry_run) as holds:
        fates = known_fates(store, wish)
        here = {id for id, fate in fates.items() if fate.state != "over"}
        now = find_outstanding(grid, store, settings, look_only=wish.dry_run)
        searches = now.waiting & set(now.plan.draw_ids)
        wanted = (searches or now.waiting) - here
        if not wish.dry_run:
            for name in sorted({run.dataset for run, _ in now.planned if run.id in wanted}):
                dataset_files.prepare(name)
        jobs = {
            asked: [
                replace(job, options=replace(job.options, device=device(settings, asked)))
                for job in arrange_jobs(now.planned, ids, layout(settings, asked), settings)
            ]
            for asked, ids in by_resources(grid, now.plan, wanted, resources).items()
        }
        sent = send(jobs, grid.name, store, replace(wish, retry=settings.retry), fates, holds)
    left_out = now.waiting & here
    return replace(
        sent, **counted(fates, left_out), searching=bool(searches), name=now.plan.grid, outdated=outdated(now)
    )


def outdated(now: Outstanding) -> dict[str, tuple[int, list[str]]]:
    """The files that were edited since runs of the grid were made, how many runs, and which of the files are code."""
    edits.look_again()
    found = now.outdated().items()
    return {files: (len(ids), edits.find_edited_plugins(now.records[ids[0]])) for files, ids in found}


def counted(fates: Mapping[str, Fate], left_out: Iterable[str]) -> dict[str, Any]:
    """What is told of the runs that are left out because a task has them."""
    found = [fates[id] for id in left_out]
    unknown = Counter(fate.why for fate in found if fate.state == "unknown")
    return {"queued": len(found), "ending": ending(found), "unknown": dict(unknown)}


def by_resources(
    grid: Grid, state: Plan, wanted: set[str], resources: Callable[[Mapping[str, Any]], Resources]
) -> dict[Resources, set[str]]:
    """The wanted runs by what their tasks ask for; one that two cells share goes with the first."""
    groups: dict[Resources, set[str]] = {}
    left = set(wanted)
    for cell, row in zip(grid.cells, state.cells, strict=True):
        ids = {*row.draw_ids, *row.ids} & left
        left -= ids
        if ids:
            groups.setdefault(resources(cell.resources), set()).update(ids)
    return groups


def again(
    store: Store, patterns: Sequence[str], failures: bool, wish: Wish, change: Callable[[Resources], Resources]
) -> Submission:
    """Send once more what ended before it was done, and with `failures` what failed by itself.

    Each run asks for what it asked for last time, changed by `change`.
    """
    check(store.root, wish)
    with submitting(store, not wish.dry_run) as holds:
        now, every = known_fates(store, wish), list(tasks(store))
        here = {id for id, fate in now.items() if fate.state != "over"}
        last = {run.id: (job, task) for task in named(every, patterns) for job in task.jobs for run in job.runs}
        if not last:
            raise UserError(f"nothing was submitted for {store.root}")
        fates = {id: fate(store.record(id)) for id in last.keys() - here}
        ids = {id for id, ended in fates.items() if ended == "outside" or (failures and ended == "itself")}
        groups: dict[Resources, list[Job]] = {}
        for job, task in {job.name: (job, task) for job, task in (last[id] for id in sorted(ids))}.values():
            manifest = read_manifest(task.array)
            for path in manifest.get("plugins", ()):
                registry.add_plugin(path)
            runs = [run for run in job.runs if run.id in ids and last[run.id][0] is job]
            asked = change(resources_from((f"{task.array.folder}", manifest.get("resources", {}))))
            groups.setdefault(asked, []).append(replace(job, runs=runs))
        left = sum(ended == "itself" and id not in ids for id, ended in fates.items())
        sent = send(groups, "retry", store, replace(wish, retry=True), now, holds)
        left_out = last.keys() & here
        return replace(sent, left=left, **counted(now, left_out))


def fate(record: Record | None) -> str:
    """How a submitted run that is no longer in the queue ended: `done`, by `itself` or from `outside`.

    Lack of memory counts as from outside: another try with more of it may do.
    """
    if record is None or (record.cause and record.cause.kind in KINDS):
        return "outside"
    return "done" if record.status == "done" else "itself"


def check(root: Path, wish: Wish) -> None:
    """What must hold of a store's folder before anything is written, the store itself included."""
    place = root.resolve()
    if not wish.dry_run and shutil.which("sbatch") is None:
        raise UserError("no sbatch here: submit from a node of the cluster, or try slurm/local_cluster.sh")
    if "\\" in str(place) or "\n" in str(place):
        raise UserError(f"sbatch takes no path with a backslash or a line break, as {root} has: name another store")
    if not wish.node_local and any(place.is_relative_to(folder) for folder in LOCAL_FOLDERS):
        raise UserError(f"{root} lies in a folder that other nodes do not share: name one they do, with --store")


def device(settings: Settings, resources: Resources) -> str:
    gpus = gpus_asked(resources.gpus)[1]
    if settings.device not in ("auto", "cpu", "cuda"):
        raise unknown("device", settings.device, ("auto", "cpu", "cuda"))
    if settings.device == "cuda" and not gpus:
        raise UserError("--device cuda: the tasks ask for no GPU; see --gpus")
    return ("cuda" if gpus else "cpu") if settings.device == "auto" else settings.device


def layout(settings: Settings, resources: Resources) -> Layout:
    """How the runs of a cell share tasks: as on one machine with one such process."""
    where = device(settings, resources)
    return Layout((where,), SMALL_HEIGHT if where == "cpu" else GPU_HEIGHT, resources.cpus)


def known_fates(store: Store, wish: Wish) -> dict[str, Fate]:
    """How the tasks of earlier submissions stand of which runs are not done, by run id; see `last_fates`.

    Errors: UserError if SLURM does not tell what became of a submission that was interrupted.
    """
    if why := settle(store, give_up=not wish.dry_run):
        told = f"whether SLURM has the tasks of a submission that was interrupted is not known: {why}"
        raise UserError(f"{told}; {way_out(store)}")
    fates, until = last_fates(store, tasks(store)), time.monotonic() + 1.2 * SILENT
    while time.monotonic() < until and any(f.state == "unknown" and f.task.moved is not None for f in fates.values()):
        time.sleep(0.5)  # the store was moved a moment ago, or is here under another name
        fates = last_fates(store, tasks(store), recent=True)
    return fates


# ---- sending --------------------------------------------------------------------------------------------------------


def send(
    groups: Mapping[Resources, Sequence[Job]],
    name: str,
    store: Store,
    wish: Wish,
    before: Mapping[str, Fate],
    holds: Callable[[], bool],
) -> Submission:
    """Plan the arrays, write down what they are and submit them; what was sent stays sent if another is refused.

    `holds` tells whether it is this submission's turn still.
    """
    fit = limits.fitting(groups, wish.jobs_per_task)
    beyond = sum(map(len, groups.values())) - sum(map(len, fit.values()))
    arrays = plan(fit, wish.jobs_per_task, limits.largest_array(), wish.max_parallel)
    given = registry.plugin_paths()
    code, plugins = None, given
    if wish.snapshot and arrays:
        code, plugins = snapshot.take(store.root, given) if not wish.dry_run else (Path("CODE"), given)
    common = {"store": str(store.root.resolve()), "plugins": given, "copies": plugins, "retry": wish.retry}
    folder = submissions.new_folder(store)
    meant = [submissions.Array(folder, number) for number in range(len(arrays))]
    scripts = [script(array, one, name, code) for array, one in zip(arrays, meant, strict=True)]
    sent = Submission(arrays, scripts, [], beyond=beyond)
    if wish.dry_run or not arrays:
        return sent
    manifests = [
        {**common, "resources": asdict(array.resources), "tasks": [[job.to_dict() for job in t] for t in array.tasks]}
        for array in arrays
    ]
    if not holds():
        raise UserError(OVERTAKEN)
    meant = submissions.write_intent(folder, manifests)
    release(store, before)
    return replace(sent, ids=sbatch_all(meant, scripts, holds))


def release(store: Store, fates: Mapping[str, Fate]) -> None:
    """Take away the claims that tasks left behind when they ended."""
    for id, held in store.claims.living().items():
        if id in fates and fates[id].state == "over" and held["task"]:
            store.claims.remove(id)
