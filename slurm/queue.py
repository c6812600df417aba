"""What became of what was submitted: the submissions of a store, joined with what SLURM tells of them.

SLURM is asked for the jobs one knows, by their numbers. What it does not list is over only where it would be listed:
not if another user may not see it, or if this is another cluster, or if there was no answer. An end is written down
where one was told, and taken back when the task is in the queue again.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from spurbench.bench.errors import UserError
from spurbench.bench.record import Record, settled
from spurbench.bench.store import Store
from spurbench.slurm import program
from spurbench.slurm.submissions import (
    VOID,
    Array,
    End,
    Task,
    arrays_of,
    jobs_to_do,
    named,
    submitting_now,
    tasks,
    write_ends,
)

CAUSES = {"OUT_OF_MEMORY": "out_of_memory", "TIMEOUT": "time_limit", "DEADLINE": "time_limit", "CANCELLED": "cancelled",
          "NODE_FAIL": "node_failure", "BOOT_FAIL": "node_failure", "PREEMPTED": "preempted"}  # fmt: skip
OVER = {*CAUSES, "COMPLETED", "FAILED"}  # any other state, also one that is not known here, is that of a task to come
RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "RESIZING"}
FORGOTTEN = ("killed", "gone, and SLURM does not remember why: see its log")
CANCELLED = ("cancelled", "by `spurbench cancel`")
RECENT = 60.0  # seconds for which a command that looks again and again keeps an answer
FORMAT = "--format=%i|%T|%r|%j|"


@dataclass(frozen=True)
class Said:
    """What SLURM says of a task: its state, why it waits, and how it ended if it is over."""

    state: str
    reason: str = ""
    end: End | None = None


@dataclass
class Answers:
    """What SLURM says of the tasks of some arrays, by task; and of which arrays nothing can be known here, and why."""

    arrays: dict[str, Array] = field(default_factory=dict)  # by their ids
    tasks: dict[str, Said] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)  # array id → why
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Fate:
    """How a task stands: `queued`, `running`, `over` or `unknown`, and why."""

    task: Task
    state: str
    why: str = ""

    @property
    def live(self) -> bool:
        return self.state in ("queued", "running")


# ---- what SLURM says ------------------------------------------------------------------------------------------------


def ask(arrays: Iterable[Array]) -> Answers:
    """Ask SLURM for the tasks of these arrays: what is in the queue, and how what is there no more has ended."""
    found = Answers({array.id: array for array in arrays if array.id is not None})
    by_cluster: dict[str | None, list[str]] = {}
    for id, array in found.arrays.items():
        if why := hidden(array):
            found.unknown[id] = why
        else:
            by_cluster.setdefault(array.elsewhere, []).append(id)
    for cluster, ids in by_cluster.items():
        for part in program.in_parts(ids):
            said = program.call("squeue", *program.of(cluster), "--noheader", "--array", "--states=all",
                                f"--jobs={','.join(part)}", FORMAT)  # fmt: skip
            if said.good or program.UNKNOWN_ID in said.error:
                found.tasks |= listed(said.text, found.arrays)
            else:
                found.unknown |= dict.fromkeys(part, f"squeue does not answer here ({said.reason})")
    return found


def hidden(array: Array) -> str | None:
    """Why SLURM would not list an array here although it is in the queue; None if it would."""
    here = program.configuration()
    cluster = here.get("ClusterName")
    if array.cluster and cluster and array.cluster != cluster and not array.elsewhere:
        return f"was submitted on the cluster {array.cluster}, and this is {cluster}"
    private = here.get("PrivateData", "jobs")
    if array.user not in (None, os.getuid()) and re.search(r"\b(jobs|all)\b", private):
        return "was submitted by another user, whose jobs SLURM does not show you"
    return None


def listed(text: str, arrays: dict[str, Array]) -> dict[str, Said]:
    """The tasks in what squeue printed, by id. A job that has the number of an array, and not its name, is no part."""
    found = {}
    for line in text.splitlines():
        id, state, reason, name = (line.split("|") + ["", "", "", ""])[:4]
        array = arrays.get(id.partition("_")[0])
        if array and state and (not name or bears(name, array)):
            found[id] = Said(state, reason, ended(state) if state in OVER else None)
    return found


def bears(name: str, array: Array) -> bool:
    """Whether a job of this name is the array; the first submissions had other names."""
    return name.endswith(array.token) or array.user is None


def remembered(answers: Answers, ids: Sequence[str]) -> None:
    """Add how tasks of these arrays ended, or that they live, as sacct or scontrol remember it."""
    said = program.call("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode,JobName",
                        "--jobs", ",".join(ids)) if ids else program.Answer(None)  # fmt: skip
    told = list(accounted(said.text)) if said.good else []
    for id in () if told else ids:
        at = program.of(answers.arrays[id].elsewhere)
        told += shown(program.call("scontrol", *at, "--oneliner", "show", "job", id).text)
    for id, name, state, code in told:
        array, before = answers.arrays.get(id.partition("_")[0]), answers.tasks.get(id)
        if array and (not name or bears(name, array)) and (before is None or before.end):
            answers.tasks[id] = Said(state, "", ended(state, code) if state in OVER else None)


def accounted(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Task, job name, state and exit code of each line of sacct."""
    for line in text.splitlines():
        id, state, code, name = (line.split("|") + ["", "", "", ""])[:4]
        for task in spread(id):
            yield task, name, state.split(" ")[0], code  # CANCELLED by 1000


