"""Grids: a YAML file or command-line options, validated, resolved to cells and expanded to runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.core.files import at_home
from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.core.yamlfile import Origin, load
from spurbench.bench.grid.cells import Grid
from spurbench.bench.plugin_files.places import without_folders
from spurbench.bench.records.selection import choice_of

if TYPE_CHECKING:
    from spurbench.bench.grid.schema import GridSheet

SHIPPED = Path(__file__).with_name("shipped")


def shipped_grids() -> dict[str, str]:
    """The grids that come with spurbench: name → description."""
    found = {}
    for file in sorted(SHIPPED.glob("*.yaml")):
        data, _ = load(file, file.name)
        found[file.stem] = str(data.get("description", "")).strip()
    return found


def load_grid(name_or_path: str, sets: Sequence[str] = ()) -> Grid:
    """The shipped grid of that name, or the grid file at that path.

    With `sets`, as `["training.steps=10"]`, it is another grid, whose name tells it from the unchanged one.

    Errors: UserError `file:line: what is wrong; the nearest valid name`, or for one of `sets` of no use to any cell.
    """
    data, origin, stem = read_grid(name_or_path)
    shipped = SHIPPED / f"{name_or_path}.yaml"
    place = f"shipped {name_or_path}" if shipped.is_file() else str(at_home(Path(name_or_path)).resolve())
    found = replace(resolve(data, origin, stem, sets), place=fingerprint(place)[:16])
    if not sets:
        return found
    notes = (*found.notes, f"set by hand: {without_folders(', '.join(sets))}")
    return replace(found, name=f"{found.name}-set-{fingerprint(sorted(sets))[:8]}", notes=notes)


def read_grid(name_or_path: str) -> tuple[Any, Origin, str]:
    """The raw content of a grid, where it came from, and its file's stem."""
    shipped = {file.stem: file for file in SHIPPED.glob("*.yaml")}
    path = shipped.get(name_or_path) or at_home(Path(name_or_path))
    try:
        data, origin = load(path, path.name if name_or_path in shipped else str(path))
    except FileNotFoundError:
        error = unknown("grid", name_or_path, shipped)
        raise UserError(f"{error}, or the path of a .yaml file") from None
    return data, origin, path.stem


def resolve(data: Any, origin: Origin, name: str, sets: Sequence[str] = ()) -> Grid:
    """The grid of a file's content, with the values of the command line in it; `name` if the file gives none."""
    from spurbench.bench.grid.overrides import check_used, overridden
    from spurbench.bench.grid.resolve import cells_of  # pydantic comes with these
    from spurbench.bench.grid.schema import validate

    sheet: GridSheet = validate(data, origin)
    commanded: Mapping[str, Any] = {}
    left: set[str] = set()
    if sets:
        sheet, origin, commanded, left = overridden(sheet, origin, sets)
    cells = tuple(cells_of(sheet, origin, commanded))
    check_used(left, cells, sheet, origin)
    rule = choice_of(sheet.selection)
    return Grid(sheet.name or name, sheet.description.strip(), rule, tuple(sheet.notes), cells)
