"""Tables for the terminal."""

from __future__ import annotations

import io
import shutil
import textwrap

from spurbench.bench.core.terminal import line as plain
from spurbench.bench.leaderboard import wording as say
from spurbench.bench.leaderboard.build import Leaderboard
from spurbench.bench.leaderboard.sheets import SEES, Sheet, make_sheets

ENDINGS = (".txt",)
WIDTH = 120


def render(board: Leaderboard, colour: bool = False) -> str:
    """Tables for a terminal of 120 columns, or of the user's width if `colour` says that it is a terminal."""
    from rich.console import Console

    width = max(80, shutil.get_terminal_size((WIDTH, 40)).columns) if colour else WIDTH
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="standard" if colour else None,
                      legacy_windows=False)  # fmt: skip
    for section in board.sections:
        for one in make_sheets(section):
            left_out = print_sheet(console, one, width)
            for note in one.notes + left_out:
                print_note(console, note, width)
            console.print()
    if not board.sections:
        console.print("nothing planned and no records yet")
    for note in say.general_notes(board):
        print_note(console, note, width)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def print_note(console: object, note: str, width: int) -> None:
    """A note below a table, wrapped between words only: paths in it stay whole."""
    from rich.console import Console
    from rich.text import Text

    assert isinstance(console, Console)
    wrapped = textwrap.fill(plain(note), width, initial_indent="  ", subsequent_indent="    ", break_long_words=False,
                            break_on_hyphens=False)  # fmt: skip
    console.print(Text(wrapped, style="dim"), soft_wrap=True)


def print_sheet(console: object, one: Sheet, width: int) -> list[str]:
    """Print one sheet; notes on the columns that did not fit."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    assert isinstance(console, Console)
    kept = columns_that_fit(one, width)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(one.title, style="bold"), title_justify="left",
                  show_edge=False, padding=(0, 1, 0, 0))  # fmt: skip
    for i in kept:
        column = one.columns[i]
        drawn.add_column(
            Text(textwrap.fill(column.heading, max(16, column_width(one, i)) if column.left else column_width(one, i))),
            justify="left" if column.left else "right",
            vertical="top",
            no_wrap=not column.left,
            overflow="fold",
        )
    split_before = next((i for i, mark in enumerate(one.marks) if mark == "reference"), None)
    for at, (cells, mark) in enumerate(zip(one.cells, one.marks, strict=True)):
        if at == split_before and at > 0:
            drawn.add_section()
        if mark != "na":
            style = {"best": "bold", "reference": "dim"}.get(mark, "")
            drawn.add_row(*(Text(cells[i], style=style) for i in kept))
    console.print(drawn)
    absent = [cells for cells, mark in zip(one.cells, one.marks, strict=True) if mark == "na"]
    for cells in absent:  # the reason is wider than any column
        console.print(
            Text(f"{cells[0]:<{min(MAX_LABEL, max(len(c[0]) for c in one.cells))}}  {cells[1]}"), soft_wrap=True
        )
    hidden = [column.heading for i, column in enumerate(one.columns) if i not in kept]
    notes = [f"no room here for: {', '.join(hidden)} (see the other formats)"] if hidden else []
    sees = next((i for i, column in enumerate(one.columns) if column.heading == SEES and i not in kept), None)
    used = [(cells[sees], cells[0]) for cells in one.cells if cells[sees]] if sees is not None else []
    return say.group_labels(((f"{SEES}, {what}", label) for what, label in used), len(used)) + notes


MAX_LABEL = 22  # a longer label may be wrapped


def column_width(one: Sheet, column: int) -> int:
    """Width of a column: its cells' and its heading's longest word."""
    shown = (cells[column] for cells, mark in zip(one.cells, one.marks, strict=True) if mark != "na")
    return max(*map(len, one.columns[column].heading.split()), *map(len, shown), 1)


def columns_that_fit(one: Sheet, width: int) -> list[int]:
    """The places of the columns that fit; those with the highest `spare` are left out first, of equals the last."""
    sizes = [min(column_width(one, i), MAX_LABEL if column.left else width) + 1 for i, column in enumerate(one.columns)]
    kept = list(range(len(sizes)))
    for i in sorted(kept, key=lambda i: (-one.columns[i].spare, -i)):
        if sum(sizes[k] + 1 for k in kept) - 2 > width and one.columns[i].spare:
            kept.remove(i)
    return kept
