"""From a grid, or from what ended too early, to what is to be sent: what is left to do, and what its tasks ask for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from spurbench.bench.cluster.control import way_out
from spurbench.bench.cluster.launcher import Launcher
from spurbench.bench.cluster.resources import Resources, combine
from spurbench.bench.cluster.sending import ArrayOfJobs, Wish, send
from spurbench.bench.cluster.submissions import KINDS, named, read_manifest, submitting, tasks
from spurbench.bench.cluster.task_states import SILENT, TaskState, count_ending, settle, states_of_runs
from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.grid.cells import Grid
from spurbench.bench.jobs.job import Job
from spurbench.bench.launch.placement import GPU_HEIGHT, SMALL_HEIGHT, Layout
from spurbench.bench.launch.runner import Outstanding, Settings, arrange_jobs, find_outstanding
from spurbench.bench.plugins import registry
from spurbench.bench.provenance import edits
from spurbench.bench.records.record import Record
from spurbench.bench.store.store import Store

LOCAL_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # a compute node sees others of these names


@dataclass(frozen=True)
class Submission:
    """What was sent, or would be, and what was left out."""

    launcher: Launcher
    arrays: list[ArrayOfJobs]
    scripts: list[str]
    ids: list[str]  # of the arrays, once they were sent
    beyond: int = 0  # jobs left out because the cluster takes no more now
    queued: int = 0  # runs left out because an earlier submission has them
    ending: int = 0  # of these, runs of tasks that were cancelled and have not ended yet
    unknown: dict[str, int] = field(default_factory=dict)  # of these, by why, runs that may be in the queue
    searching: bool = False
    left: int = 0  # runs left out because they failed by themselves
    name: str = ""  # of the grid's plan in the store
    outdated: dict[str, tuple[int, list[str]]] = field(
        default_factory=dict
    )  # names of edited files → how many runs were made before that, and which of the files are code

    @property
    def runs(self) -> int:
        return sum(len(job.runs) for array in self.arrays for task in array.tasks for job in task)


def submit(
    launcher: Launcher,
    grid: Grid,
    store: Store,
    settings: Settings,
    wish: Wish,
    resources: Callable[[Mapping[str, Any]], Resources],
) -> Submission:
    """Send everything of the grid that is neither done nor in the queue; returns at once.

    `resources` makes what a task asks for of what the grid says of a cell.
    Errors: UserError, among others if it is not told what is in the queue already.
    """
    check(launcher, store.root, wish)
    with submitting(store, not wish.dry_run) as holds:
        states = known_states(store, wish)
        here = {id for id, state in states.items() if state.state != "over"}
        now = find_outstanding(grid, store, settings, look_only=wish.dry_run)
        searches = now.waiting & set(now.plan.draw_ids)
        wanted = (searches or now.waiting) - here
        if not wish.dry_run:
            for name in sorted({one.run.dataset for one in now.planned if one.run.id in wanted}):
                registry.load_dataset(name)().prepare()
        jobs = {
            asked: [
                replace(job, options=replace(job.options, device=device(settings, asked)))
                for job in arrange_jobs(now.planned, ids, layout(settings, asked), settings)
            ]
            for asked, ids in by_resources(grid, now, wanted, here, resources).items()
        }
        wish = replace(wish, retry=settings.retry)
        sent = send(launcher, jobs, grid.name, store, wish, partial(release, store, states), holds)
    left_out = count_left_out(states, now.waiting & here)
    return Submission(
        launcher, **vars(sent), **left_out, searching=bool(searches), name=now.plan.grid, outdated=outdated(now)
    )


def outdated(now: Outstanding) -> dict[str, tuple[int, list[str]]]:
    """The files that were edited since runs of the grid were made, how many runs, and which of the files are code."""
    edits.clear_caches()
    found = now.outdated().items()
    return {files: (len(ids), edits.find_edited_plugins(now.records[ids[0]])) for files, ids in found}


def count_left_out(states: Mapping[str, TaskState], left_out: Iterable[str]) -> dict[str, Any]:
    """What is said of the runs that are left out because a task has them."""
    found = [states[id] for id in left_out]
    unknown = Counter(state.why for state in found if state.state == "unknown")
    return {"queued": len(found), "ending": count_ending(found), "unknown": dict(unknown)}


def by_resources(
    grid: Grid, now: Outstanding, wanted: set[str], here: set[str], resources: Callable[[Mapping[str, Any]], Resources]
) -> dict[Resources, set[str]]:
    """The wanted runs by what their tasks ask for, with those that they start from; without any that are `here` queued.

    A run that two cells share goes with the first.
    """
    groups: dict[Resources, set[str]] = {}
    left = now.needed(wanted) - here
    for cell, row in zip(grid.cells, now.plan.cells, strict=True):
        own = {*row.draw_ids, *row.ids}
        ids = (now.needed(own & wanted) | own) & left
        left -= ids
        if ids:
            groups.setdefault(resources(cell.resources), set()).update(ids)
    return groups


def resubmit(
    store: Store, patterns: Sequence[str], failures: bool, wish: Wish, mem: str | None = None, time: str | None = None
) -> Submission:
    """Send once more what ended before it was done, and with `failures` what failed by itself.

    Each run asks for what it asked for last time, with other memory and time.
    Errors: UserError, also for runs that several launchers had.
    """
    meant = named(list(tasks(store)), patterns)
    if not meant:
        raise UserError(f"nothing was submitted for {store.root}")
    names = {task.array.launcher for task in meant}
    if len(names) > 1:
        raise UserError(f"these were submitted by {' and '.join(sorted(names))}: name the cells of one of them")
    launcher = meant[0].launcher
    check(launcher, store.root, wish)
    with submitting(store, not wish.dry_run) as holds:
        states, meant = known_states(store, wish), named(list(tasks(store)), patterns)
        here = {id for id, state in states.items() if state.state != "over"}
        last = {run.id: (job, task) for task in meant for job in task.jobs for run in job.runs}
        ends = {id: ended_by(store.record(id)) for id in last.keys() - here}
        ids = {id for id, by in ends.items() if by == "outside" or (failures and by == "itself")}
        groups: dict[Resources, list[Job]] = {}
        for job, task in {job.name: (job, task) for job, task in (last[id] for id in sorted(ids))}.values():
            manifest = read_manifest(task.array)
            for path in manifest.get("plugins", ()):
                registry.add_plugin(path)
            runs = [run for run in job.runs if run.id in ids and last[run.id][0] is job]
            before = combine(launcher.resources, (f"{task.array.folder}", manifest.get("resources", {})))
            groups.setdefault(before.changed(mem, time), []).append(replace(job, runs=runs))
        left = sum(by == "itself" and id not in ids for id, by in ends.items())
        wish = replace(wish, retry=True)
        sent = send(launcher, groups, "retry", store, wish, partial(release, store, states), holds)
        return Submission(launcher, **vars(sent), left=left, **count_left_out(states, last.keys() & here))


def ended_by(record: Record | None) -> str:
    """How a submitted run that is no longer in the queue ended: `done`, by `itself` or from `outside`.

    Lack of memory counts as from outside: another try with more of it may do.
    """
    if record is None or (record.cause and record.cause.kind in KINDS):
        return "outside"
    return "done" if record.status == "done" else "itself"


def check(launcher: Launcher, root: Path, wish: Wish) -> None:
    """What must hold of a store's folder before anything is written, the store itself included."""
    place = root.resolve()
    launcher.check(place, wish.dry_run)
    if not wish.node_local and any(place.is_relative_to(folder) for folder in LOCAL_FOLDERS):
        raise UserError(f"{root} lies in a folder that other nodes do not share: name one they do, with --store")


