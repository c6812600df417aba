"""How much the cluster lets a user queue, as it says itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from spurbench.slurm import program
from spurbench.slurm.sbatch_options import SbatchOptions

if TYPE_CHECKING:
    from spurbench.bench.jobs.job import Job


def largest_array() -> int:
    """How many tasks the cluster allows in an array; SLURM's default if it does not say."""
    said = program.configuration().get("MaxArraySize", "")
    return max(1, int(said) - 1) if said.isdecimal() else 1000


def fitting(groups: Mapping[SbatchOptions, Sequence[Job]], jobs_per_task: int) -> dict[SbatchOptions, list[Job]]:
    """The first jobs for which there is room in the queue, group by group."""
    left: dict[tuple[str, str], int | None] = {}
    found: dict[SbatchOptions, list[Job]] = {}
    for asked, jobs in groups.items():
        qos = asked.qos or default_qos(asked.account or "")
        bounds = [("account", asked.account or ""), *([("qos", qos)] if qos else [])]
        for bound in bounds:
            left.setdefault(bound, free_slots(*bound))
        tasks = -(-len(jobs) // jobs_per_task)
        tasks = min([tasks, *(known for bound in bounds if (known := left[bound]) is not None)])
        if tasks:
            found[asked] = list(jobs[: tasks * jobs_per_task])
        for bound in bounds:
            known = left[bound]
            left[bound] = None if known is None else known - tasks
    return found


def association(account: str, column: str) -> list[str]:
    """The accounting values in a column for this user, under an account or ("") any."""
    from spurbench.bench.cluster.submissions import user_name

    where = [f"user={user_name()}", *([f"account={account}"] if account else [])]
    said = program.call("sacctmgr", "--noheader", "--parsable2", "show", "assoc", *where, f"format={column}")
    return said.text.split() if said.good else []


@cache
def default_qos(account: str) -> str:
    """The QOS of jobs that name none, if it is the same for all."""
    names = {name for name in association(account, "DefaultQOS") if not name.isdecimal()}
    return names.pop() if len(names) == 1 else ""


def free_slots(kind: str, name: str) -> int | None:
    """How many more tasks this user may queue under an account ("" for any) or a QOS; None if no limit is given."""
    queue = ["squeue", "--noheader", "--array", "--all", f"--user={os.getuid()}", program.FORMAT]
    if kind == "qos":
        said = program.call("sacctmgr", "--noheader", "--parsable2", "show", "qos", name, "format=MaxSubmitJobsPerUser")
        queue.append(f"--qos={name}")
        reported = said.text.split() if said.good else []
    else:
        reported = association(name, "MaxSubmitJobs")
        queue += [f"--account={name}"] if name else []
    limits = [int(word) for word in reported if word.isdecimal()]
    said = program.call(*queue) if limits else program.Answer(None)
    return max(0, min(limits) - sum("|" in line for line in said.text.splitlines())) if said.good else None
