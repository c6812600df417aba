"""A leaderboard's tables as strings, ready for any format: headings, cells, marks, notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spurbench.bench.core.terminal import line as plain
from spurbench.bench.leaderboard import wording as say
from spurbench.bench.leaderboard.build import Section
from spurbench.bench.leaderboard.rows import Row

SEES = "sees"  # heading of what a row used; where the column does not fit, a note says it


Line = list[Row]


@dataclass(frozen=True)
class Column:
    heading: str
    text: Callable[[Line], str]
    left: bool = False
    spare: int = 0  # the higher, the sooner it is left out where room is short


@dataclass(frozen=True)
class Sheet:
    """One table as strings: `marks` has the kind of each line: best, reference, na or nothing."""

    title: str
    columns: list[Column]
    cells: list[list[str]]
    marks: list[str]
    notes: list[str]


def make_sheets(section: Section) -> list[Sheet]:
    return [make_sheet(section, columns) for columns in say.parts(section)]


def make_sheet(section: Section, columns: list[int]) -> Sheet:
    """The table of these metrics; columns with nothing in them are left out."""
    lines, main = section.lines, columns[0]
    wanted = [one for one in possible_columns(section, columns) if one.left or any(one.text(line) for line in lines)]
    title = say.title(section)
    if len(say.parts(section)) > 1:
        title += f" · {say.named(section.columns[main])}"
    marks = [
        "na" if line[0].na else "reference" if line[0].reference else "best" if line[main].among_best else ""
        for line in lines
    ]
    cells = [[plain(one.text(line)) for one in wanted] for line in lines]
    return Sheet(plain(title), wanted, cells, marks, [plain(note) for note in say.section_notes(section, columns)])


def possible_columns(section: Section, columns: list[int]) -> list[Column]:
    """Every column a table may have."""
    main, others = columns[0], columns[1:]
    rows = [line[main] for line in section.lines]
    found = [Column("method", lambda line: say.label(line[main]), left=True), metric_column(section, main, star=True)]
    found.append(
        Column("95 % CI", lambda line: say.interval(line[main].ci95_low, line[main].ci95_high, line[main].unit))
    )
    found += [metric_column(section, column) for column in others]
    return [
        *found,
        Column("n/N", lambda line: "" if line[0].na else f"{line[main].n}/{line[main].n_planned}"),
        Column("published", lambda line: say.published(line[main])),
        Column("diff.", lambda line: published_difference(line[main])),
        Column(f"Δ {say.usual_baseline(rows)}", lambda line: say.difference(line[main])),
        Column("p (Holm)", lambda line: say.probability(line[main].p_holm)),
        Column("s/run", lambda line: say.duration(line[main].seconds_per_run), spare=2),
        Column("memory", lambda line: say.memory(line[main].peak_memory_mb), spare=3),
        Column(SEES, lambda line: line[main].regime, spare=4),
    ]


def metric_column(section: Section, column: int, star: bool = False) -> Column:
    """Mean and deviation of a metric; with `star`, the best are marked and n/a rows have their reason."""

    def text(line: Line) -> str:
        row = line[column]
        if row.na:
            return f"n/a: {row.na}" if star else ""
        return say.mean(row) + ("*" if star and row.among_best else "")

    return Column(say.heading(section.lines[0][column]), text, spare=0 if star else 1)


def published_difference(row: Row) -> str:
    if row.published_difference is None:
        return ""
    return say.number(row.published_difference, row.unit, 1 if row.unit == "%" else 2, sign=True)


def bold(text: str, mark: str, column: int, pattern: str) -> str:
    """The method and the main metric of the best rows stand out."""
    return pattern.format(text) if mark == "best" and column < 2 else text
