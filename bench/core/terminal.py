"""Output to a terminal or a pipe: text of a user's is never treated as markup or control codes, nor causes an error."""

from __future__ import annotations

import codecs
import io
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spurbench.bench.core.errors import short

if TYPE_CHECKING:
    from rich.console import Console

SIMILAR = {"−": "-", "–": "-", "—": "-", "─": "-", "±": "~", "×": "x", "·": ".", "…": ".", "†": "+", "Δ": "d", "≈": "~",
        "‖": "|", "→": ">", "←": "<"}  # fmt: skip
"""One character for one, so that columns stay aligned and no number loses its minus in a poor encoding."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
MAX_TABLE_ROWS = 1000  # with more, plain columns are printed instead of a table
SECONDS_BETWEEN_LINES = 5.0  # of progress at least, where there is no terminal
MIN_TABLE_WIDTH = 60  # columns of the terminal; on a narrower one a table is unreadable


def prepare() -> None:
    """Make the standard streams accept any text, on any terminal, even if they are closed."""
    for number in range(3):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    codecs.register_error("spurbench", replace_unencodable)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif name == "stderr" and isinstance(stream, io.TextIOWrapper) and stream is sys.__stderr__:
            sys.stderr = PersistentStderr(stream.buffer, stream.encoding, "spurbench", line_buffering=True)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spurbench")


class PersistentStderr(io.TextIOWrapper):
    """Standard error, which shows a command's progress: if nobody can read it any more, the work continues."""

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


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """An error handler: characters that an encoding lacks become similar ones, or codes that keep names distinct."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(
        SIMILAR.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lacking
    ), error.end


def plain(text: object) -> str:
    """Text without control characters, which could move the cursor or colour what follows: they are shown escaped."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def line(text: object, most: int = 1000) -> str:
    """Text as one line of bounded length, for a cell of a table or a message."""
    return short(plain(" ".join(part.strip() for part in str(text).splitlines())), most)


def coloured() -> bool:
    """Whether standard output is a terminal that supports colours."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def console(stderr: bool = False) -> Console:
    """A console that prints text as it is."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal:
        made.width = 120
    return made


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], title: str = "") -> None:
    """Rows as a terminal table; `columns` maps keys to headings."""
    if len(rows) > MAX_TABLE_ROWS:
        print(*filter(None, (line(title), align_columns(rows, columns))), sep="\n")
        return
    out = console()
    out.print(table(rows, columns, title, out.width))


def align_columns(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as aligned columns of text, a line each however wide: tables of thousands of rows take seconds."""
    cells = [[heading for heading in columns.values()], *([cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(one, widths, strict=True)).rstrip() for one in cells)
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], title: str, width: int) -> Any:
    """Rows as a table for a screen of this width; a narrow one gets a line for each value."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if width < MIN_TABLE_WIDTH:
        return Text("\n\n".join([line(title)] * bool(title) + [list_values(row, columns) for row in rows]))
    made = Table(title=Text(line(title)) if title else None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in columns.values():
        made.add_column(Text(heading), overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell(row.get(key))) for key in columns))
    return made


def show_progress(what: str, total: int, done: int, parts: Iterable[int]) -> None:
    """Go through `parts`, of so many each, and show how many of `total` are done: a bar on a terminal, else lines."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out = console(stderr=True)
    if not out.is_terminal:
        print_progress(what, total, done, parts)
        return
    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out) as bars:
        bar = bars.add_task("", total=total, completed=done)
        for part in parts:
            bars.advance(bar, part)


def print_progress(what: str, total: int, done: int, parts: Iterable[int]) -> None:
    """A line on standard error after each tenth of the parts, unless they are done too fast to read it."""
    begun = said_at = time.monotonic()
    before = said = done
    for part in parts:
        done, now = done + part, time.monotonic()
        if done * 10 // total > said * 10 // total and now - said_at >= SECONDS_BETWEEN_LINES:
            left = f", {duration((now - begun) * (total - done) / (done - before))} left" if done < total else ""
            print(f"{what}: {done:,}/{total:,}{left}", file=sys.stderr, flush=True)
            said, said_at = done, now


def shell(path: Path | str) -> str:
    """A path, or a name that a command takes in place of one, quoted for a shell."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith(("-", "~")) else text)


def cell(value: object) -> str:
    return "" if value is None else line(value)


def list_values(row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """The non-empty values of a row, one below the other."""
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
