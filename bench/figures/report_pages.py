"""A store as a folder of pages that need no network: a start page, the leaderboard and every figure it has runs for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError
from spurbench.bench.figures import draw, sheet
from spurbench.bench.figures.figure_data import FigureData, explain_missing
from spurbench.bench.formats import html
from spurbench.bench.leaderboard import build
from spurbench.bench.leaderboard import wording as say
from spurbench.bench.leaderboard.build import Leaderboard
from spurbench.bench.store.store import Store

PIXELS_PER_INCH = 130  # pixels of the page for an inch of paper


@dataclass
class Report:
    """What a report holds: the figures drawn, and for each of the others the reason and the command that helps."""

    figures: list[sheet.Figure] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)  # figure → what is missing in it
    lacking: dict[str, str] = field(default_factory=dict)


def write_report(store: Store, out: Path, grid: str | None = None) -> Report:
    """Write OUT/index.html, OUT/leaderboard.html and OUT/figures/; panels without runs stay empty."""
    board, made = build.build_from_store(store, grid=grid), Report()
    draw.write_file(out / "leaderboard.html", html.render(board, home="index.html").encode())
    source = FigureData(store)
    for figure in sheet.shipped():
        try:
            drawing = draw.prepare(figure, source, partial=True)
        except UserError as error:
            made.lacking[figure.name] = str(error).removeprefix(f"{figure.name}: ")
            continue
        draw.save(drawing, out / "figures" / figure.name)
        made.figures.append(figure)
        made.notes[figure.name] = [
            explain_missing(some, source, figure.argument)
            for what in ("runs", "kept")
            if (some := [lack for lack in drawing.missing if lack.what == what])
        ]
    draw.write_file(out / "index.html", start_page(board, made).encode())
    return made


def start_page(board: Leaderboard, made: Report) -> str:
    figures = [
        {"name": one.name, "title": one.sheet.title, "caption": one.sheet.caption, "source": one.sheet.source,
         "width": round(one.sheet.width * PIXELS_PER_INCH), "notes": made.notes[one.name]}
        for one in made.figures
    ]  # fmt: skip
    return html.render_template("index.html.j2", tables=table_rows(board), figures=figures, endings=draw.FORMATS,
                         lacking=made.lacking, runs=html.count_runs(board), finished=board.finished[:10])  # fmt: skip


def table_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """A row for each table of the leaderboard page, in its order."""
    found = []
    for section in board.sections:
        for columns in say.parts(section):
            rows = [line[columns[0]] for line in section.lines]
            best = [f"{row.label} {say.number(row.mean, row.unit)}{say.signs(row)}" for row in rows if row.among_best]
            found.append({"title": say.title(section), "metric": say.heading(rows[0]), "best": best,
                          "methods": len(rows), "runs": sum(row.n for row in rows)})  # fmt: skip
    return found
