"""How jobs become SLURM arrays: what each task asks for, how many jobs it does, how many tasks an array may have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    gpus: int = 1
    cpus: int = 2
    mem: str = "8G"
    time: str = "4h"
    setup: tuple[str, ...] = ()  # shell lines before the task, such as `module load cuda`
    srun: bool = False  # start the task through srun, where a cluster demands it

    def parameters(self, name: str, parallel: int) -> dict[str, Any]:
        """The same in the words of submitit's SlurmExecutor.

        Without srun the batch script's process becomes the task and gets the signals; with it, the step does.
        """
        found = {
            "job_name": name, "partition": self.partition, "account": self.account, "qos": self.qos,
            "constraint": self.constraint, "gpus_per_node": self.gpus or None, "cpus_per_task": self.cpus,
            "mem": self.mem, "time": minutes(self.time), "setup": list(self.setup) or None,
            "array_parallelism": parallel, "use_srun": self.srun, "stderr_to_stdout": True,
            "srun_args": [f"--cpus-per-task={self.cpus}"] if self.srun else None,
        }  # fmt: skip
        signal = f"{'' if self.srun else 'B:'}USR2@{WARNING_SECONDS}"
        extra = {"additional_parameters": {"signal": signal, "requeue": True}}
        return {key: value for key, value in found.items() if value is not None} | extra


@dataclass(frozen=True)
class Array:
    """One sbatch: task i does the jobs `tasks[i]`, one after the other."""

    tasks: list[list[Job]]
    resources: Resources
    parallel: int  # tasks of this array at once


def plan(
    groups: Mapping[Resources, Sequence[Job]], jobs_per_task: int, largest: int, parallel: int | None
) -> list[Array]:
    """The arrays for these jobs, none with more than `largest` tasks; together they run `parallel` tasks at once."""
    chunks = []
    for resources, jobs in groups.items():
        tasks = [list(jobs[at : at + jobs_per_task]) for at in range(0, len(jobs), jobs_per_task)]
        chunks += [(tasks[at : at + largest], resources) for at in range(0, len(tasks), largest)]
    total = sum(len(tasks) for tasks, _ in chunks)
    if parallel is not None and parallel < len(chunks):
        raise UserError(
            f"{total} tasks make {len(chunks)} arrays of at most {largest}, but only {parallel} tasks may run at "
            "once: raise --max-parallel or --jobs-per-task"
        )
    shares = [len(tasks) if parallel is None else parallel * len(tasks) // total or 1 for tasks, _ in chunks]
    while parallel is not None and sum(shares) > parallel:  # small chunks were rounded up
        shares[shares.index(max(shares))] -= 1
    return [
        Array(tasks, resources, min(share, len(tasks)))
        for (tasks, resources), share in zip(chunks, shares, strict=True)
    ]


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


def changed(resources: Resources, mem: str | None, time: str | None) -> Resources:
    """The resources with other memory and time: new values, or factors such as `x2`."""
    found = replace(
        resources,
        mem=multiplied(resources.mem, mem) if mem else resources.mem,
        time=multiplied(str(minutes(resources.time)), time) if time else resources.time,
    )
    minutes(found.time)
    return found


def multiplied(value: str, by: str) -> str:
    """`8G` by `x2` is `16G`; anything that is no factor takes the value's place."""
    times, number = re.fullmatch(r"[x×*](\d+(?:\.\d+)?)", by), re.fullmatch(r"(\d+)(\w*)", value)
    return f"{int(int(number[1]) * float(times[1]))}{number[2]}" if times and number else by
