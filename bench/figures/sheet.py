"""Files of figures, validated: each has a title, a size and panels. A kind of panel is a file in panels/."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.core.files import at_home
from spurbench.bench.core.yamlfile import Origin
from spurbench.bench.core.yamlfile import load as document
from spurbench.bench.figures.figure_data import Panel
from spurbench.bench.grid.schema import Strict, checked

FOLDER = Path(__file__).parent
PANELS = FOLDER / "panels"


class FigureSheet(Strict):
    """A figure; sizes are in inches as printed: 3.4 wide for one column, 7 for two."""

    title: str
    caption: str = ""
    source: str = ""  # where it was published
    grid: str | None = None  # of cells that name none
    width: float = Field(default=7.0, ge=1, le=20)
    height: float = Field(default=2.4, ge=1, le=30)
    columns: int = Field(default=1, ge=1)  # of panels
    widths: list[float] | None = None  # of the columns, relative to each other
    panels: list[dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class Figure:
    """A figure with its panels."""

    name: str
    sheet: FigureSheet
    panels: list[Panel]
    file: str = ""  # path of the user's file it is from, if any

    @property
    def argument(self) -> str:
        """The argument by which `spurbench figure` draws it."""
        return self.file or self.name


def load(name_or_path: str) -> list[Figure]:
    """The shipped figure of that name, all of a shipped file, or all of the file at that path.

    Errors: UserError `file:line: what is wrong; the nearest valid name`.
    """
    files = {path.stem: path for path in FOLDER.glob("*.yaml")}
    if name_or_path in files:
        return figures_of(files[name_or_path])
    if name_or_path.endswith((".yaml", ".yml")):
        return [replace(one, file=name_or_path) for one in figures_of(at_home(Path(name_or_path)))]
    known = {one.name: one for one in shipped()}
    if name_or_path not in known:
        raise UserError(f"{unknown('figure', name_or_path, [*known, *files])}, or the path of a .yaml file")
    return [known[name_or_path]]


def shipped() -> list[Figure]:
    """All figures that come with spurbench."""
    return [one for path in sorted(FOLDER.glob("*.yaml")) for one in figures_of(path)]


def figures_of(path: Path) -> list[Figure]:
    """All figures of a file."""
    try:
        data, origin = document(path, str(path))
    except FileNotFoundError:
        raise UserError(f"no file of figures {path}") from None
    if not isinstance(data, Mapping) or not all(isinstance(one, Mapping) for one in data.values()):
        raise origin.error((), "expected NAME: with a title and panels for each figure")
    return [make_figure(name, fields, origin) for name, fields in data.items()]


def make_figure(name: str, fields: Any, origin: Origin) -> Figure:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise origin.error((name,), f"'{name}' cannot name a file: expected letters, digits, '.', '_' and '-'")
    sheet = checked(fields, FigureSheet, origin, (name,), name)
    grid = sheet.grid
    if grid and grid.endswith((".yaml", ".yml")):
        grid = str(Path(origin.name).parent / grid)
    shared = {} if grid is None else {"grid": grid}
    panels = [make_panel(shared | one, (name, "panels", place), origin) for place, one in enumerate(sheet.panels)]
    return Figure(name, sheet, panels)


def make_panel(fields: Mapping[str, Any], where: tuple[str | int, ...], origin: Origin) -> Panel:
    """One panel, by its kind."""
    kind = fields.get("kind")
    if kind not in panel_kinds():
        raise origin.error((*where, "kind"), str(unknown("kind of panel", str(kind), panel_kinds())))
    rest = {key: value for key, value in fields.items() if key != "kind"}
    return checked(rest, load_panel_class(str(kind)), origin, where, f"a panel of kind '{kind}'")


@cache
def panel_kinds() -> tuple[str, ...]:
    """The names of the kinds of panels."""
    return tuple(sorted(file.stem for file in PANELS.glob("*.py") if file.stem != "__init__"))


def load_panel_class(name: str) -> type[Panel]:
    """The class of a kind of panel: the one named like its file."""
    module = importlib.import_module(f"spurbench.bench.figures.panels.{name}")
    return cast(type[Panel], getattr(module, name.title().replace("_", "")))