def device(settings: Settings, resources: Resources) -> str:
    gpus = resources.gpu_count
    if settings.device not in ("auto", "cpu", "cuda"):
        raise unknown("device", settings.device, ("auto", "cpu", "cuda"))
    if settings.device == "cuda" and not gpus:
        raise UserError("--device cuda: the tasks ask for no GPU; see --gpus")
    return ("cuda" if gpus else "cpu") if settings.device == "auto" else settings.device


def layout(settings: Settings, resources: Resources) -> Layout:
    """How the runs of a cell share tasks: as on one machine with one such process."""
    where = device(settings, resources)
    return Layout((where,), SMALL_HEIGHT if where == "cpu" else GPU_HEIGHT, resources.cpus)


def known_states(store: Store, wish: Wish) -> dict[str, TaskState]:
    """How the tasks of earlier submissions stand of which runs are not done, by run id; see `states_of_runs`.

    Errors: UserError if it is not told what became of a submission that was interrupted.
    """
    if why := settle(store, give_up=not wish.dry_run):
        what = f"whether the tasks of a submission that was interrupted are in the queue is not known: {why}"
        raise UserError(f"{what}; {way_out(store)}")
    states, until = states_of_runs(store, tasks(store)), time.monotonic() + 1.2 * SILENT
    while time.monotonic() < until and any(s.state == "unknown" and s.task.moved is not None for s in states.values()):
        time.sleep(0.5)  # the store was moved a moment ago, or is here under another name
        states = states_of_runs(store, tasks(store), recent=True)
    return states


def release(store: Store, states: Mapping[str, TaskState]) -> None:
    """Take away the claims that tasks left behind when they ended."""
    for id, held in store.claims.living().items():
        if id in states and states[id].state == "over" and held["task"]:
            store.claims.remove(id)
