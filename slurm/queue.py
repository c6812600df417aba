"""What became of what was submitted: submissions of a store, joined with the queue as SLURM tells it.

Nothing here needs accounting: a task that is in the queue no more and left no record was ended from outside; sacct or
scontrol is asked for the cause while they remember it, and what they say is kept beside the submission.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from spurbench.bench.errors import UserError
from spurbench.bench.files import write_atomically
from spurbench.bench.grid import cell_names, chosen
from spurbench.bench.job import Job
from spurbench.bench.reading import Unfit, content_of, parsed
from spurbench.bench.record import Record, canonical, settled
from spurbench.bench.store import Store

CAUSES = {"OUT_OF_MEMORY": "out_of_memory", "TIMEOUT": "time_limit", "DEADLINE": "time_limit", "CANCELLED": "cancelled",
          "NODE_FAIL": "node_failure", "BOOT_FAIL": "node_failure", "PREEMPTED": "preempted"}  # fmt: skip
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "RESV_DEL_HOLD", "STOPPED"}
FORGOTTEN = ("killed", "gone, and SLURM does not remember why: see its log")
T = TypeVar("T")
End = tuple[str, str]
"""How a task ended, as the kind of a record's cause, and in words."""


@dataclass(frozen=True)
class Task:
    """One task of a submitted array."""

    id: str  # as 12_3
    jobs: list[Job]
    folder: Path  # of the submission
    array: int  # place of its array in the submission
    end: End | None = None  # if it is known to be over

    @property
    def runs(self) -> list[str]:
        return [run.id for job in self.jobs for run in job.runs]

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.id}_0_log.out"

    @property
    def names(self) -> set[str]:
        """What it may be called by: its id, or what a cell of it is called."""
        return {self.id}.union(*(cell_names(job.runs[0].dataset, job.runs[0].method, job.label) for job in self.jobs))


def manifest_of(folder: Path, array: int) -> Path:
    """The file that tells the tasks of an array what to do."""
    return folder / f"array-{array}.json"


def tasks(store: Store) -> Iterator[Task]:
    """Every task that was ever submitted for a store, the newest submission last."""
    for file in sorted(store.root.glob("slurm/*/submission.json")):
        ends = known_ends(file.parent)
        for number, array in enumerate(read_whole(file, "submission", array_ids)):
            for index, jobs in enumerate(read_whole(manifest_of(file.parent, number), "manifest", jobs_of)):
                id = f"{array}_{index}"
                yield Task(id, jobs, file.parent, number, ends.get(id))


def named(store: Store, patterns: Sequence[str]) -> list[Task]:
    """The tasks that patterns name; no pattern names all.

    Errors: UserError for a pattern that names none, with the nearest name.
    """
    every = list(tasks(store))
    if not patterns:
        return every
    names = [task.names for task in every]
    return [every[place] for place in sorted(chosen(names, patterns, "submitted task or cell"))]


def read_manifest(folder: Path, array: int) -> dict[str, Any]:
    """Errors: UserError if the manifest is gone or damaged."""
    return read_whole(manifest_of(folder, array), "manifest", dict[str, Any])


