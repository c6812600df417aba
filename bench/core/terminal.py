"""What goes to a terminal or a pipe, whatever it is: text of a user's is never markup, a control code or an error."""

from __future__ import annotations

import codecs
import io
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spurbench.bench.core.errors import short

if TYPE_CHECKING:
    from rich.console import Console

LIKE = {"−": "-", "–": "-", "—": "-", "─": "-", "±": "~", "×": "x", "·": ".", "…": ".", "†": "+", "Δ": "d", "≈": "~",
        "‖": "|", "→": ">", "←": "<"}  # fmt: skip
"""One sign for one, so that columns stay in line and no number loses its minus where an encoding is poor."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
MANY = 1000  # rows; of more no table is drawn
NARROW = 60  # columns; a table of fewer says nothing


def prepare() -> None:
    """Make the standard streams fit for any text, on any terminal, even where they are closed."""
    for number in range(3):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    codecs.register_error("spurbench", alike)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif name == "stderr" and isinstance(stream, io.TextIOWrapper) and stream is sys.__stderr__:
            sys.stderr = Lasting(stream.buffer, stream.encoding, "spurbench", line_buffering=True)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spurbench")


class Lasting(io.TextIOWrapper):
    """Standard error, to which a command tells how far it is: if no one can read that any more, the work goes on."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self.silence()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self.silence()

    def silence(self) -> None:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def alike(error: UnicodeError) -> tuple[str, int]:
    """An error handler: signs that an encoding lacks become similar ones, or their number, so that names stay apart."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(LIKE.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lacking), error.end


def plain(text: object) -> str:
    """Text without control characters, which could move the cursor or colour what follows: they are shown instead."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def line(text: object, most: int = 1000) -> str:
    """Text as one line of bounded length, for a cell of a table or a message."""
    return short(plain(" ".join(part.strip() for part in str(text).splitlines())), most)


def coloured() -> bool:
    """Whether standard output is a terminal that knows colours."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def console(stderr: bool = False) -> Console:
    """A console that takes text as it is."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal:
        made.width = 120
    return made


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], title: str = "") -> None:
    """Rows as a terminal table; `columns` maps keys to headings."""
    if len(rows) > MANY:
        print(*filter(None, (line(title), aligned(rows, columns))), sep="\n")
        return
    out = console()
    out.print(table(rows, columns, title, out.width))


def aligned(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as columns of text, a line each however wide: a table of thousands takes its seconds."""
    told = [[heading for heading in columns.values()], *([cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*told, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(one, widths, strict=True)).rstrip() for one in told)
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], title: str, width: int) -> Any:
    """Rows as a table of so many columns of the screen; a narrow one gets a line for each value."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if width < NARROW:
        return Text("\n\n".join([line(title)] * bool(title) + [listed(row, columns) for row in rows]))
    made = Table(title=Text(line(title)) if title else None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in columns.values():
        made.add_column(Text(heading), overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell(row.get(key))) for key in columns))
    return made


def shell(path: Path | str) -> str:
    """A path, or a name that a command takes where it takes paths, as one may type it after a command."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith(("-", "~")) else text)


def cell(value: object) -> str:
    return "" if value is None else line(value)


def listed(row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """The values of a row that say something, one below the other."""
    return "\n".join(f"{heading}: {text}" for key, heading in columns.items() if (text := cell(row.get(key))))


def plural(count: int, noun: str) -> str:
    """`1 run`, `1,200 runs`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """A time span as 45 s, 12 min or 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
