"""A leaderboard as text, in the format asked for."""

from spurbench.bench.core.errors import unknown
from spurbench.bench.leaderboard.build import Leaderboard

FORMATS = ("table", "markdown", "latex", "csv", "json", "html")


def render(leaderboard: Leaderboard, format: str, colour: bool = False) -> str:
    """The leaderboard in one of FORMATS; `colour` is for a terminal and the format "table" only."""
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if format == "html":
        from spurbench.bench.formats.html import page

        return page(leaderboard)
    from spurbench.bench.formats import text

    if format == "table":
        return text.table(leaderboard, colour)
    write = {"markdown": text.markdown, "latex": text.latex, "csv": text.csv, "json": text.json}[format]
    return write(leaderboard)
