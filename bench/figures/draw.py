"""A figure from a store: first the plotted numbers, then the same numbers drawn."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import write_atomically
from spurbench.bench.figures import style
from spurbench.bench.figures.figure_data import FigureData, FoundCell, Missing, PanelData, explain_missing
from spurbench.bench.figures.sheet import Figure
from spurbench.bench.jobs import retrain
from spurbench.bench.records.record import Summary
from spurbench.bench.store.store import Packed

FORMATS = ("svg", "pdf", "png", "json")
PNG_DPI = 220


@dataclass(frozen=True)
class Drawing:
    """A figure's numbers, panel by panel (None where the store has none), and what the store lacks for it."""

    figure: Figure
    parts: list[PanelData | None]
    missing: list[Missing]

    def to_json(self) -> bytes:
        """The plotted numbers and what they were made from."""
        sheet = self.figure.sheet
        panels = [
            {"title": panel.title, "kind": type(panel).__module__.rpartition(".")[2], "data": part}
            for panel, part in zip(self.figure.panels, self.parts, strict=True)
        ]
        head = {"figure": self.figure.name, "title": sheet.title, "caption": sheet.caption, "source": sheet.source}
        return json.dumps(head | {"panels": panels}, ensure_ascii=False).encode()


def prepare(figure: Figure, source: FigureData, partial: bool = False) -> Drawing:
    """The figure's numbers from what the store has.

    Errors: UserError, in one line with the command that helps, if a panel has no runs or nothing that was kept of them;
    with `partial`, only if that holds for every panel.
    """
    missing = [panel.find_missing(source) for panel in figure.panels]
    barren = [[lack for lack in some if lack.leaves_nothing] for some in missing]
    if all(barren) if partial else any(barren):
        raise UserError(
            f"{figure.name}: {explain_missing([lack for some in barren for lack in some], source, figure.argument)}"
        )
    parts = [None if none else panel.gather(source) for panel, none in zip(figure.panels, barren, strict=True)]
    return Drawing(figure, parts, [lack for some in missing for lack in some])


def find_retrainings(figures: Sequence[Figure], source: FigureData) -> list[retrain.Retraining]:
    """The runs to train again because what these figures need of them was not kept, in stacks of one cell."""
    if source.store is None:
        return []
    if isinstance(source.store, Packed):
        raise UserError("--train keeps what it makes in the store: name a store folder (`spurbench merge` makes one)")
    wanted: dict[str, Summary] = {}
    options: dict[str, dict[str, Any]] = {}  # run id → fields of Retraining
    for panel in (panel for figure in figures for panel in figure.panels):
        for lack in (lack for lack in panel.find_missing(source) if lack.what == "kept"):
            for record in lack.records:
                wanted[record.id] = record
                options.setdefault(record.id, {"drawings": False}).update(panel.retraining_options())
    groups: dict[str, list[Summary]] = {}
    for id, record in wanted.items():
        groups.setdefault(f"{retrain.job_of([record]).runs[0].cell_key} {options[id]}", []).append(record)
    return [
        retrain.Retraining(stack, source.store.root, **options[stack[0].id])
        for records in groups.values()
        for stack in retrain.stacks(records)
    ]


# ---- drawing -----------------------------------------------------------------------------------------------------


def save(drawing: Drawing, base: Path) -> list[Path]:
    """Write BASE.svg, .pdf, .png and .json, and return their paths. The same numbers give the same bytes."""
    title = {"Title": drawing.figure.sheet.title}
    with style.use_style():
        paper = draw_figure(drawing)
        svg = render_format(paper, "svg", metadata=title | {"Date": None})
        pdf = render_format(paper, "pdf", metadata=title | {"CreationDate": None})
        png = render_format(paper, "png", dpi=PNG_DPI, metadata=title)
    found = []
    for ending, content in zip(FORMATS, (svg, pdf, png, drawing.to_json()), strict=True):
        found.append(base.with_name(f"{base.name}.{ending}"))
        write_file(found[-1], content)
    return found


def write_file(path: Path, content: bytes) -> None:
    """Write a file; UserError if that fails."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another place with --out") from None


def render_format(paper: Any, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    paper.savefig(buffer, format=format, **options)
    return buffer.getvalue()


def draw_figure(drawing: Drawing) -> Any:
    """The matplotlib figure; call it within `use_style`."""
    from matplotlib.figure import Figure as Paper

    figure, sheet = drawing.figure, drawing.figure.sheet
    rows = -(-len(figure.panels) // sheet.columns)
    paper = Paper(figsize=(sheet.width, sheet.height), layout="constrained")
    grid = paper.add_gridspec(rows, sheet.columns, width_ratios=sheet.widths)
    for place, (panel, part) in enumerate(zip(figure.panels, drawing.parts, strict=True)):
        axes = paper.add_subplot(grid[divmod(place, sheet.columns)])
        axes.set_title(panel.title)
        if part is None:
            style.draw_empty(axes, "no runs yet" if has_no_runs(drawing, place) else "not kept", panel.box)
        else:
            panel.draw(axes, part)
    return paper


def has_no_runs(drawing: Drawing, place: int) -> bool:
    cells = {(cell.dataset, cell.label) for cell in drawing.figure.panels[place].cells()}
    return any(lack.what == "runs" and cell_of(lack.found) in cells for lack in drawing.missing)


def cell_of(found: FoundCell) -> tuple[str, str]:
    return found.planned.dataset, found.planned.label
