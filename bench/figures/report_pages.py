"""A store as one folder of pages that need no network: a start page, the leaderboard, every figure it can give."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError
from spurbench.bench.figures import draw, sheet
from spurbench.bench.figures.source import Source, complaint
from spurbench.bench.formats import html
from spurbench.bench.leaderboard import build
from spurbench.bench.leaderboard import wording as say
from spurbench.bench.leaderboard.build import Leaderboard
from spurbench.bench.store.store import Store

INCH = 130  # pixels of the page for an inch of paper


@dataclass
class Made:
    """What a report holds: the figures drawn, and for each that was not the reason and the command that helps."""

    figures: list[sheet.Figure] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)  # figure → what is missing in it
    lacking: dict[str, str] = field(default_factory=dict)


def write(store: Store, out: Path, grid: str | None = None) -> Made:
    """Write OUT/index.html, OUT/leaderboard.html and OUT/figures/; figures lack what the store lacks."""
    board, made = build.build_from_store(store, grid=grid), Made()
    draw.put(out / "leaderboard.html", html.render(board, home="index.html").encode())
    source = Source(store)
    for figure in sheet.shipped():
        try:
            drawing = draw.make(figure, source, partial=True)
        except UserError as error:
            made.lacking[figure.name] = str(error).removeprefix(f"{figure.name}: ")
            continue
        draw.save(drawing, out / "figures" / figure.name)
        made.figures.append(figure)
        made.notes[figure.name] = [
            complaint(some, source, figure.asked)
            for what in ("runs", "kept")
            if (some := [lack for lack in drawing.lacks if lack.what == what])
        ]
    draw.put(out / "index.html", start_page(board, made).encode())
    return made


def start_page(board: Leaderboard, made: Made) -> str:
    figures = [
        {"name": one.name, "title": one.sheet.title, "caption": one.sheet.caption, "source": one.sheet.source,
         "width": round(one.sheet.width * INCH), "notes": made.notes[one.name]}
        for one in made.figures
    ]  # fmt: skip
    return html.render_template("index.html.j2", tables=tables(board), figures=figures, endings=draw.FORMATS,
                         lacking=made.lacking, runs=html.count_runs(board), finished=board.finished[:10])  # fmt: skip


def tables(board: Leaderboard) -> list[dict[str, Any]]:
    """A line for each table of the leaderboard page, in its order."""
    found = []
    for section in board.sections:
        for columns in say.parts(section):
            rows = [line[columns[0]] for line in section.lines]
            best = [f"{row.label} {say.number(row.mean, row.unit)}{say.signs(row)}" for row in rows if row.among_best]
            found.append({"title": say.title(section), "metric": say.heading(rows[0]), "best": best,
                          "methods": len(rows), "runs": sum(row.n for row in rows)})  # fmt: skip
    return found
