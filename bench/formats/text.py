"""Leaderboards for the terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv as csvfile
import io
import json as jsons
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spurbench.bench.core.terminal import line as plain
from spurbench.bench.formats import wording as say
from spurbench.bench.leaderboard.build import Leaderboard, Section
from spurbench.bench.leaderboard.rows import Row

WIDTH = 120
SEES = "sees"  # what a row used; where the column has no room, it is said below
Line = list[Row]


@dataclass(frozen=True)
class Column:
    heading: str
    text: Callable[[Line], str]
    left: bool = False
    spare: int = 0  # the higher, the sooner it is left out where there is no room


@dataclass(frozen=True)
class Sheet:
    """One table as strings: `marks` has for each line its kind: best, reference, na or nothing."""

    title: str
    columns: list[Column]
    cells: list[list[str]]
    marks: list[str]
    notes: list[str]


def sheets(section: Section) -> list[Sheet]:
    return [sheet(section, columns) for columns in say.parts(section)]


def sheet(section: Section, columns: list[int]) -> Sheet:
    """The table of these metrics; columns with nothing in them are left out."""
    lines, main = section.lines, columns[0]
    wanted = [one for one in layout(section, columns) if one.left or any(one.text(line) for line in lines)]
    title = say.title(section)
    if len(say.parts(section)) > 1:
        title += f" · {say.named(section.columns[main])}"
    marks = [
        "na" if line[0].na else "reference" if line[0].reference else "best" if line[main].among_best else ""
        for line in lines
    ]
    cells = [[plain(one.text(line)) for one in wanted] for line in lines]
    return Sheet(plain(title), wanted, cells, marks, [plain(note) for note in say.section_notes(section, columns)])


def layout(section: Section, columns: list[int]) -> list[Column]:
    """Every column a table may have."""
    main, others = columns[0], columns[1:]
    rows = [line[main] for line in section.lines]
    found = [Column("method", lambda line: say.label(line[main]), left=True), metric(section, main, star=True)]
    found.append(
        Column("95 % CI", lambda line: say.interval(line[main].ci95_low, line[main].ci95_high, line[main].unit))
    )
    found += [metric(section, column) for column in others]
    return [
        *found,
        Column("n/N", lambda line: "" if line[0].na else f"{line[main].n}/{line[main].n_planned}"),
        Column("published", lambda line: say.published(line[main])),
        Column("diff.", lambda line: gap(line[main])),
        Column(f"Δ {say.usual_baseline(rows)}", lambda line: say.difference(line[main])),
        Column("p (Holm)", lambda line: say.probability(line[main].p_holm)),
        Column("s/run", lambda line: say.duration(line[main].seconds_per_run), spare=2),
        Column("memory", lambda line: say.memory(line[main].peak_memory_mb), spare=3),
        Column(SEES, lambda line: line[main].regime, spare=4),
    ]


def metric(section: Section, column: int, star: bool = False) -> Column:
    """Mean and deviation of a metric; with `star`, the best are marked and n/a rows have their reason."""

    def text(line: Line) -> str:
        row = line[column]
        if row.na:
            return f"n/a: {row.na}" if star else ""
        return say.mean(row) + ("*" if star and row.among_best else "")

    return Column(say.heading(section.lines[0][column]), text, spare=0 if star else 1)


def gap(row: Row) -> str:
    if row.published_difference is None:
        return ""
    return say.number(row.published_difference, row.unit, 1 if row.unit == "%" else 2, sign=True)


# ---- terminal -----------------------------------------------------------------------------------------------------


def table(board: Leaderboard, colour: bool = False) -> str:
    """Tables for a terminal of 120 columns, or of the user's width if `colour` says that there is one."""
    from rich.console import Console

    width = max(80, shutil.get_terminal_size((WIDTH, 40)).columns) if colour else WIDTH
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="standard" if colour else None,
                      legacy_windows=False)  # fmt: skip
    for section in board.sections:
        for one in sheets(section):
            left_out = draw(console, one, width)
            for note in one.notes + left_out:
                say_note(console, note, width)
            console.print()
    if not board.sections:
        console.print("nothing planned and no records yet")
    for note in say.general_notes(board):
        say_note(console, note, width)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def say_note(console: object, note: str, width: int) -> None:
    """A note below a table, wrapped between words only: paths in it stay whole."""
    from rich.console import Console
    from rich.text import Text

    assert isinstance(console, Console)
    wrapped = textwrap.fill(plain(note), width, initial_indent="  ", subsequent_indent="    ", break_long_words=False,
                            break_on_hyphens=False)  # fmt: skip
    console.print(Text(wrapped, style="dim"), soft_wrap=True)


