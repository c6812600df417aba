"""The states of submitted tasks and their runs: what was recorded, joined with what the batch system reports.

An end is recorded once it is known, and removed if the task is in the queue again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf

from spurbench.bench.cluster.arrays import VOID, Key
from spurbench.bench.cluster.launcher import Answers, Launcher, find_launcher
from spurbench.bench.cluster.submissions import (
    Task,
    arrays_of,
    jobs_to_do,
    submission_files,
    submitting_now,
    tasks_of,
    write_ends,
)
from spurbench.bench.core.errors import UserError
from spurbench.bench.records.record import Summary, is_settled
from spurbench.bench.store.store import Store

CANCELLED = ("cancelled", "by `spurbench cancel`")
SILENT_SECONDS = 25.0  # seconds without a sign of life after which there will be none; they come every ten
RECENT_SECONDS = 60.0  # seconds for which a repeatedly looking command reuses an answer


@dataclass(frozen=True)
class TaskState:
    """The state of a task: `queued`, `running`, `over` or `unknown`, and why."""

    task: Task
    state: str
    why: str = ""
    forgotten: bool = False  # it is over because nothing is known of it, not because its end is known

    @property
    def live(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def rank(self) -> int:
        """Of several tasks of a run, the one with the highest rank determines the run's state."""
        return 2 if self.live else int(self.state == "unknown")

    @property
    def redoes(self) -> bool:
        """Whether it may repeat a failed run: a queued task may have been requeued by hand for that."""
        return self.state == "queued" or (self.task.redoes and self.state != "over")


# ---- tasks ----------------------------------------------------------------------------------------------------------

_recent: dict[str, Answers] = {}  # by launcher


def find_states(
    every: Sequence[Task], recent: bool = False, open_: Container[Key] | None = None
) -> dict[Key, TaskState]:
    """The states of tasks. `recent`: an answer from the last minute will do; the causes of ends are only asked for
    tasks in `open_`.

    Known ends are recorded beside the submissions.
    """
    found: dict[Key, TaskState] = {}
    for name in dict.fromkeys(task.array.launcher for task in every):
        part = [task for task in every if task.array.launcher == name]
        answers = ask(find_launcher(name), part, recent, open_)
        found |= {task.key: state_of(task, answers) for task in part}
    write_ends(found[task.key].task for task in every if found[task.key].task.end != task.end)
    return found


def ask(launcher: Launcher, every: Sequence[Task], recent: bool, open_: Container[Key] | None) -> Answers:
    """What a batch system reports of its tasks; see `find_states`."""
    wanted = {task.array.token: task.array for task in every if task.array.id}
    answers = _recent.get(launcher.name, Answers())
    if not recent or wanted.keys() - answers.arrays.keys() or time.monotonic() - answers.since > RECENT_SECONDS:
        answers = _recent[launcher.name] = launcher.ask(wanted.values())
        asked = [task for task in every if open_ is None or task.key in open_]
        lacking = {
            t.array.token: t.array for t in asked if t.end in (None, CANCELLED) and needs_explanation(t, answers)
        }
        for place, said in launcher.explain(lacking.values()).items():
            before = answers.tasks.get(place)
            if before is None or before.end:
                answers.tasks[place] = said
    return answers


def forget_answers() -> None:
    """Ask anew next time: the queue has just been changed."""
    _recent.clear()


def needs_explanation(task: Task, answers: Answers) -> bool:
    said = answers.of(task.key)
    return task.array.token not in answers.unknown and (said is None or said.end is not None)


def state_of(task: Task, answers: Answers) -> TaskState:
    """The state of a task, with its end if that is known."""
    said = answers.of(task.key)
    if said and said.end is None:
        kept = task if task.end == CANCELLED else replace(task, end=None)
        ending = ", and is to end" if kept.end else ""
        if said.state == "running":
            return TaskState(kept, "running", ending.removeprefix(", and "))
        return TaskState(kept, "queued", f"waits: {said.reason}{ending}")
    end = task.end
    if said is None and (why := answers.unknown.get(task.array.token)):  # it may have been put back since it ended
        return TaskState(task, "unknown", why)
    if end in (None, CANCELLED):  # only intended, until its real end is reported or it is no longer known
        said_end = said.end if said else None
        own = said_end is not None and said_end[0] not in ("cancelled", "killed")
        end = said_end if own or end is None else end
    forgotten = ("killed", f"gone, and {task.launcher.title} does not remember why: see its log")
    return TaskState(replace(task, end=end), "over", "{}: {}".format(*(end or forgotten)), forgotten=end is None)


