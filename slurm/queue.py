"""What became of what was submitted: the submissions of a store, joined with what SLURM tells of them.

An end is written down where one was told, and taken back when the task is in the queue again.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.terminal import shell
from spurbench.bench.records.record import Record, Summary, is_settled
from spurbench.bench.store.store import Store
from spurbench.slurm import program
from spurbench.slurm.answers import Answers, ask, called, hidden, remembered
from spurbench.slurm.submissions import (
    VOID,
    Array,
    Key,
    Task,
    arrays_of,
    jobs_to_do,
    named,
    submitting_now,
    tasks,
    tasks_of,
    write_ends,
)

RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "RESIZING"}
FORGOTTEN = ("killed", "gone, and SLURM does not remember why: see its log")
CANCELLED = ("cancelled", "by `spurbench cancel`")
OVER_ALREADY = re.compile("Invalid job id|already complet")  # what scancel says of tasks that have ended
SILENT = 25.0  # seconds after which who has given no sign of life gives none any more; they come every ten
RECENT = 60.0  # seconds for which a command that looks again and again keeps an answer


@dataclass(frozen=True)
class Fate:
    """How a task stands: `queued`, `running`, `over` or `unknown`, and why."""

    task: Task
    state: str
    why: str = ""

    @property
    def live(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def rank(self) -> int:
        """Of several tasks of a run, the one of the highest rank says how the run stands."""
        return 2 if self.live else int(self.state == "unknown")

    @property
    def redoes(self) -> bool:
        """Whether it may do a run again that has failed: one that waits may have been put there for that by hand."""
        return self.state == "queued" or (self.task.redoes and self.state != "over")


# ---- how tasks stand ------------------------------------------------------------------------------------------------

_recent = Answers()


def fates(every: Sequence[Task], recent: bool = False, open_: Container[Key] | None = None) -> dict[Key, Fate]:
    """How tasks stand. `recent`: an answer of the last minute will do; why others than the `open_` ended is not
    asked for.

    What is told of ends is written down beside the submissions.
    """
    global _recent
    wanted = {task.array.token: task.array for task in every if task.array.id}
    if not recent or wanted.keys() - _recent.arrays.keys() or time.monotonic() - _recent.since > RECENT:
        _recent = ask(wanted.values())
        asked = [task for task in every if open_ is None or task.key in open_]
        lacking = {t.array.token: None for t in asked if t.end in (None, CANCELLED) and unexplained(t, _recent)}
        remembered(_recent, lacking)
    found = {task.key: fate(task, _recent) for task in every}
    write_ends(found[task.key].task for task in every if found[task.key].task.end != task.end)
    return found


def unexplained(task: Task, answers: Answers) -> bool:
    said = answers.of(task.key)
    return task.array.token not in answers.unknown and (said is None or said.end is not None)


def fate(task: Task, answers: Answers) -> Fate:
    """How a task stands, with the end that is known of it."""
    said = answers.of(task.key)
    if said and said.end is None:
        kept = task if task.end == CANCELLED else replace(task, end=None)
        told = ", and is to end" if kept.end else ""
        if said.state in RUNNING:
            return Fate(kept, "running", told.removeprefix(", and "))
        return Fate(kept, "queued", f"waits: {said.reason or said.state}{told}")
    end = task.end
    if said is None and (why := answers.unknown.get(task.array.token)):  # it may have been put back since it ended
        return Fate(task, "unknown", why)
    if end in (None, CANCELLED):  # which was only meant, until SLURM says how the task ended, or knows it no more
        told_end = said.end if said else None
        own = told_end is not None and told_end[0] not in ("cancelled", "killed")
        end = told_end if own or end is None else end
    return Fate(replace(task, end=end), "over", "{}: {}".format(*(end or FORGOTTEN)))


# ---- submissions that were interrupted ------------------------------------------------------------------------------


def settle(store: Store, give_up: bool = False) -> str | None:
    """Find the arrays of which no one wrote down whether SLURM took them; why that cannot be told here, if it cannot.

    With `give_up` one that SLURM does not know is void from now on, so that its runs may be sent again.
    """
    lost = [array for array in arrays_of(store) if array.job is None]
    if not lost:
        return None
    if why := next((why for array in lost if (why := hidden(array))), None):
        return why
    found = called(lost)
    if isinstance(found, str):
        return found
    for array in lost:
        if array.token in found or give_up:
            with suppress(*() if give_up else (OSError,)):  # someone else's store, looked at
                array.note(found.get(array.token, VOID))
    return None


# ---- what is known of runs ------------------------------------------------------------------------------------------


def last_fates(store: Store, submitted: Iterable[Task], recent: bool = False) -> dict[str, Fate]:
    """How the task of each submitted run that is not done stands, by run id; the one that lives, or the last.

    A run that has failed for a reason of its own is among them only while a task may do it again. A task that looks for
    the store where it is no more will do nothing, whatever SLURM says of it.
    """
    doing: dict[str, list[Task]] = {}
    for task in submitted:
        for id in task.runs:
            doing.setdefault(id, []).append(task)
    records = {id: store.record(id) for id in doing}
    doing = {id: each for id, each in doing.items() if not is_done(records[id])}
    open_ = {task.key for id, each in doing.items() if not is_settled(records[id]) for task in each}
    every = fates(list({task.key: task for each in doing.values() for task in each}.values()), recent, open_)
    living, found = store.claims.living(), {}
    for id, each in doing.items():
        sign = living[id]["age"] if id in living and living[id]["task"] else None
        known = [seen(every[task.key], sign) for task in each]
        if left := [fate for fate in known if fate.redoes] if is_settled(records[id]) else known:
            *_, found[id] = sorted(left, key=lambda fate: fate.rank)
    return found


def is_done(record: Summary | None) -> bool:
    return record is not None and record.done


def seen(fate: Fate, sign: float | None) -> Fate:
    """The fate of a task in the light of what the store shows: a sign of life so many seconds old, a store moved."""
    age = inf if sign is None else sign
    if fate.task.moved is not None and fate.state != "over":
        if age < SILENT:
            return Fate(fate.task, "unknown", f"was submitted for {fate.task.moved}, and gives signs of life here")
        return Fate(fate.task, "over", f"killed: looks for the store at {fate.task.moved}, from where it was moved")
    if fate.why == "{}: {}".format(*FORGOTTEN) and age < RECENT:
        return Fate(fate.task, "unknown", f"SLURM does not list its task, which gave a sign of life {age:.0f} s ago")
    return fate


def states(store: Store) -> dict[str, tuple[str, str]]:
    """Of the submitted runs that are not done, or are to be done again: `queued`, `running` or `failed`, and why."""
    if not any(store.root.glob("slurm/*/submission.json")):
        return {}
    why, submitted = settle(store), list[Task]()
    for array in arrays_of(store):
        try:
            submitted += tasks_of(array, store) if array.id is not None else ()
        except UserError as error:  # what else is known is told
            print(f"spurbench: not used: {error}", file=sys.stderr)
    found = {id: told(fate) for id, fate in last_fates(store, submitted, recent=True).items()}
    if why or submitting_now(store):
        half = f"was being submitted, and whether SLURM has it is not known: {why}" if why else "is being submitted"
        unsure = (array for array in arrays_of(store) if array.job is None)
        runs = {run.id for array in unsure for jobs in jobs_to_do(array) for job in jobs for run in job.runs}
        found = {id: ("queued", half) for id in runs if not is_done(store.record(id))} | found
    return found


def told(fate: Fate) -> tuple[str, str]:
    """How a task stands in the words of `status`."""
    if fate.state == "unknown":
        return "queued", f"was submitted; {fate.why}"
    return "failed" if fate.state == "over" else fate.state, fate.why


def ending(fates: Iterable[Fate]) -> int:
    """How many of these are of tasks that were cancelled and are in the queue still."""
    return sum(fate.live and fate.task.end == CANCELLED for fate in fates)


# ---- what the user may do about it ----------------------------------------------------------------------------------


def cancel(store: Store, patterns: Sequence[str]) -> list[Task]:
    """Take tasks out of the queue for good; the tasks concerned. That they are to end is written down first.

    Errors: UserError if SLURM does not say what is in the queue, or does not take them out; during a submission.
    """
    if submitting_now(store):
        raise UserError(f"a submission for {store.root} is under way: cancel when it has ended")
    why, every = settle(store), list(tasks(store))
    found = fates(named(every, patterns)).values()
    why = why or next((fate.why for fate in found if fate.state == "unknown"), None)
    living = [fate.task for fate in found if fate.live]
    gone, unwritten = list[Task](), None
    for cluster, part in parts(living):
        meant = [replace(task, end=CANCELLED) for task in part]
        unwritten = write_ends(meant) or unwritten
        said = program.call("scancel", *program.of(cluster), *(task.id for task in part))
        if trouble := refused(said):
            if said.code is not None and said.code >= 0:  # else it may have done it
                write_ends(part)
            done = f"; {len(gone)} of {len(living)} tasks are cancelled" if gone else ""
            raise UserError(f"scancel fails: {trouble}{done}; look with `status` what is in the queue still")
        gone += meant
    if unwritten:
        raise UserError(f"cancelled {len(gone)} tasks, but that they were cannot be written down: {unwritten}")
    if why:
        raise UserError(
            f"cancelled {len(gone)} tasks; others may be in the queue, which is not known: {why}; {way_out(store)}"
        )
    return gone


def parts(living: Iterable[Task]) -> Iterator[tuple[str | None, list[Task]]]:
    """Tasks by the clusters to address, in lists that a command line has room for."""
    by_cluster: dict[str | None, list[Task]] = {}
    for task in living:
        by_cluster.setdefault(task.array.elsewhere, []).append(task)
    for cluster, here in by_cluster.items():
        yield from ((cluster, part) for part in program.in_parts(here))


def refused(said: program.Answer) -> str | None:
    """Why scancel did not take tasks out of the queue, if it did not; that they have ended is no reason."""
    if said.code is None:
        return said.reason
    if said.code < 0:
        return f"it was ended by signal {-said.code}"
    lines = [line.strip() for line in f"{said.error}\n{said.text}".splitlines() if line.strip()]
    unknown = [line for line in lines if not OVER_ALREADY.search(line) and (not said.good or "error" in line)]
    if unknown:
        return unknown[0]
    return None if said.good or lines else said.reason


def forget(store: Store) -> list[Array]:
    """Take the arrays for not sent of which SLURM does not tell how they stand, or whether it took them; these arrays.

    What of them begins later does nothing; what runs goes on, and its claims keep others from its runs.
    Errors: UserError during a submission, or where SLURM does not answer at all, which may pass.
    """
    if submitting_now(store):
        raise UserError(f"a submission for {store.root} is under way: forget what is left of it when it has ended")
    if not program.configuration():
        raise UserError("SLURM does not answer here: nothing is forgotten, as it may know all when it does")
    settle(store)
    unsure = [fate.task.array for fate in fates(list(tasks(store))).values() if fate.state == "unknown"]
    unsure += [array for array in arrays_of(store) if array.job is None]
    gone = list({array.token: array for array in unsure}.values())
    for array in gone:
        array.forget()
    return gone


def way_out(store: Store) -> str:
    """What can be done where it will never be known what became of tasks."""
    return f"if that stays so, `spurbench cancel --forget {shell(store.root)}` takes them for not sent"


def collect(store: Store) -> list[Record]:
    """Give every run whose task is over without a record a failed one that says why; these records.

    Errors: UserError if SLURM does not say what is in the queue.
    """
    from spurbench.bench.jobs.recording import begin_record, fail

    why, records, living = settle(store), [], store.claims.living()
    for id, fate in last_fates(store, tasks(store)).items():
        if fate.state == "unknown":
            why = why or fate.why
        held = living.get(id)
        works = held is not None and not held["task"]  # another launcher does it; a task's claim dies with the task
        if fate.state == "over" and store.record(id) is None and not works:
            job, run = next((job, run) for job in fate.task.jobs for run in job.runs if run.id == id)
            kind, _, text = fate.why.partition(": ")
            records.append(fail(begin_record(run, job.options, hardware=False), kind, text))
            store.write_record(records[-1])
    if why:
        raise UserError(f"{len(records)} runs are written down; how others stand is not known: {why}; {way_out(store)}")
    return records
