"""A leaderboard as text. A format is a file in this folder, with the ENDINGS of its files and `render`."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from spurbench.bench.core.errors import unknown
from spurbench.bench.leaderboard.build import Leaderboard

DEFAULT = "table"


class Format(Protocol):
    """What a file of this folder holds."""

    ENDINGS: tuple[str, ...]

    def render(self, board: Leaderboard, colour: bool = False) -> str:
        """The text; `colour` says that it is for a terminal that supports colours."""


@cache
def format_names() -> tuple[str, ...]:
    """The formats there are."""
    return tuple(
        sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in ("__init__", "render"))
    )


def load_format(name: str) -> Format:
    """The format of that name, its file imported. Errors: UserError for an unknown name, with the nearest."""
    if name not in format_names():
        raise unknown("format", name, format_names())
    return cast(Format, importlib.import_module(f"spurbench.bench.formats.{name}"))


def format_of(file: Path | None) -> str:
    """The format that a file's ending stands for; the terminal's if it stands for none."""
    for name in format_names() if file and file.suffix else ():
        if file and file.suffix.lower() in load_format(name).ENDINGS:
            return name
    return DEFAULT


def render(leaderboard: Leaderboard, format: str, colour: bool = False) -> str:
    """The leaderboard in one of the formats."""
    return load_format(format).render(leaderboard, colour)