def shown(text: str) -> Iterator[tuple[str, str, str, str]]:
    """The same of each line of `scontrol show job`."""
    for line in text.splitlines():
        fields = dict(re.findall(r"(?:^| )(\w+)=(.*?)(?= \w+=|$)", line))
        for task in spread(f"{fields.get('ArrayJobId')}_[{fields.get('ArrayTaskId')}]"):
            yield task, fields.get("JobName", ""), fields.get("JobState", ""), fields.get("ExitCode", "")


def spread(id: str) -> list[str]:
    """The tasks that `7_3` or `7_[0-2,5%1]` stands for."""
    match = re.fullmatch(r"(\d+)_\[?([\d,-]+)(?:%\d+)?\]?", id)
    if match is None:
        return []
    found = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        found += [f"{match[1]}_{i}" for i in range(int(first), int(last or first) + 1)] if first else []
    return found


def ended(state: str, code: str = "") -> End:
    """The state of an ended task as a cause; `code` is its exit code and the signal that ended it, as 1:0."""
    if state in CAUSES:
        return CAUSES[state], f"as SLURM says, {state}"
    exit, _, number = code.partition(":")
    text = f"by signal {number}" if number not in ("", "0") else f"it ended with exit code {exit or '?'}: see its log"
    return "killed", text


_recent = Answers()


def fates(every: Sequence[Task], recent: bool = False) -> dict[str, Fate]:
    """How tasks stand, by id. `recent`: an answer of the last minute will do.

    What is told of ends is written down beside the submissions.
    """
    global _recent
    wanted = {task.array.id: task.array for task in every if task.array.id}
    if not recent or wanted.keys() - _recent.arrays.keys() or time.monotonic() - _recent.since > RECENT:
        _recent = ask(wanted.values())
        lacking = {task.array.id: None for task in every if task.end is None and unexplained(task, _recent)}
        remembered(_recent, [id for id in lacking if id is not None])
    found = {task.id: fate(task, _recent) for task in every}
    write_ends(found[task.id].task for task in every if found[task.id].task.end != task.end)
    return found


def unexplained(task: Task, answers: Answers) -> bool:
    said = answers.tasks.get(task.id)
    return task.array.id not in answers.unknown and (said is None or said.end is not None)


def fate(task: Task, answers: Answers) -> Fate:
    """How a task stands, with the end that is known of it."""
    said = answers.tasks.get(task.id)
    if said and said.end is None:
        kept = task if task.end == CANCELLED else replace(task, end=None)
        told = ", and was told to end" if kept.end else ""
        if said.state in RUNNING:
            return Fate(kept, "running", told.removeprefix(", and "))
        return Fate(kept, "queued", f"waits: {said.reason or said.state}{told}")
    if task.end:
        return Fate(task, "over", "{}: {}".format(*task.end))
    if task.array.id in answers.unknown:
        return Fate(task, "unknown", answers.unknown[task.array.id])
    end = said.end if said else None
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
        if array in found or give_up:
            array.note(found.get(array, VOID))
    return None


def called(arrays: Iterable[Array]) -> dict[Array, str] | str:
    """What SLURM calls these arrays, looked for by their names; or why it does not say."""
    said = program.call("squeue", "--noheader", "--states=all", f"--user={os.getuid()}", FORMAT)
    if not said.good:
        return f"squeue does not answer here ({said.reason})"
    lines = [line.split("|") for line in said.text.splitlines() if line.count("|") > 3]
    return {array: line[0].partition("_")[0] for array in arrays for line in lines if bears(line[3], array)}


