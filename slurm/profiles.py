"""What a task asks for, from several places: a cluster profile of the user, the grid file, the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.core.files import home
from spurbench.bench.core.yamlfile import load
from spurbench.slurm.arrays import NOTHING, Resources

SHELL = {"SBATCH_PARTITION": "partition", "SBATCH_ACCOUNT": "account", "SBATCH_QOS": "qos",
         "SBATCH_CONSTRAINT": "constraint", "SBATCH_RESERVATION": "reservation", "SBATCH_TIMELIMIT": "time",
         "SBATCH_MEM_PER_NODE": "mem", "SBATCH_MEM_PER_CPU": "mem_per_cpu",
         "SBATCH_GPUS_PER_NODE": "gpus"}  # fmt: skip
Layer = tuple[str, Mapping[str, Any]]
"""Where values come from, in words, and the values."""


def profiles_file() -> Path:
    """Where the user's profiles are; without a home folder there are none."""
    own = os.environ.get("XDG_CONFIG_HOME")
    return (Path(own) if own else (home() or Path(os.devnull)) / ".config") / "spurbench" / "clusters.yaml"


def profile(name: str | None) -> Layer:
    """The profile of that name; without a name the one called `default`, if there is one.

    The file maps names to resources: `default: {partition: gpu, account: lab, time: 8h, setup: [module load cuda]}`.
    """
    file = profiles_file()
    known = load(file, str(file))[0] if os.path.exists(file) else {}  # False, too, where it may not be looked for
    if not isinstance(known, Mapping) or not all(isinstance(value, Mapping) for value in known.values()):
        raise UserError(f"{file}: expected a name for each cluster, and its resources under it")
    if name is not None and name not in known:
        raise unknown(f"cluster in {file}", name, known)
    return f"{file}, {name or 'default'}", known.get(name or "default", {})


def shell() -> Layer:
    """What the user's shell says of every job of theirs, in the variables that sbatch reads."""
    found = {name: os.environ[variable] for variable, name in SHELL.items() if os.environ.get(variable)}
    return "the shell's SBATCH_ variables", found


def resources(*layers: Layer) -> Resources:
    """The resources all layers together name, a later layer over an earlier one.

    Errors: UserError for an unknown name or a value of the wrong kind, with the layer it comes from.
    """
    source: dict[str, str] = {}
    values: dict[str, Any] = {}
    for where, given in layers:
        for name, value in given.items():
            if name not in Resources.__dataclass_fields__:
                raise UserError(f"{where}: {unknown('resource', name, Resources.__dataclass_fields__)}")
            text = name in ("mem", "mem_per_cpu", "time") and value is not None
            source[name], values[name] = where, str(value) if text else value
        if given.get("mem") and given.get("mem_per_cpu"):
            raise UserError(f"{where}: mem and mem_per_cpu: memory of a task or of each core of it, not both")
        for name, other in (("mem", "mem_per_cpu"), ("mem_per_cpu", "mem")):
            if given.get(name):
                values[other] = None  # of an earlier layer, or the default
    values |= {name: None for name in ("mem", "mem_per_cpu") if values.get(name) == NOTHING}
    try:
        found = TypeAdapter(Resources).validate_python(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0])
        raise UserError(f"{source[name]}: {name}: {wrong['msg']}, not {wrong['input']!r}") from None
    try:
        found.parameters("", 1)
    except UserError as error:
        name = str(error).split()[0].strip("-").replace("-", "_")  # --mem-per-cpu 1X: expected …
        where = source.get(name, "the command line")
        raise UserError(f"{error}" if where == "the command line" else f"{where}: {error}") from None
    return found
