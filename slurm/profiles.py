"""What a task asks for, from several places: a cluster profile of the user, the grid file, the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spurbench.bench.errors import UserError, unknown
from spurbench.bench.home import home
from spurbench.bench.yamlfile import load
from spurbench.slurm.arrays import Resources

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
            source[name], values[name] = where, str(value) if name in ("mem", "time") else value
    try:
        return TypeAdapter(Resources).validate_python(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0])
        raise UserError(f"{source[name]}: {name}: {wrong['msg']}, not {wrong['input']!r}") from None
