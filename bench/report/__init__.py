"""A leaderboard in the formats people read: terminal, Markdown, LaTeX, CSV, JSON and one HTML page."""

from __future__ import annotations

from spurbench.bench.errors import unknown
from spurbench.bench.leaderboard import Leaderboard

FORMATS = ("table", "markdown", "latex", "csv", "json", "html")


def render(board: Leaderboard, format_: str, colour: bool = False) -> str:
    """The leaderboard as text in one of FORMATS; `colour` lets a terminal table use its terminal."""
    from spurbench.bench.report import page, text

    if format_ not in FORMATS:
        raise unknown("format", format_, FORMATS)
    if format_ == "table":
        return text.table(board, colour)
    makers = {
        "markdown": text.markdown,
        "latex": text.latex,
        "csv": text.csv,
        "json": text.as_json,
        "html": page.html,
    }
    return makers[format_](board)
