"""What SLURM reports of arrays: of known jobs by their numbers, or of all of a user's jobs by their names.

An unlisted job is over only if it would be listed here: not if users may not see each other's jobs, if this is another
cluster, or if there was no answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from spurbench.bench.cluster.arrays import TOKEN, VOID, Array
from spurbench.bench.cluster.launcher import Answers, End, Place, TaskReport
from spurbench.slurm import program

CAUSES = {"OUT_OF_MEMORY": "out_of_memory", "TIMEOUT": "time_limit", "DEADLINE": "time_limit", "CANCELLED": "cancelled",
          "NODE_FAIL": "node_failure", "BOOT_FAIL": "node_failure", "PREEMPTED": "preempted"}  # fmt: skip
RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "RESIZING"}
OVER = {*CAUSES, "COMPLETED", "FAILED", "REVOKED", "LAUNCH_FAILED"}  # in any other state, known or not, a task is alive


@dataclass(frozen=True)
class Line:
    """What a line printed by a SLURM command says of some tasks of one job."""

    number: str  # of the job
    indices: tuple[int | None, ...]
    state: str
    names: str  # its name and whatever else identifies it: comment, path of its script
    user: str = ""  # id of the user who submitted it, if given
    reason: str = ""
    code: str = ""

    @property
    def said(self) -> TaskReport:
        if self.state in OVER:
            return TaskReport("over", self.reason, describe_end(self.state, self.code))
        return TaskReport("running" if self.state in RUNNING else "queued", self.reason or self.state)


def ask(arrays: Iterable[Array]) -> Answers:
    """Ask squeue for the tasks of these arrays, including ended ones that it still remembers."""
    found = Answers({array.token: array for array in arrays if array.id is not None})
    for array in found.arrays.values():
        if why := why_hidden(array):
            found.unknown[array.token] = why
    for cluster, here in group_by_cluster(array for token, array in found.arrays.items() if token not in found.unknown):
        for part in program.in_batches(here):
            said = program.squeue(f"--jobs={job_numbers(part)}", cluster=cluster)
            if said.good or program.UNKNOWN_ID in said.error:
                lines = list(parse_squeue(said.text))
                found.tasks |= assign_reports(lines, part)
                found.unknown |= find_renamed(lines, part)
            else:
                why = f"squeue does not answer here ({said.reason})"
                found.unknown |= dict.fromkeys((array.token for array in part), why)
    return found


def group_by_cluster(arrays: Iterable[Array]) -> Iterable[tuple[str | None, list[Array]]]:
    """The arrays of each cluster, by the name that addresses it."""
    found: dict[str | None, list[Array]] = {}
    for array in arrays:
        found.setdefault(array.elsewhere, []).append(array)
    return found.items()


def job_numbers(arrays: Iterable[Array]) -> str:
    return ",".join(dict.fromkeys(str(array.id) for array in arrays))


def why_hidden(array: Array) -> str | None:
    """Why SLURM would not list an array here even if it is in the queue; None if it would."""
    if array.id is not None and not array.id.isdecimal():
        return f"{array.noted} holds no job id of SLURM's: write the number of the array into it, or {VOID}"
    here = program.configuration()
    cluster = here.get("ClusterName")
    if array.cluster and cluster and array.cluster != cluster and not array.elsewhere:
        return f"was submitted on the cluster {array.cluster}, and this is {cluster}"
    private = here.get("PrivateData", "jobs")
    if array.user not in (None, os.getuid()) and re.search(r"\b(jobs|all)\b", private):
        return "was submitted by another user, whose jobs SLURM does not show you"
    return None


def assign_reports(lines: Iterable[Line], arrays: Iterable[Array]) -> dict[Place, TaskReport]:
    """What lines report of the tasks of arrays. A job with an array's number but without its marks is another one."""
    found, numbered = dict[Place, TaskReport](), group_by_number(arrays)
    for line in lines:
        for array in numbered.get(line.number, ()):
            if line.state and (not line.names or is_job_of(line.names, array)):
                found |= {(array.token, index): line.said for index in line.indices}
    return found


def find_renamed(lines: Iterable[Line], arrays: Iterable[Array]) -> dict[str, str]:
    """The arrays whose number and user have a job without any array's marks: it may be the array, renamed."""
    found, numbered = dict[str, str](), group_by_number(arrays)
    for line in lines:
        for array in numbered.get(line.number, ()) if line.said.end is None and not TOKEN.search(line.names) else ():
            if line.names and not is_job_of(line.names, array) and line.user == str(array.user):
                name = line.names.partition("|")[0]
                found[array.token] = f"job {line.number}, which it was, is in the queue as {name}, perhaps renamed"
    return found


