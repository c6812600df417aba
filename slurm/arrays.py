"""How jobs become SLURM arrays: what each task asks for, how many jobs it does, how many tasks an array may have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from spurbench.bench.core.errors import UserError, cut
from spurbench.bench.jobs.job import Job

LEAST_MINUTES = 15  # a task needs time to start, to save its state and to be put back into the queue
MOST_MINUTES = 3650 * 24 * 60  # SLURM counts in 32 bits: what has no room there becomes another limit
WARNING_SECONDS = 120  # before the time limit a task is told to save its state
UNITS = "KMGT"  # of memory, each 1024 of the one before; SLURM takes a bare number for megabytes
NOTHING = "none"  # asks for nothing, where there is a default to take back


@dataclass(frozen=True)
class Resources:
    """What each task of an array asks for; None is left to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None  # nodes not to use
    reservation: str | None = None
    gpus: int | str = 1  # a number, a type and a number as a100:2, or as in --gres: gpu:a100:2
    cpus: int = 2
    mem: str | None = "8G"
    mem_per_cpu: str | None = None
    time: str = "4h"
    setup: tuple[str, ...] = ()  # shell lines before the task, such as `module load cuda`
    srun: bool = False  # start the task through srun, where a cluster demands it

    def parameters(self, name: str, parallel: int) -> dict[str, Any]:
        """The same in the words of submitit's SlurmExecutor.

        Without srun the batch script's process becomes the task and gets the signals; with it, the step does.
        """
        found = {
            "job_name": name, "partition": self.partition, "account": self.account, "qos": self.qos,
            "constraint": self.constraint, "exclude": self.exclude, "cpus_per_task": self.cpus,
            "mem": None if self.mem is None else memory(self.mem),
            "mem_per_cpu": None if self.mem_per_cpu is None else memory(self.mem_per_cpu, "mem-per-cpu"),
            "time": minutes(self.time), "setup": list(self.setup) or None,
            "array_parallelism": parallel, "use_srun": self.srun, "stderr_to_stdout": True,
            "srun_args": [f"--cpus-per-task={self.cpus}"] if self.srun else None, **gpu_options(self.gpus),
        }  # fmt: skip
        if self.cpus < 1:
            raise UserError(f"--cpus {self.cpus}: at least 1")
        signal = f"{'' if self.srun else 'B:'}USR2@{WARNING_SECONDS}"
        extra = {"signal": signal, "requeue": True} | ({"reservation": self.reservation} if self.reservation else {})
        return {key: value for key, value in found.items() if value is not None} | {"additional_parameters": extra}


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
            f"{total} tasks make {len(chunks)} arrays (by resources, of at most {largest}), but only {parallel} may "
            "run at once: raise --max-parallel"
        )
    shares = [len(tasks) if parallel is None else parallel * len(tasks) // total or 1 for tasks, _ in chunks]
    while parallel is not None and sum(shares) > parallel:  # small chunks were rounded up
        shares[shares.index(max(shares))] -= 1
    return [
        Array(tasks, resources, min(share, len(tasks)))
        for (tasks, resources), share in zip(chunks, shares, strict=True)
    ]


# ---- in SLURM's words -----------------------------------------------------------------------------------------------


def minutes(text: str) -> int:
    """A time limit in minutes, from `90m`, `4h`, `2d`, or as SLURM reads it: `90` and `90:00` are minutes, `4:00:00`
    hours, `2-12`, `2-12:30` and `2-12:30:00` days and hours. Seconds are rounded up."""
    found: float | None = None
    if match := re.fullmatch(r"(\d{1,15})([mhd]?)", text):
        found = int(match[1]) * {"": 1, "m": 1, "h": 60, "d": 1440}[match[2]]
    elif match := re.fullmatch(r"(\d{1,15})-(\d{1,15})(?::(\d{1,15}))?(?::(\d{1,15}))?", text):
        days, hours, mins, seconds = (int(part or 0) for part in match.groups())
        found = days * 1440 + hours * 60 + mins + (seconds + 59) // 60
    elif match := re.fullmatch(r"(?:(\d{1,15}):)?(\d{1,15}):(\d\d)", text):
        hours, mins, seconds = (int(part or 0) for part in match.groups())
        found = hours * 60 + mins + (seconds + 59) // 60
    if found is None:
        raise UserError(f"--time {cut(text)}: expected minutes, or a time such as 90m, 4h, 4:00:00 or 2-12:00:00")
    if found > MOST_MINUTES:
        raise UserError(f"--time {text}: at most {MOST_MINUTES // 1440} days")
    if found < LEAST_MINUTES:
        read = f" ({found} minutes and seconds to SLURM; hours are 4h or 4:00:00)" if text.count(":") == 1 else ""
        raise UserError(f"--time {text}{read}: at least {LEAST_MINUTES} minutes, to start, save and go on")
    return int(found)


def memory(text: str, name: str = "mem") -> str:
    """An amount of memory as SLURM takes it, a whole number: `1.5G` is `1536M`."""
    match = re.fullmatch(rf"(\d{{1,12}}(?:\.\d{{1,9}})?)([{UNITS}]?)B?", text.upper())
    if match is None:
        raise UserError(
            f"--{name} {cut(text)}: expected an amount such as 500M, 32G or 1.5T, or {NOTHING} to ask for none"
        )
    number, unit = float(match[1]), match[2] or "M"
    while number != int(number) and unit not in "KM":
        number, unit = number * 1024, UNITS[UNITS.index(unit) - 1]
    return f"{ceil(number)}{unit}" if number else "0"  # which is all of a node's


def gpu_options(gpus: int | str) -> dict[str, str | None]:
    """How to ask for GPUs: by their number, by type and number, or in the words of --gres."""
    kind, number = gpus_asked(gpus)
    if kind.startswith("gpu:"):
        return {"gres": f"{kind}{number}"}
    return {"gpus_per_node": f"{kind}{number}" if number else None}


def gpus_asked(gpus: int | str) -> tuple[str, int]:
    """What stands before the number of GPUs (`a100:`, `gpu:a100:` or nothing), and the number."""
    match = re.fullmatch(r"((?:gpu:)?(?:[A-Za-z_][\w.-]*:)?)(\d{1,6})", str(gpus))
    if match is None:
        raise UserError(f"--gpus {cut(str(gpus))}: expected a number, or a type and a number as a100:2 or gpu:a100:2")
    return match[1], int(match[2])


# ---- another try ----------------------------------------------------------------------------------------------------


def changed(resources: Resources, mem: str | None, time: str | None) -> Resources:
    """The resources with other memory and time: new values, or factors such as `x2`."""
    new = resources.time if time is None else multiplied(str(minutes(resources.time)), time)
    found = replace(resources, time=new)
    if mem is not None and resources.mem_per_cpu and factor(mem):
        found = replace(found, mem_per_cpu=multiplied(resources.mem_per_cpu, mem))
    elif mem is not None and factor(mem) and resources.mem is None:
        raise UserError(f"--mem {mem}: the tasks asked for no amount of memory; name one, such as 32G")
    elif mem is not None:
        asked = None if mem == NOTHING else multiplied(resources.mem or "", mem)
        found = replace(found, mem=asked, mem_per_cpu=None)
    found.parameters("", 1)  # raises for what is none
    return found


def factor(text: str) -> float | None:
    """The number of `x2`, `×1.5` or `2x`; None for anything else."""
    match = re.fullmatch(r"[x×*]?(\d{1,6}(?:\.\d{1,6})?)[x×*]?", text)
    found = float(match[1]) if match and not text.replace(".", "").isdecimal() else None
    if found == 0:
        raise UserError(f"{text}: nothing is left of what the tasks asked for")
    return found


def multiplied(value: str, by: str) -> str:
    """`8G` by `x2` is `16G`, `1G` by `x1.5` is `1536M`; anything that is no factor takes the value's place."""
    times, number = factor(by), re.fullmatch(r"(\d+(?:\.\d+)?)(\w*)", value)
    if times is None or number is None:
        return by
    product = float(number[1]) * times
    if number[2]:
        return memory(f"{product:.6f}{number[2]}")
    return f"{ceil(product)}"
