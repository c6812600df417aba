"""Cells named on the command line: by dataset, method, label, or a pattern of these."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from spurbench.bench.core.errors import unknown
from spurbench.bench.grid.cells import Grid


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