def read_whole(file: Path, kind: str, read: Callable[[Any], T]) -> T:
    """What `read` makes of the content of a submission's file.

    Errors: UserError if it is gone or damaged.
    """
    try:
        return read(parsed(content_of(file), f"a {kind}"))
    except FileNotFoundError:
        what = "gone"
    except (Unfit, AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"damaged ({type(error).__name__})"
    raise UserError(
        f"the {kind} {file} is {what}: without it no one knows what the tasks of that submission are; "
        f"delete the folder {file.parent} to forget it"
    )


def array_ids(content: Any) -> list[str]:
    """The ids that SLURM gave the arrays of a submission."""
    found = list(map(str, content["arrays"]))
    if not all(map(str.isdecimal, found)):
        raise ValueError("not the ids of arrays")
    return found


def jobs_of(content: Any) -> list[list[Job]]:
    """The jobs of each task of an array."""
    return [[Job.from_dict(fields) for fields in jobs] for jobs in content["tasks"]]


# ---- the queue ------------------------------------------------------------------------------------------------------


def in_queue() -> dict[str, tuple[str, str]]:
    """State of each task of this user that is in the queue, and SLURM's word for what it waits for, by id.

    Errors: UserError if squeue is not there or does not answer.
    """
    said = ask("squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r|")
    if said is None:
        raise UserError("squeue does not answer here: ask from a node of the cluster")
    lines = [line.split("|")[:3] for line in said.splitlines() if line.count("|") == 3]
    return {id: (state, reason) for id, state, reason in lines}


def states(store: Store) -> dict[str, tuple[str, str]]:
    """Of the submitted runs that have no settled record: `queued`, `running` or `failed`, and why, by run id."""
    submitted = list(tasks(store))
    if not submitted:
        return {}
    try:
        queue = in_queue()
    except UserError as error:
        left = {id for task in submitted for id in task.runs if not settled(store.record(id))}
        return dict.fromkeys(left, ("queued", f"was submitted; {error}"))
    found: dict[str, tuple[str, str]] = {}
    for id, task in unsettled(store, submitted, queue):
        if task.end:
            found[id] = "failed", "{}: {}".format(*task.end)
        elif queue[task.id][0] in WAITING:
            found[id] = "queued", f"waits: {queue[task.id][1]}"
        else:
            found[id] = "running", ""
    return found


def unsettled(store: Store, submitted: Iterable[Task], queue: Container[str]) -> list[tuple[str, Task]]:
    """Each submitted run without a settled record and its last task, with its end if it is not in the queue."""
    last = {id: task for task in submitted for id in task.runs}
    last = {id: task for id, task in last.items() if not settled(store.record(id))}
    over = learn({task.id: task for task in last.values() if task.id not in queue})
    return [(id, over.get(task.id, task)) for id, task in last.items()]


# ---- how tasks ended ------------------------------------------------------------------------------------------------


def known_ends(folder: Path) -> dict[str, End]:
    """How tasks of a submission ended, as far as it was written down."""
    with suppress(FileNotFoundError, Unfit, AttributeError, TypeError, ValueError):
        found = parsed(content_of(folder / "ends.json"), "ends")
        return {id: (str(kind), str(text)) for id, (kind, text) in found.items()}
    return {}


def write_ends(ended: Iterable[Task]) -> None:
    """Write down how these tasks ended."""
    by_folder: dict[Path, dict[str, End]] = {}
    for task in ended:
        if task.end:
            by_folder.setdefault(task.folder, {})[task.id] = task.end
    for folder, ends in by_folder.items():
        with suppress(PermissionError):  # someone else's store, looked at
            write_atomically(folder / "ends.json", canonical(known_ends(folder) | ends))


def learn(over: dict[str, Task]) -> dict[str, Task]:
    """The same tasks with their ends: those written down, and those that SLURM tells now."""
    asked = {id.split("_")[0] for id, task in over.items() if task.end is None}
    told = ends_of(sorted(asked))
    known = {id: replace(task, end=task.end or told.get(id, FORGOTTEN)) for id, task in over.items()}
    write_ends(task for id, task in known.items() if over[id].end is None and id in told)
    return known


def ends_of(arrays: Sequence[str]) -> dict[str, End]:
    """How the tasks of these arrays ended, by task id, as far as SLURM remembers."""
    found: dict[str, End] = {}
    if not arrays:
        return found
    said = ask("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode",
               "--jobs", ",".join(arrays))  # fmt: skip
    for match in re.finditer(r"^(\d+_\d+)\|(\w+)[^|]*\|(\d+):(\d+)$", said or "", re.M):
        found[match[1]] = worded(match[2], match[3], match[4])
    for array in () if said else arrays:
        for line in (ask("scontrol", "--oneliner", "show", "job", array) or "").splitlines():
            fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
            code, _, number = fields.get("ExitCode", "0:0").partition(":")
            id = f"{fields.get('ArrayJobId')}_{fields.get('ArrayTaskId')}"
            found[id] = worded(fields.get("JobState", ""), code, number)
    return found


def worded(state: str, code: str, number: str) -> End:
    """The state of an ended task as a cause."""
    if state in CAUSES:
        return CAUSES[state], f"as SLURM says, {state}"
    text = f"by signal {number}" if number != "0" else f"it ended with exit code {code}: see its log"
    return "killed", text


def ask(*words: str) -> str | None:
    """What a command of SLURM prints; None if it is not there or fails."""
    try:
        done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


# ---- what the user may do about it ----------------------------------------------------------------------------------


def cancel(store: Store, patterns: Sequence[str]) -> list[Task]:
    """Take tasks out of the queue for good; the tasks concerned. That they are cancelled is written down first."""
    meant, queue = named(store, patterns), in_queue()
    gone = [task for task in meant if task.id in queue and not task.end]
    end = "cancelled", "by `spurbench cancel`"
    write_ends(replace(task, end=end) for task in gone)
    for at in range(0, len(gone), 500):
        subprocess.run(["scancel", *(task.id for task in gone[at : at + 500])], check=False)
    return gone


def collect(store: Store) -> list[Record]:
    """Give every run whose task is over without a record a failed one that says why; these records."""
    from spurbench.bench.recording import failed, frame

    records = []
    for id, task in unsettled(store, tasks(store), in_queue()):
        if task.end and store.record(id) is None:
            job = next(job for job in task.jobs if id in (run.id for run in job.runs))
            run = next(run for run in job.runs if run.id == id)
            records.append(failed(frame(run, job.options, hardware=False), *task.end))
            store.write_record(records[-1])
    return records
