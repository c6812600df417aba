"""A grid once it is resolved: its cells, each with every value filled in, and what they may be called by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from msgspec import to_builtins

from spurbench.bench.core.errors import unknown
from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.records.plan import Choice, Origin
from spurbench.bench.records.run import OPTIONAL


@dataclass(frozen=True)
class DrawSpec:
    """One candidate of a search: the settings it runs with, and those it would give the cell."""

    final: Mapping[str, Mapping[str, Any]]  # place → name → value: the settings of the cell if this one is chosen
    hyper_parameters: Mapping[str, Any]
    training: Mapping[str, Any]
    dataset_options: Mapping[str, Any]
    base: Mapping[str, Any] | None = None  # the run that each of its own runs starts from
    final_base: Mapping[str, Any] | None = None  # that of the cell's runs if this one is chosen


@dataclass(frozen=True)
class SearchSpec:
    """How a cell's hyper-parameters are found."""

    rule: str
    text: str  # the budget and the rule in words
    seeds: tuple[int, ...]
    draws: tuple[DrawSpec, ...]


@dataclass(frozen=True)
class CellSpec:
    """One row of one dataset's table, every value resolved; `na` says why it cannot run."""

    dataset: str
    dataset_options: Mapping[str, Any]
    protocol_version: int
    method: str
    label: str
    published: str | None
    hyper_parameters: Mapping[str, Any]
    training: Mapping[str, Any]
    precision: str
    seeds: tuple[int, ...]
    na: str | None = None
    selection: Choice = Choice("none")
    search: SearchSpec | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)  # what a launcher on a cluster should ask for
    source: str = ""  # where the settings are from, in words
    base: Mapping[str, Any] | None = None  # the run that each starts from
    inferred_by: Mapping[str, Any] | None = None  # the run that infers the groups that each is given


@dataclass(frozen=True)
class Grid:
    """A validated grid, every cell resolved; nothing in it can be a user's mistake any more."""

    name: str
    description: str
    selection: Choice
    notes: tuple[str, ...]
    cells: tuple[CellSpec, ...]
    place: str = ""  # where its file is, hashed; the same grid, edited, is found by it

    def sources(self) -> dict[str, list[str]]:
        """Where the settings are from, in words → the cells, as dataset/label, that can run with them."""
        found: dict[str, list[str]] = {}
        for cell in self.cells:
            source = cell.source + (f"; searched: {cell.search.text}" if cell.search else "")
            if not cell.na and f"{cell.dataset}/{cell.label}" not in found.setdefault(source, []):
                found[source].append(f"{cell.dataset}/{cell.label}")
        return {source: names for source, names in found.items() if names}

    @cached_property
    def origin(self) -> Origin:
        """Where it is from and a hash of what is to be run: equal grids have it wherever their files are."""
        cells = [
            {name: value for name, value in stated(vars(cell)).items() if name != "source"}
            | {
                "resources": None,
                "selection": to_builtins(cell.selection),
                "search": cell.search
                and asdict(cell.search) | {"draws": [stated(vars(draw)) for draw in cell.search.draws]},
            }
            for cell in self.cells
        ]
        return Origin(self.place or "unknown", fingerprint(cells)[:16])


def stated(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without bases that there are none of: a grid without them keeps the hash that it had before."""
    return {name: value for name, value in fields.items() if value is not None or name not in (*OPTIONAL, "final_base")}


def only(grid: Grid, patterns: Sequence[str]) -> Grid:
    """The grid with the cells that a pattern names: dataset, method, label or dataset/method, also `co*`.

    Errors: UserError for a pattern that names no cell.
    """
    if not patterns:
        return grid
    names = [cell_names(cell.dataset, cell.method, cell.label) for cell in grid.cells]
    kept = chosen(names, patterns, "dataset, method or label in the grid")
    return replace(grid, cells=tuple(grid.cells[place] for place in sorted(kept)))


def cell_names(dataset: str, method: str, label: str) -> tuple[str, ...]:
    """What a cell may be called by."""
    return dataset, method, label, f"{dataset}/{method}", f"{dataset}/{label}"


def chosen(rows: Sequence[Collection[str]], patterns: Iterable[str], kind: str) -> set[int]:
    """The places of the rows that the patterns name, each row given by all its names.

    What is a name as it stands means that one, even with `*`, `?` or `[` in it; else it is a pattern.
    Errors: UserError for one that names none, with the nearest name.
    """
    found: set[int] = set()
    for pattern in patterns:
        here = picked(rows, pattern)
        if not here:
            raise unknown(kind, pattern, {name for names in rows for name in names if "/" not in name})
        found |= here
    return found


def picked(rows: Sequence[Collection[str]], pattern: str) -> set[int]:
    """The places of the rows that one pattern names, as for `chosen`."""
    exact = {place for place, names in enumerate(rows) if pattern in names}
    return exact or {place for place, names in enumerate(rows) if any(fnmatchcase(name, pattern) for name in names)}
