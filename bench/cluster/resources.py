"""What a task requests, and where that is set: the user's profile, the grid file, the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import ceil
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from spurbench.bench.core.errors import UserError, cut, unknown
from spurbench.bench.core.files import home

LEAST_MINUTES = 15  # a task needs time to start, to save its state and to be requeued
MOST_MINUTES = 3650 * 24 * 60  # SLURM counts in 32 bits: larger limits would overflow
UNITS = "KMGT"  # of memory, each 1024 of the one before; a bare number is in megabytes
NOTHING = "none"  # cancels a default, so that nothing is requested
Layer = tuple[str, Mapping[str, Any]]
"""Where resources are set, in words, and what they are."""


def option(default: Any, help: str) -> Any:
    """A resource with its line of `submit --help`."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Resources:
    """What each task of an array requests; None leaves it to the cluster. Launchers add further resources."""

    gpus: int | str = option(1, "GPUs per task (1), also a100:2 or gpu:a100:2; 0 for CPUs only.")
    cpus: int = option(2, "Cores per task (2).")
    mem: str | None = option("8G", "Memory per task (8G); none leaves it to the cluster.")
    mem_per_cpu: str | None = option(None, "Memory per core, instead of --mem.")
    time: str = option("4h", "Time limit per task: 90m, 4h (the default), or as for sbatch: 90, 4:00:00, 2-12.")
    setup: tuple[str, ...] = option((), "Shell line to run before each task, e.g. module load cuda; may be repeated.")

    def check(self) -> None:
        """Errors: UserError for an invalid amount, naming its option."""
        parse_gpus(self.gpus)
        minutes(self.time)
        for name, amount in (("mem", self.mem), ("mem-per-cpu", self.mem_per_cpu)):
            if amount is not None:
                memory(amount, name)
        if self.cpus < 1:
            raise UserError(f"--cpus {self.cpus}: at least 1")

    @property
    def gpu_count(self) -> int:
        return parse_gpus(self.gpus)[1]

    def changed(self, mem: str | None, time: str | None) -> Self:
        """The same resources with other memory and time: new values, or factors such as `x2`."""
        new = self.time if time is None else multiplied(str(minutes(self.time)), time)
        found = replace(self, time=new)
        if mem is not None and self.mem_per_cpu and factor(mem):
            found = replace(found, mem_per_cpu=multiplied(self.mem_per_cpu, mem))
        elif mem is not None and factor(mem) and self.mem is None:
            raise UserError(f"--mem {mem}: the tasks asked for no amount of memory; name one, such as 32G")
        elif mem is not None:
            asked = None if mem == NOTHING else multiplied(self.mem or "", mem)
            found = replace(found, mem=asked, mem_per_cpu=None)
        found.check()
        return found


AnyResources = TypeVar("AnyResources", bound=Resources)

# ---- amounts --------------------------------------------------------------------------------------------------------


def minutes(text: str) -> int:
    """A time limit in minutes, from `90m`, `4h`, `2d`, or as sbatch reads it: `90` and `90:00` are minutes, `4:00:00`
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
        read = f" ({found} minutes and seconds; hours are 4h or 4:00:00)" if text.count(":") == 1 else ""
        raise UserError(f"--time {text}{read}: at least {LEAST_MINUTES} minutes, to start, save and go on")
    return int(found)


def memory(text: str, name: str = "mem") -> str:
    """An amount of memory as a whole number with its unit: `1.5G` is `1536M`, and `0` is all of a node's."""
    match = re.fullmatch(rf"(\d{{1,12}}(?:\.\d{{1,9}})?)([{UNITS}]?)B?", text.upper())
    if match is None:
        raise UserError(
            f"--{name} {cut(text)}: expected an amount such as 500M, 32G or 1.5T, or {NOTHING} to ask for none"
        )
    number, unit = float(match[1]), match[2] or "M"
    while number != int(number) and unit not in "KM":
        number, unit = number * 1024, UNITS[UNITS.index(unit) - 1]
    return f"{ceil(number)}{unit}" if number else "0"


