"""What installed packages add through entry points; one that is broken is named and stops no other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from typing import Any, TypeVar

from spurbench.bench.core.errors import reason
from spurbench.bench.core.terminal import line

Outcome = TypeVar("Outcome")
IMPORTED = ("spurbench.commands", "spurbench.launchers", "spurbench.pools")  # plug-ins are read without that


def load_each(group: str, use: Callable[[Any], Outcome]) -> Iterator[Outcome]:
    """What `use` makes of every entry point of a group; of one that fails a line on stderr tells."""
    for entry in find_entry_points(group):
        try:
            made = use(entry.load())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a package may even end the process
            print(f"spurbench: left out {line(f'{called(entry)}: {reason(error)}')}", file=sys.stderr)
        else:
            yield made


def find_entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group; of a package whose list of them is damaged, none."""
    try:
        return list(read(tuple(sys.path)).select(group=group))
    except Exception:
        return [
            entry for _, entries in listed() if isinstance(entries, list) for entry in entries if entry.group == group
        ]


@cache
def read(path: tuple[str, ...]) -> Any:
    """All entry points on a path for modules; every group is asked for, and to read them takes longer than the rest."""
    return entry_points()


def listed() -> Iterator[tuple[Distribution, list[EntryPoint] | str]]:
    """Every installed package with its entry points, or with why they cannot be read."""
    for package in distributions():
        try:
            yield package, list(package.entry_points)
        except Exception as error:
            yield package, reason(error)


def called(entry: EntryPoint) -> str:
    """An entry point in words: its group, its name and the package it is of."""
    of = f" of {entry.dist.name}" if entry.dist else ""
    return f"the entry point {entry.group}: {entry.name} = {entry.value}{of}"


def problems() -> list[str]:
    """What is broken among the entry points of the groups that are imported, and which lists cannot be read."""
    found = [
        f"the entry points of {package.name} cannot be read: {why}" for package, why in listed() if isinstance(why, str)
    ]
    for entry in (entry for group in IMPORTED for entry in find_entry_points(group)):
        try:
            entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            found.append(f"{called(entry)}: {reason(error)}")
    return found
