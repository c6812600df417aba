"""How jobs become SLURM arrays: what each task asks for, how many jobs it does, how many tasks an array may have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spurbench.bench.errors import UserError
from spurbench.bench.job import Job

LEAST_MINUTES = 15  # a task needs time to start, to save its state and to be put back into the queue
WARNING_SECONDS = 120  # before the time limit a task is told to save its state


@dataclass(frozen=True)
class Resources:
    """What each task of an array asks for; None is left to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = 0
    cpus: int = 1
    mem: str = "8G"
    minutes: int = 240
    setup: tuple[str, ...] = ()  # shell lines before the task, such as `module load cuda`

    def parameters(self, name: str, parallel: int) -> dict[str, Any]:
        """The same in the words of submitit's SlurmExecutor; without srun, which would need binding flags."""
        found = {
            "job_name": name, "partition": self.partition, "account": self.account, "qos": self.qos,
            "constraint": self.constraint, "gpus_per_node": self.gpus or None, "cpus_per_task": self.cpus,
            "mem": self.mem, "time": self.minutes, "setup": list(self.setup) or None, "array_parallelism": parallel,
            "use_srun": False, "stderr_to_stdout": True,
        }  # fmt: skip
        signal = {"signal": f"B:USR2@{WARNING_SECONDS}", "requeue": True}
        return {key: value for key, value in found.items() if value is not None} | {"additional_parameters": signal}


@dataclass(frozen=True)
class Array:
    """One sbatch: task i does the jobs `tasks[i]`, one after the other."""

    tasks: list[list[Job]]
    parallel: int  # tasks of this array at once


def plan(jobs: Sequence[Job], jobs_per_task: int, largest: int, parallel: int | None) -> list[Array]:
    """The arrays for these jobs, none with more than `largest` tasks; together they run `parallel` tasks at once."""
    tasks = [list(jobs[at : at + jobs_per_task]) for at in range(0, len(jobs), jobs_per_task)]
    chunks = [tasks[at : at + largest] for at in range(0, len(tasks), largest)]
    if parallel is not None and parallel < len(chunks):
        raise UserError(
            f"{len(tasks)} tasks make {len(chunks)} arrays of at most {largest}, but only {parallel} tasks may run at "
            "once: raise --max-parallel or --jobs-per-task"
        )
    shares = [len(chunk) if parallel is None else parallel * len(chunk) // len(tasks) or 1 for chunk in chunks]
    while parallel is not None and sum(shares) > parallel:  # small chunks were rounded up
        shares[shares.index(max(shares))] -= 1
    return [Array(chunk, min(share, len(chunk))) for chunk, share in zip(chunks, shares, strict=True)]


def minutes(text: str) -> int:
    """A time limit in minutes, from `90`, `90m`, `4h`, `2-12:00:00`, `4:00:00` or `4:00` (hours and minutes)."""
    found: float | None = None
    if match := re.fullmatch(r"(\d+)([mhd]?)", text):
        found = int(match[1]) * {"": 1, "m": 1, "h": 60, "d": 1440}[match[2]]
    elif match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text):
        days, hours, mins, seconds = (int(part or 0) for part in match.groups())
        found = days * 1440 + hours * 60 + mins + (seconds > 0)
    if found is None:
        raise UserError(f"--time {text}: expected minutes, or a time such as 90m, 4h, 4:00:00 or 2-12:00:00")
    if found < LEAST_MINUTES:
        raise UserError(f"--time {text}: at least {LEAST_MINUTES} minutes, to start, save and go on")
    return int(found)
