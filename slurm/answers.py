"""What SLURM says of arrays: of the jobs one knows, by their numbers, or of all of a user's, by their names.

What it does not list is over only where it would be listed: not if another user may not see it, or if this is another
cluster, or if there was no answer.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from spurbench.slurm import program
from spurbench.slurm.submissions import Array, End

CAUSES = {"OUT_OF_MEMORY": "out_of_memory", "TIMEOUT": "time_limit", "DEADLINE": "time_limit", "CANCELLED": "cancelled",
          "NODE_FAIL": "node_failure", "BOOT_FAIL": "node_failure", "PREEMPTED": "preempted"}  # fmt: skip
OVER = {*CAUSES, "COMPLETED", "FAILED", "REVOKED", "LAUNCH_FAILED"}  # in any other state, known or not, a task lives


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


def ask(arrays: Iterable[Array]) -> Answers:
    """Ask squeue for the tasks of these arrays, also for those that have ended and are not forgotten."""
    found = Answers({array.id: array for array in arrays if array.id is not None})
    by_cluster: dict[str | None, list[str]] = {}
    for id, array in found.arrays.items():
        if why := hidden(array):
            found.unknown[id] = why
        else:
            by_cluster.setdefault(array.elsewhere, []).append(id)
    for cluster, ids in by_cluster.items():
        for part in program.in_parts(ids):
            said = program.squeue(f"--jobs={','.join(part)}", cluster=cluster)
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
    """The tasks in what squeue printed, by id. A job that has the number of an array, and not its name, is not it."""
    found: dict[str, Said] = {}
    for line in text.splitlines():
        id, state, reason, name = (line.split("|") + ["", "", "", ""])[:4]
        array = arrays.get(id.partition("_")[0])
        if array and state and (not name or bears(name, array)):
            said = Said(state, reason, ended(state) if state in OVER else None)
            found |= dict.fromkeys(spread(id) or [id], said)
    return found


def bears(name: str, array: Array) -> bool:
    """Whether a job of this name is the array; those of the first submissions had other names."""
    return name.endswith(array.token) or array.given is not None


def remembered(answers: Answers, ids: Sequence[str]) -> None:
    """Add how tasks of these arrays ended, or that they live, as sacct or scontrol remember it."""
    told: list[tuple[str, str, str, str]] = []
    for cluster in {answers.arrays[id].elsewhere for id in ids}:
        here = ",".join(id for id in ids if answers.arrays[id].elsewhere == cluster)
        said = program.call("sacct", *program.of(cluster), "--noheader", "--parsable2", "--allocations",
                            "--format=JobID,State,ExitCode,JobName", "--jobs", here)  # fmt: skip
        told += accounted(said.text) if said.good else ()
    for id in set(ids) - {task.partition("_")[0] for task, _, state, _ in told if state in OVER}:
        at = program.of(answers.arrays[id].elsewhere)
        told += shown(program.call("scontrol", *at, "--oneliner", "show", "job", id).text)
    for id, name, state, code in told:
        array, before = answers.arrays.get(id.partition("_")[0]), answers.tasks.get(id)
        if array and state and (not name or bears(name, array)) and (before is None or before.end):
            answers.tasks[id] = Said(state, "", ended(state, code) if state in OVER else None)


def accounted(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Task, job name, state and exit code of each line of sacct."""
    for line in text.splitlines():
        id, state, code, name = (line.split("|") + ["", "", "", ""])[:4]
        for task in spread(id):
            short = state.split(" ")[0].rstrip("+")  # CANCELLED by 1000, OUT_OF_ME+
            yield task, name, next((known for known in OVER if short and known.startswith(short)), short), code


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


def called(arrays: Iterable[Array]) -> dict[Array, str] | str:
    """What SLURM calls these arrays, looked for by their names; or why it does not say."""
    every, found = list(arrays), dict[Array, str]()
    for cluster in {array.elsewhere for array in every}:
        here = [array for array in every if array.elsewhere == cluster]
        users = {str(os.getuid() if array.user is None else array.user) for array in here}
        said = program.squeue(f"--user={','.join(sorted(users))}", cluster=cluster)
        if not said.good:
            return f"squeue does not answer here ({said.reason})"
        lines = [line.split("|") for line in said.text.splitlines() if line.count("|") > 3]
        found |= {a: line[0].partition("_")[0] for a in here for line in lines if line[3].endswith(a.token)}
    return found