# ---- submissions that were interrupted ------------------------------------------------------------------------------


def confirm_sent(store: Store, give_up: bool = False) -> str | None:
    """Find out about the arrays whose acceptance was not recorded; returns why that is not possible, if it is not.

    With `give_up`, arrays that are not in the queue become void, so that their runs may be sent again.
    """
    lost = [array for array in arrays_of(store) if array.job is None]
    for name in dict.fromkeys(array.launcher for array in lost):
        part = [array for array in lost if array.launcher == name]
        found = find_launcher(name).find(part)
        if isinstance(found, str):
            return found
        for array in part:
            if array.token in found or give_up:
                with suppress(*() if give_up else (OSError,)):  # someone else's store, read only
                    array.note(found.get(array.token, VOID))
    return None


# ---- runs -----------------------------------------------------------------------------------------------------------


def states_of_runs(store: Store, submitted: Iterable[Task], recent: bool = False) -> dict[str, TaskState]:
    """The state of each unfinished submitted run's task, by run id: the one that is alive, or else the last.

    A run that failed by itself is included only while a task may repeat it. A task that expects the store where it no
    longer is will do nothing, whatever is reported of it.
    """
    doing: dict[str, list[Task]] = {}
    for task in submitted:
        for id in task.runs:
            doing.setdefault(id, []).append(task)
    records = {id: store.record(id) for id in doing}
    doing = {id: each for id, each in doing.items() if not is_done(records[id])}
    open_ = {task.key for id, each in doing.items() if not is_settled(records[id]) for task in each}
    every = find_states(list({task.key: task for each in doing.values() for task in each}.values()), recent, open_)
    living, found = store.claims.living(), {}
    for id, each in doing.items():
        sign = living[id]["age"] if id in living and living[id]["task"] else None
        known = [adjust_by_store(every[task.key], sign) for task in each]
        if left := [state for state in known if state.redoes] if is_settled(records[id]) else known:
            *_, found[id] = sorted(left, key=lambda state: state.rank)
    return found


def is_done(record: Summary | None) -> bool:
    return record is not None and record.done


def adjust_by_store(state: TaskState, sign: float | None) -> TaskState:
    """A task's state, corrected by what the store shows: the age of its last sign of life, or that it was moved."""
    age, task = inf if sign is None else sign, state.task
    if task.moved is not None and state.state != "over":
        if age < SILENT_SECONDS:
            return TaskState(task, "unknown", f"was submitted for {task.moved}, but gives signs of life here")
        return TaskState(task, "over", f"killed: looks for the store at {task.moved}, from where it was moved")
    if state.forgotten and age < RECENT_SECONDS:
        why = f"{task.launcher.title} does not list its task, which gave a sign of life {age:.0f} s ago"
        return TaskState(task, "unknown", why)
    return state


def describe_runs(store: Store) -> dict[str, tuple[str, str]]:
    """For submitted runs that are not done or will be repeated: `queued`, `running` or `failed`, and why."""
    if not submission_files(store):
        return {}
    why, submitted = confirm_sent(store), list[Task]()
    for array in arrays_of(store):
        try:
            submitted += tasks_of(array, store) if array.id is not None else ()
        except UserError as error:  # the rest is still shown
            print(f"spurbench: not used: {error}", file=sys.stderr)
    found = {id: describe(state) for id, state in states_of_runs(store, submitted, recent=True).items()}
    if why or submitting_now(store):
        half = f"was being submitted, and whether it was taken is not known: {why}" if why else "is being submitted"
        unsure = (array for array in arrays_of(store) if array.job is None)
        runs = {run.id for array in unsure for jobs in jobs_to_do(array) for job in jobs for run in job.runs}
        found = {id: ("queued", half) for id in runs if not is_done(store.record(id))} | found
    return found


def describe(state: TaskState) -> tuple[str, str]:
    """The state of a task in the words of `status`."""
    if state.state == "unknown":
        return "queued", f"was submitted; {state.why}"
    return "failed" if state.state == "over" else state.state, state.why


def count_ending(states: Iterable[TaskState]) -> int:
    """How many of these belong to cancelled tasks that are still in the queue."""
    return sum(state.live and state.task.end == CANCELLED for state in states)