# ---- what is known of runs ------------------------------------------------------------------------------------------


def last_fates(store: Store, recent: bool = False) -> dict[str, Fate]:
    """How the task of each submitted run without a settled record stands, by run id; the one that lives, or the last.

    A task that looks for the store where it is no more will do nothing, whatever SLURM says of it.
    """
    doing: dict[str, list[Task]] = {}
    for task in tasks(store):
        for id in task.runs:
            doing.setdefault(id, []).append(task)
    doing = {id: each for id, each in doing.items() if not settled(store.record(id))}
    every = fates(list({task.id: task for each in doing.values() for task in each}.values()), recent)
    living, found = store.claims.living(), {}
    for id, each in doing.items():
        sign = living[id]["age"] if id in living and living[id]["task"] else None
        *_, found[id] = sorted((seen(every[task.id], sign) for task in each), key=lambda fate: fate.live)
    return found


def seen(fate: Fate, sign: float | None) -> Fate:
    """The fate of a task in the light of what the store shows: a sign of life so many seconds old, a store moved."""
    if fate.task.moved is not None and fate.state != "over":
        return Fate(fate.task, "over", f"killed: looks for the store at {fate.task.moved}, from where it was moved")
    if fate.why == "{}: {}".format(*FORGOTTEN) and sign is not None and sign < RECENT:
        return Fate(fate.task, "unknown", f"SLURM does not list its task, which gave a sign of life {sign:.0f} s ago")
    return fate


def states(store: Store) -> dict[str, tuple[str, str]]:
    """Of the submitted runs that have no settled record: `queued`, `running` or `failed`, and why, by run id."""
    if not any(store.root.glob("slurm/*/submission.json")):
        return {}
    why = settle(store)
    found = {id: told(fate) for id, fate in last_fates(store, recent=True).items()}
    if why or submitting_now(store):
        half = f"was being submitted, and whether SLURM has it is not known: {why}" if why else "is being submitted"
        unsure = (array for array in arrays_of(store) if array.job is None)
        runs = {run.id for array in unsure for jobs in jobs_to_do(array) for job in jobs for run in job.runs}
        found = {id: ("queued", half) for id in runs if not settled(store.record(id))} | found
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
    """Take tasks out of the queue for good; the tasks concerned. That they are cancelled is written down first.

    Errors: UserError if SLURM does not say what is in the queue, or does not take them out.
    """
    why, every = settle(store), list(tasks(store))
    found = fates(named(every, patterns)).values()
    why = why or next((fate.why for fate in found if fate.state == "unknown"), None)
    gone = [replace(fate.task, end=CANCELLED) for fate in found if fate.live]
    write_ends(gone)
    by_cluster: dict[str | None, list[str]] = {}
    for task in gone:
        by_cluster.setdefault(task.array.elsewhere, []).append(task.id)
    for cluster, ids in by_cluster.items():
        for part in program.in_parts(ids):
            said = program.call("scancel", *program.of(cluster), *part)
            if not said.good and program.UNKNOWN_ID not in said.error:
                raise UserError(f"scancel fails: {said.reason}; tasks may be in the queue still: cancel again")
    if why:
        raise UserError(f"cancelled {len(gone)} tasks; others may be in the queue, which is not known: {why}")
    return gone


def collect(store: Store) -> list[Record]:
    """Give every run whose task is over without a record a failed one that says why; these records.

    Errors: UserError if SLURM does not say what is in the queue.
    """
    from spurbench.bench.recording import failed, frame

    why, records, living = settle(store), [], store.claims.living()
    for id, fate in last_fates(store).items():
        if fate.state == "unknown":
            why = why or fate.why
        held = living.get(id)
        works = held is not None and not held["task"]  # another launcher does it; a task's claim dies with the task
        if fate.state == "over" and store.record(id) is None and not works:
            job, run = next((job, run) for job in fate.task.jobs for run in job.runs if run.id == id)
            kind, _, text = fate.why.partition(": ")
            records.append(failed(frame(run, job.options, hardware=False), kind, text))
            store.write_record(records[-1])
    if why:
        raise UserError(f"{len(records)} runs are written down; how others stand is not known: {why}")
    return records
