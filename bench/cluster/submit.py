"""From a grid, or from what ended early, to what is sent: what is left to do, and what its tasks request."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from spurbench.bench.cluster.control import forget_hint
from spurbench.bench.cluster.launcher import Launcher
from spurbench.bench.cluster.resources import Resources, combine
from spurbench.bench.cluster.sending import ArrayOfJobs, SubmitOptions, send
from spurbench.bench.cluster.submissions import KINDS, named, read_manifest, submitting, tasks
from spurbench.bench.cluster.task_states import SILENT_SECONDS, TaskState, confirm_sent, count_ending, states_of_runs
from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.grid.cells import Grid
from spurbench.bench.jobs.job import Job
from spurbench.bench.launch.placement import GPU_HEIGHT, SMALL_HEIGHT, Layout
from spurbench.bench.launch.runner import Outstanding, Settings, arrange_jobs, find_outstanding
from spurbench.bench.plugins import registry
from spurbench.bench.provenance import edits
from spurbench.bench.records.record import Record
from spurbench.bench.store.store import Store

LOCAL_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # each node has its own


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
    unknown: dict[str, int] = field(default_factory=dict)  # of these, runs that may be in the queue, by the reason
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
    options: SubmitOptions,
    resources: Callable[[Mapping[str, Any]], Resources],
) -> Submission:
    """Send everything of the grid that is neither done nor in the queue; returns at once.

    `resources` gives what a task requests from what the grid says of a cell.
    Errors: UserError, for example if it is not known what is already in the queue.
    """
    check_folder(launcher, store.root, options)
    with submitting(store, not options.dry_run) as holds:
        states = known_states(store, options)
        here = {id for id, state in states.items() if state.state != "over"}
        now = find_outstanding(grid, store, settings, look_only=options.dry_run)
        searches = now.waiting & set(now.plan.draw_ids)
        wanted = (searches or now.waiting) - here
        if not options.dry_run:
            for name in sorted({one.run.dataset for one in now.planned if one.run.id in wanted}):
                registry.load_dataset(name)().prepare()
        jobs = {
            asked: [
                replace(job, options=replace(job.options, device=choose_device(settings, asked)))
                for job in arrange_jobs(now.planned, ids, choose_layout(settings, asked), settings)
            ]
            for asked, ids in group_by_resources(grid, now, wanted, here, resources).items()
        }
        options = replace(options, retry=settings.retry)
        sent = send(launcher, jobs, grid.name, store, options, partial(remove_stale_claims, store, states), holds)
    left_out = count_left_out(states, now.waiting & here)
    return Submission(
        launcher, **vars(sent), **left_out, searching=bool(searches), name=now.plan.grid, outdated=count_outdated(now)
    )


def count_outdated(now: Outstanding) -> dict[str, tuple[int, list[str]]]:
    """The files that were edited since runs of the grid were made, how many runs, and which of the files are code."""
    edits.clear_caches()
    found = now.outdated().items()
    return {files: (len(ids), edits.find_edited_plugins(now.records[ids[0]])) for files, ids in found}


def count_left_out(states: Mapping[str, TaskState], left_out: Iterable[str]) -> dict[str, Any]:
    """The counts of runs that are left out because a task has them."""
    found = [states[id] for id in left_out]
    unknown = Counter(state.why for state in found if state.state == "unknown")
    return {"queued": len(found), "ending": count_ending(found), "unknown": dict(unknown)}


def group_by_resources(
    grid: Grid, now: Outstanding, wanted: set[str], here: set[str], resources: Callable[[Mapping[str, Any]], Resources]
) -> dict[Resources, set[str]]:
    """The wanted runs, and those that they start from, by what their tasks request; without any that are `here` queued.

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
    store: Store,
    patterns: Sequence[str],
    failures: bool,
    options: SubmitOptions,
    mem: str | None = None,
    time: str | None = None,
) -> Submission:
    """Send again what ended before it was done, and with `failures` what failed by itself.

    Each run requests what it requested last time, with other memory and time if given.
    Errors: UserError, also for runs that several launchers had.
    """
    meant = named(list(tasks(store)), patterns)
    if not meant:
        raise UserError(f"nothing was submitted for {store.root}")
    names = {task.array.launcher for task in meant}
    if len(names) > 1:
        raise UserError(f"these were submitted by {' and '.join(sorted(names))}: name the cells of one of them")
    launcher = meant[0].launcher
    check_folder(launcher, store.root, options)
    with submitting(store, not options.dry_run) as holds:
        states, meant = known_states(store, options), named(list(tasks(store)), patterns)
        here = {id for id, state in states.items() if state.state != "over"}
        last = {run.id: (job, task) for task in meant for job in task.jobs for run in job.runs}
        ends = {id: how_ended(store.record(id)) for id in last.keys() - here}
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
        options = replace(options, retry=True)
        sent = send(launcher, groups, "retry", store, options, partial(remove_stale_claims, store, states), holds)
        return Submission(launcher, **vars(sent), left=left, **count_left_out(states, last.keys() & here))


def how_ended(record: Record | None) -> str:
    """How a submitted run that is no longer in the queue ended: `done`, by `itself` or from `outside`.

    Lack of memory counts as from outside: another try with more of it may succeed.
    """
    if record is None or (record.cause and record.cause.kind in KINDS):
        return "outside"
    return "done" if record.status == "done" else "itself"


def check_folder(launcher: Launcher, root: Path, options: SubmitOptions) -> None:
    """Check a store's folder before anything is written, even the store itself."""
    place = root.resolve()
    launcher.check(place, options.dry_run)
    if not options.node_local and any(place.is_relative_to(folder) for folder in LOCAL_FOLDERS):
        raise UserError(f"{root} is in a folder that other nodes do not share: choose a shared one with --store")


def choose_device(settings: Settings, resources: Resources) -> str:
    gpus = resources.gpu_count
    if settings.device not in ("auto", "cpu", "cuda"):
        raise unknown("device", settings.device, ("auto", "cpu", "cuda"))
    if settings.device == "cuda" and not gpus:
        raise UserError("--device cuda: the tasks request no GPU; see --gpus")
    return ("cuda" if gpus else "cpu") if settings.device == "auto" else settings.device


def choose_layout(settings: Settings, resources: Resources) -> Layout:
    """How the runs of a cell share tasks: as on one machine with one such process."""
    where = choose_device(settings, resources)
    return Layout((where,), SMALL_HEIGHT if where == "cpu" else GPU_HEIGHT, resources.cpus)


def known_states(store: Store, options: SubmitOptions) -> dict[str, TaskState]:
    """The states of the tasks that earlier submissions have for unfinished runs, by run id; see `states_of_runs`.

    Errors: UserError if it is not known what became of an interrupted submission.
    """
    if why := confirm_sent(store, give_up=not options.dry_run):
        what = f"whether the tasks of a submission that was interrupted are in the queue is not known: {why}"
        raise UserError(f"{what}; {forget_hint(store)}")
    states, until = states_of_runs(store, tasks(store)), time.monotonic() + 1.2 * SILENT_SECONDS
    while time.monotonic() < until and any(s.state == "unknown" and s.task.moved is not None for s in states.values()):
        time.sleep(0.5)  # the store was just moved, or has another path here
        states = states_of_runs(store, tasks(store), recent=True)
    return states


def remove_stale_claims(store: Store, states: Mapping[str, TaskState]) -> None:
    """Remove the claims that tasks left behind when they ended."""
    for id, held in store.claims.living().items():
        if id in states and states[id].state == "over" and held["task"]:
            store.claims.remove(id)