def draw(console: object, one: Sheet, width: int) -> list[str]:
    """Print one sheet; a note on columns that had no room."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    assert isinstance(console, Console)
    kept = fitting(one, width)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(one.title, style="bold"), title_justify="left",
                  show_edge=False, padding=(0, 1, 0, 0))  # fmt: skip
    for i in kept:
        column = one.columns[i]
        drawn.add_column(
            Text(textwrap.fill(column.heading, max(16, longest(one, i)) if column.left else longest(one, i))),
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
        console.print(Text(f"{cells[0]:<{min(LABEL, max(len(c[0]) for c in one.cells))}}  {cells[1]}"), soft_wrap=True)
    gone = [column.heading for i, column in enumerate(one.columns) if i not in kept]
    left = [f"no room here for: {', '.join(gone)} (they are in the other formats)"] if gone else []
    sees = next((i for i, column in enumerate(one.columns) if column.heading == SEES and i not in kept), None)
    told = [(cells[sees], cells[0]) for cells in one.cells if cells[sees]] if sees is not None else []
    return say.together(((f"{SEES}, {what}", label) for what, label in told), len(told)) + left


LABEL = 22  # a longer label may be folded


def longest(one: Sheet, column: int) -> int:
    """Width of a column: its cells' and its heading's longest word."""
    shown = (cells[column] for cells, mark in zip(one.cells, one.marks, strict=True) if mark != "na")
    return max(*map(len, one.columns[column].heading.split()), *map(len, shown), 1)


def fitting(one: Sheet, width: int) -> list[int]:
    """The places of the columns that fit, the most spare left out first, of equals the last."""
    sizes = [min(longest(one, i), LABEL if column.left else width) + 1 for i, column in enumerate(one.columns)]
    kept = list(range(len(sizes)))
    for i in sorted(kept, key=lambda i: (-one.columns[i].spare, -i)):
        if sum(sizes[k] + 1 for k in kept) - 2 > width and one.columns[i].spare:
            kept.remove(i)
    return kept


# ---- Markdown and LaTeX -------------------------------------------------------------------------------------------


def markdown(board: Leaderboard) -> str:
    """GitHub's Markdown: a table for each section, its notes as a list."""
    from tabulate import tabulate

    blocks = []
    for one in (one for section in board.sections for one in sheets(section)):
        cells = [
            [bold(markdown_safe(text), mark, i, "**{}**") for i, text in enumerate(line)]
            for line, mark in zip(one.cells, one.marks, strict=True)
        ]
        align = ["left" if column.left else "right" for column in one.columns]
        heads = [markdown_safe(column.heading) for column in one.columns]
        drawn = tabulate(cells, heads, tablefmt="pipe", colalign=align, disable_numparse=True)
        blocks += [f"### {markdown_safe(one.title)}", drawn, bullets(one.notes)]
    blocks.append(bullets(say.general_notes(board)))
    return "\n\n".join(block for block in blocks if block)


def bullets(notes: Sequence[str]) -> str:
    return "\n".join(f"- {markdown_safe(note)}" for note in notes)


def markdown_safe(text: str) -> str:
    """Text with the characters that Markdown or HTML would act on made harmless."""
    text = re.sub(r"([\\`*\[\]|<>~])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text.replace("&", "&amp;"))


def bold(text: str, mark: str, column: int, pattern: str) -> str:
    """The method and the main metric of the best rows stand out."""
    return pattern.format(text) if mark == "best" and column < 2 else text


LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
         "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$",
         "−": "$-$", "–": "--", "Δ": r"$\Delta$", "†": r"$^\dagger$", "×": r"$\times$", "·": r"$\cdot$",
         "γ": r"$\gamma$", "λ": r"$\lambda$", "*": r"$^\ast$", "…": r"\ldots{}", '"': "''",
         "‡": r"$^\ddagger$", "§": r"\S{}", "[": "{[}", "]": "{]}"}  # fmt: skip


def latex_safe(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def latex(board: Leaderboard) -> str:
    """A `table` environment for each section (packages: booktabs, graphicx), the notes below it."""
    blocks = [latex_table(one) for section in board.sections for one in sheets(section)]
    notes = [f"\\par {latex_safe(note)}" for note in say.general_notes(board)]
    return "\n\n".join([r"% \usepackage{booktabs,graphicx}", *blocks, "\n".join([r"{\footnotesize", *notes, "}"])])


def latex_table(one: Sheet) -> str:
    lines = []
    for at, (cells, mark) in enumerate(zip(one.cells, one.marks, strict=True)):
        if at and mark == "reference" and "reference" not in one.marks[:at]:
            lines.append(r"\midrule")
        parts = [bold(latex_safe(text), mark, i, r"\textbf{{{}}}") for i, text in enumerate(cells)]
        lines.append(" & ".join(parts) + r" \\")
    heads = " & ".join(latex_safe(column.heading) for column in one.columns)
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{latex_safe(one.title)}}}", r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{''.join('l' if column.left else 'r' for column in one.columns)}}}",
        r"\toprule", heads + r" \\", r"\midrule", *lines, r"\bottomrule", r"\end{tabular}}",
        *(rf"\par\footnotesize {latex_safe(note)}" for note in one.notes), r"\end{table}",
    ])  # fmt: skip


# ---- for programs -------------------------------------------------------------------------------------------------


def json(board: Leaderboard) -> str:
    """A list with one object for each row (see leaderboard.Row)."""
    return jsons.dumps([row.to_dict() for row in board.rows], indent=1, ensure_ascii=False, allow_nan=False)


def csv(board: Leaderboard) -> str:
    """The objects of `json` as lines; lists and objects in a field are JSON."""
    out = io.StringIO()
    rows = [row.to_dict() for row in board.rows]
    writer = csvfile.writer(out, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow(
            jsons.dumps(v, ensure_ascii=False, sort_keys=True) if isinstance(v, (dict, list)) else v
            for v in row.values()
        )
    return out.getvalue().rstrip("\n")
