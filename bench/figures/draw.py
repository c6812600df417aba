"""A figure from a store: the plotted numbers first, then the same numbers on paper."""

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
from spurbench.bench.figures.sheet import Figure
from spurbench.bench.figures.source import Found, Lack, Part, Source, complaint
from spurbench.bench.jobs import retrain
from spurbench.bench.records.record import Summary
from spurbench.bench.store.store import Packed

FORMATS = ("svg", "pdf", "png", "json")
PNG_DPI = 220


@dataclass(frozen=True)
class Drawing:
    """A figure's numbers, panel by panel (None where the store has none), and what the store lacks of it."""

    figure: Figure
    parts: list[Part | None]
    lacks: list[Lack]

    def to_json(self) -> bytes:
        """The plotted numbers and what they were made of."""
        sheet = self.figure.sheet
        panels = [
            {"title": panel.title, "kind": type(panel).__module__.rpartition(".")[2], "data": part}
            for panel, part in zip(self.figure.panels, self.parts, strict=True)
        ]
        head = {"figure": self.figure.name, "title": sheet.title, "caption": sheet.caption, "source": sheet.source}
        return json.dumps(head | {"panels": panels}, ensure_ascii=False).encode()


def make(figure: Figure, source: Source, partial: bool = False) -> Drawing:
    """The figure's numbers from what the source has.

    Errors: UserError, in one line with the command that helps, where a panel has no run or nothing kept of any; if
    `partial`, only where no panel has.
    """
    lacks = [panel.lacks(source) for panel in figure.panels]
    barren = [[lack for lack in some if lack.empties] for some in lacks]
    if all(barren) if partial else any(barren):
        raise UserError(f"{figure.name}: {complaint([lack for some in barren for lack in some], source, figure.asked)}")
    parts = [None if none else panel.gather(source) for panel, none in zip(figure.panels, barren, strict=True)]
    return Drawing(figure, parts, [lack for some in lacks for lack in some])


def again_for(figures: Sequence[Figure], source: Source) -> list[retrain.Retraining]:
    """The runs of which nothing is kept that these figures are drawn from, each once, cell by cell in stacks."""
    if source.store is None:
        return []
    if isinstance(source.store, Packed):
        raise UserError("--train keeps what it makes in the store: name a folder (`spurbench merge` makes one)")
    wanted: dict[str, Summary] = {}
    wishes: dict[str, dict[str, Any]] = {}  # run id → fields of Again
    for panel in (panel for figure in figures for panel in figure.panels):
        for lack in (lack for lack in panel.lacks(source) if lack.what == "kept"):
            for record in lack.records:
                wanted[record.id] = record
                wishes.setdefault(record.id, {"drawings": False}).update(panel.wish())
    groups: dict[str, list[Summary]] = {}
    for id, record in wanted.items():
        groups.setdefault(f"{retrain.job_of([record]).runs[0].cell_key} {wishes[id]}", []).append(record)
    return [
        retrain.Retraining(stack, source.store.root, **wishes[stack[0].id])
        for records in groups.values()
        for stack in retrain.stacks(records)
    ]


# ---- on paper -----------------------------------------------------------------------------------------------------


def save(drawing: Drawing, base: Path) -> list[Path]:
    """Write BASE.svg, .pdf, .png and .json; their paths. The same numbers give the same bytes."""
    title = {"Title": drawing.figure.sheet.title}
    with style.look():
        paper = on_paper(drawing)
        svg = drawn(paper, "svg", metadata=title | {"Date": None})
        pdf = drawn(paper, "pdf", metadata=title | {"CreationDate": None})
        png = drawn(paper, "png", dpi=PNG_DPI, metadata=title)
    found = []
    for ending, content in zip(FORMATS, (svg, pdf, png, drawing.to_json()), strict=True):
        found.append(base.with_name(f"{base.name}.{ending}"))
        put(found[-1], content)
    return found


def put(path: Path, content: bytes) -> None:
    """Write a file; UserError where that cannot be done."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another place with --out") from None


def drawn(paper: Any, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    paper.savefig(buffer, format=format, **options)
    return buffer.getvalue()


def on_paper(drawing: Drawing) -> Any:
    """The matplotlib figure; call it within the look."""
    from matplotlib.figure import Figure as Paper

    figure, sheet = drawing.figure, drawing.figure.sheet
    rows = -(-len(figure.panels) // sheet.columns)
    paper = Paper(figsize=(sheet.width, sheet.height), layout="constrained")
    grid = paper.add_gridspec(rows, sheet.columns, width_ratios=sheet.widths)
    for place, (panel, part) in enumerate(zip(figure.panels, drawing.parts, strict=True)):
        axes = paper.add_subplot(grid[divmod(place, sheet.columns)])
        axes.set_title(panel.title)
        if part is None:
            style.empty(axes, "no runs yet" if lacks_runs(drawing, place) else "not kept", panel.box)
        else:
            panel.draw(axes, part)
    return paper


def lacks_runs(drawing: Drawing, place: int) -> bool:
    cells = {(cell.dataset, cell.label) for cell in drawing.figure.panels[place].cells()}
    return any(lack.what == "runs" and name_of(lack.found) in cells for lack in drawing.lacks)


def name_of(found: Found) -> tuple[str, str]:
    return found.planned.dataset, found.planned.label