def group_by_number(arrays: Iterable[Array]) -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {}
    for array in arrays:
        found.setdefault(str(array.id), []).append(array)
    return found


def is_job_of(names: str, array: Array) -> bool:
    """Whether a job is the array: by its name, which sites and users may change, its comment or its script's path.

    Jobs of the first submissions had other names.
    """
    if array.given is not None:
        return not TOKEN.search(names)
    marks = (array.token, f"{array.folder.name}/{array.script.name}")
    return any(re.search(rf"{re.escape(mark)}(?!\d)", names) for mark in marks)


def explain(arrays: Iterable[Array]) -> dict[Place, TaskReport]:
    """How tasks of these arrays ended, or that they are alive, as sacct or scontrol remember."""
    found = dict[Place, TaskReport]()
    for cluster, here in group_by_cluster(arrays):
        at = program.cluster_option(cluster)
        for part in program.in_batches(here):
            said = program.call(
                "sacct", *at, "--noheader", "--parsable2", "--allocations",
                "--format=JobID,State,ExitCode,JobName,Comment", "--jobs", job_numbers(part),
            )  # fmt: skip
            found |= assign_reports(parse_sacct(said.text), part) if said.good else {}
        explained = {token for (token, _), known in found.items() if known.end}
        for array in here:
            if array.token not in explained:
                said = program.call("scontrol", *at, "--oneliner", "show", "job", str(array.id))
                found |= assign_reports(parse_scontrol(said.text), [array])
    return found


# ---- what the programs print ----------------------------------------------------------------------------------------


def parse_squeue(text: str) -> Iterator[Line]:
    """The lines of squeue."""
    for line in text.splitlines():
        id, state, reason, user, names = (line.split("|", 4) + [""] * 4)[:5]
        if place := parse_job_id(id):
            yield Line(*place, state, names, user, reason)


def parse_sacct(text: str) -> Iterator[Line]:
    """The lines of sacct."""
    for line in text.splitlines():
        id, state, code, names = (line.split("|", 3) + [""] * 3)[:4]
        short = state.split(" ")[0].rstrip("+")  # CANCELLED by 1000, OUT_OF_ME+
        known = next((known for known in OVER if short and known.startswith(short)), short)
        if place := parse_job_id(id):
            yield Line(*place, known, names, code=code)


def parse_scontrol(text: str) -> Iterator[Line]:
    """The lines of `scontrol show job`."""
    for line in text.splitlines():
        fields = dict(re.findall(r"(?:^| )(\w+)=(.*?)(?= \w+=|$)", line))
        number, indices = fields.get("ArrayJobId", fields.get("JobId")), fields.get("ArrayTaskId")
        if place := parse_job_id(f"{number}_[{indices}]" if indices else str(number)):
            yield Line(*place, fields.get("JobState", ""), line, code=fields.get("ExitCode", ""))


def parse_job_id(id: str) -> tuple[str, tuple[int | None, ...]] | None:
    """The number of the job and the indices of its tasks that `7_3` or `7_[0-2,5%1]` stands for.

    An array cancelled before any of its tasks started is `7`, and a long list of tasks is cut to `7_[0,2,...]`: both
    stand for all tasks that are not listed.
    """
    match = re.fullmatch(r"(\d+)(?:_\[?([\d,-]+)(?:%\d+)?\]?|_\[.*\.\.\..*)?", id)
    if match is None or match[2] is None:
        return match and (match[1], (None,))
    found: list[int] = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1) if first else ()
    return match[1], tuple(found)


def describe_end(state: str, code: str = "") -> End:
    """The state of an ended task as a cause; `code` is its exit code and the signal that ended it, as 1:0."""
    if state in CAUSES:
        return CAUSES[state], f"as SLURM says, {state}"
    exit, _, number = code.partition(":")
    text = f"by signal {number}" if number not in ("", "0") else f"it ended with exit code {exit or '?'}: see its log"
    return "killed", text


def find(arrays: Iterable[Array]) -> dict[str, str] | str:
    """The job numbers of these arrays, by their tokens, found by their marks; or why SLURM does not say."""
    found = dict[str, str]()
    for cluster, here in group_by_cluster(arrays):
        users = {str(os.getuid() if array.user is None else array.user) for array in here}
        said = program.squeue(f"--user={','.join(sorted(users))}", cluster=cluster)
        if not said.good:
            return f"squeue does not answer here ({said.reason})"
        lines = list(parse_squeue(said.text))
        found |= {array.token: line.number for array in here for line in lines if is_job_of(line.names, array)}
    return found