def parse_gpus(gpus: int | str) -> tuple[str, int]:
    """What stands before the number of GPUs (`a100:`, `gpu:a100:` or nothing), and the number."""
    match = re.fullmatch(r"((?:gpu:)?(?:[A-Za-z_][\w.-]*:)?)(\d{1,6})", str(gpus))
    if match is None:
        raise UserError(f"--gpus {cut(str(gpus))}: expected a number, or a type and a number as a100:2 or gpu:a100:2")
    return match[1], int(match[2])


def factor(text: str) -> float | None:
    """The number of `x2`, `×1.5` or `2x`; None for anything else."""
    match = re.fullmatch(r"[x×*]?(\d{1,6}(?:\.\d{1,6})?)[x×*]?", text)
    found = float(match[1]) if match and not text.replace(".", "").isdecimal() else None
    if found == 0:
        raise UserError(f"{text}: a factor of 0 would leave nothing")
    return found


def multiplied(value: str, by: str) -> str:
    """`8G` by `x2` is `16G`, `1G` by `x1.5` is `1536M`; anything that is not a factor replaces the value."""
    times, number = factor(by), re.fullmatch(r"(\d+(?:\.\d+)?)(\w*)", value)
    if times is None or number is None:
        return by
    product = float(number[1]) * times
    if number[2]:
        return memory(f"{product:.6f}{number[2]}")
    return f"{ceil(product)}"


# ---- where they are set -------------------------------------------------------------------------------------------


def profiles_file() -> Path:
    """The file of the user's profiles; without a home folder there is none."""
    own = os.environ.get("XDG_CONFIG_HOME")
    return (Path(own) if own else (home() or Path(os.devnull)) / ".config") / "spurbench" / "clusters.yaml"


def profile(name: str | None) -> Layer:
    """The profile of that name; without a name the one called `default`, if there is one.

    The file maps names to resources: `default: {partition: gpu, account: lab, time: 8h, setup: [module load cuda]}`.
    """
    from spurbench.bench.core.yamlfile import load

    file = profiles_file()
    known = load(file, str(file))[0] if os.path.exists(file) else {}  # also False if it may not be read
    if not isinstance(known, Mapping) or not all(isinstance(value, Mapping) for value in known.values()):
        raise UserError(f"{file}: expected a name for each cluster, and its resources under it")
    if name is not None and name not in known:
        raise unknown(f"cluster in {file}", name, known)
    return f"{file}, {name or 'default'}", known.get(name or "default", {})


def combine(kind: type[AnyResources], *layers: Layer) -> AnyResources:
    """The resources from all layers together; later layers override earlier ones.

    Errors: UserError for an unknown name or a value of the wrong kind, with the layer it comes from.
    """
    source: dict[str, str] = {}
    values: dict[str, Any] = {}
    known = [one.name for one in fields(kind)]
    for where, given in layers:
        for name, value in given.items():
            if name not in known:
                raise UserError(f"{where}: {unknown('resource', name, known)}")
            text = name in ("mem", "mem_per_cpu", "time") and value is not None
            source[name], values[name] = where, str(value) if text else value
        if given.get("mem") and given.get("mem_per_cpu"):
            raise UserError(f"{where}: mem and mem_per_cpu: memory of a task or of each core of it, not both")
        for name, other in (("mem", "mem_per_cpu"), ("mem_per_cpu", "mem")):
            if given.get(name):
                values[other] = None  # of an earlier layer, or the default
    values |= {name: None for name in ("mem", "mem_per_cpu") if values.get(name) == NOTHING}
    try:
        found = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0])
        raise UserError(f"{source[name]}: {name}: {wrong['msg']}, not {wrong['input']!r}") from None
    try:
        found.check()
    except UserError as error:
        name = str(error).split()[0].strip("-").replace("-", "_")  # --mem-per-cpu 1X: expected …
        where = source.get(name, "the command line")
        raise UserError(f"{error}" if where == "the command line" else f"{where}: {error}") from None
    return found
