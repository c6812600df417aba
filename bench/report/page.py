"""The leaderboard as one page that needs nothing else: sortable, filtered, offline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spurbench.bench.leaderboard import Leaderboard, Row, Section
from spurbench.bench.report import cells

TEMPLATE = Path(__file__).with_name("leaderboard.html.j2")
WIDTH, MARGIN = 180.0, 8.0  # of a strip, in pixels


@dataclass(frozen=True)
class Strip:
    """Every seed of a row on the scale of its table, with the mean, its interval and the published value."""

    dots: list[tuple[float, int, str]]  # x, seed, value
    mean: float | None
    low: float | None
    high: float | None
    published: float | None


def html(board: Leaderboard) -> str:
    """One self-contained page; whatever comes from plug-ins is escaped."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    sections = [(section, cells.grid(section), strips(section)) for section in board.sections]
    regimes = sorted({row.regime for row in board.rows if row.regime})
    notes = cells.footnotes(board)
    return template.render(board=board, sections=sections, regimes=regimes, notes=notes, cells=cells) + "\n"


def strips(section: Section) -> list[Strip]:
    """The strip of each line's main row, all on one scale."""
    rows = [line[0] for line in section.lines]
    seen = [v for row in rows for v in [*row.values, row.published_mean, row.ci95_low, row.ci95_high] if v is not None]
    low, high = min(seen, default=0.0), max(seen, default=1.0)
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * (value - low) / span, 1)

    return [strip(row, x) for row in rows]


def strip(row: Row, x: Callable[[float], float]) -> Strip:
    def place(value: float | None) -> float | None:
        return None if value is None else x(value)

    dots = [(x(value), seed, cells.number(value, row)) for seed, value in zip(row.seeds, row.values, strict=True)]
    return Strip(dots, place(row.mean), place(row.ci95_low), place(row.ci95_high), place(row.published_mean))
