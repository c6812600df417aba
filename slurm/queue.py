"""What became of what was submitted: submissions of a store, joined with the queue as SLURM tells it.

Nothing here needs accounting: a task that is in the queue no more and left no record was ended from outside; sacct or
scontrol is asked for the cause while they remember it.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from spurbench.bench.job import Job, settled
from spurbench.bench.store import Store

CAUSES = {"OUT_OF_MEMORY": "out_of_memory", "TIMEOUT": "time_limit", "DEADLINE": "time_limit", "CANCELLED": "cancelled",
          "NODE_FAIL": "node_failure", "BOOT_FAIL": "node_failure", "PREEMPTED": "preempted"}  # fmt: skip
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "RESV_DEL_HOLD", "STOPPED"}


@dataclass(frozen=True)
class Task:
    """One task of a submitted array."""

    id: str  # as 12_3
    jobs: list[Job]
    log: Path

    @property
    def runs(self) -> list[str]:
        return [run.id for job in self.jobs for run in job.runs]

    def of(self, patterns: Sequence[str]) -> bool:
        """Whether a pattern names its id, or a dataset, method, label or dataset/label in it; no pattern names all."""
        names = {self.id}
        for job in self.jobs:
            run = job.runs[0]
            names |= {run.dataset, run.method, job.label, f"{run.dataset}/{run.method}", f"{run.dataset}/{job.label}"}
        return not patterns or any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def tasks(store: Store) -> Iterator[Task]:
    """Every task that was ever submitted for a store, the newest submission last."""
    for file in sorted(store.root.glob("slurm/*/submission.json")):
        for number, array in enumerate(json.loads(file.read_bytes())["arrays"]):
            manifest = json.loads((file.parent / f"array-{number}.json").read_bytes())
            for index, jobs in enumerate(manifest["tasks"]):
                log = file.parent / "logs" / f"{array}_{index}_0_log.out"
                yield Task(f"{array}_{index}", [Job.from_dict(fields) for fields in jobs], log)


def in_queue() -> dict[str, str]:
    """State of each task of this user that is in the queue, by id."""
    said = ask("squeue", "--me", "--noheader", "--array", "--format=%i %T")
    return dict(line.split(maxsplit=1) for line in said.splitlines() if " " in line.strip())


def states(store: Store) -> dict[str, str]:
    """Of the runs that are neither done nor failed: `queued`, `running` or why they are not, by run id."""
    found: dict[str, str] = {}
    submitted = list(tasks(store))
    if not submitted:
        return found
    queue = in_queue()
    for task in submitted:
        state = queue.get(task.id)
        for id in task.runs:
            if settled(store.record(id)):
                continue
            if state is None:
                found[id] = cause(task.id)
            else:
                found[id] = "queued" if state in WAITING else "running"
    return found


def cause(id: str) -> str:
    """Why a task that is gone has ended, as far as SLURM remembers."""
    said = ask("sacct", "--noheader", "--parsable2", "--allocations", "--format=State,ExitCode", "--jobs", id)
    if match := re.match(r"(\w+)[^|]*\|(\d+):(\d+)", said):
        return worded(*match.groups())
    shown = ask("scontrol", "show", "job", id)
    state, code = re.search(r"JobState=(\w+)", shown), re.search(r"ExitCode=(\d+):(\d+)", shown)
    if state and code:
        return worded(state[1], *code.groups())
    return "gone, and SLURM does not remember why: see its log"


def worded(state: str, code: str, signal: str) -> str:
    """The state of an ended task as a cause."""
    if state in CAUSES:
        return CAUSES[state]
    return f"killed by signal {signal}" if signal != "0" else f"ended with exit code {code}: see its log"


def ask(*words: str) -> str:
    """What a command of SLURM prints; nothing if it is not there or has nothing to say."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def cancel(store: Store, patterns: Sequence[str]) -> list[Task]:
    """Take tasks out of the queue and give their unfinished runs records that say so; the tasks concerned."""
    from spurbench.bench.worker import failed, frame

    queue = in_queue()
    chosen = [task for task in tasks(store) if task.id in queue and task.of(patterns)]
    for task in chosen:
        for job in task.jobs:
            for run, record in zip(job.runs, frame(job), strict=True):
                if not settled(store.record(run.id)):
                    store.write_record(failed(record, "cancelled", f"task {task.id} was cancelled"))
    for at in range(0, len(chosen), 500):
        subprocess.run(["scancel", *(task.id for task in chosen[at : at + 500])], check=False)
    return chosen
