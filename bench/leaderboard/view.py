"""Parts of a leaderboard, and other orders of its rows; hidden rows are still part of the computations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from spurbench.bench.core.errors import UserError, cut, unknown
from spurbench.bench.grid.cells import cell_names, chosen
from spurbench.bench.leaderboard.build import Leaderboard, Section
from spurbench.bench.leaderboard.rows import Row
from spurbench.bench.records.metrics import Column

BY_NAME = "method"


def parse_columns(text: str | None) -> list[Column]:
    """`test/accuracy,train/accuracy` as columns.

    Errors: UserError for another form.
    """
    found: list[Column] = []
    for part in (text or "").split(",") if text is not None else ():
        split, slash, metric = part.strip().rpartition("/")
        if not (slash and split and metric):
            raise UserError(f"no column '{cut(part)}': expected split/metric, such as test/accuracy,train/accuracy")
        if (split, metric) in found:
            raise UserError(f"the column {cut(part.strip())} is given twice")
        found.append((split, metric))
    return found


def filter_rows(board: Leaderboard, patterns: Sequence[str]) -> Leaderboard:
    """The leaderboard with the rows that a pattern names: dataset, method, label or dataset/method, also `co*`.

    Their numbers stay what they are among all rows: p values are adjusted for every comparison that was made.
    Errors: UserError for a pattern that names no row.
    """
    if not patterns:
        return board
    places = [(i, j) for i, section in enumerate(board.sections) for j, _ in enumerate(section.lines)]
    rows = [board.sections[i].lines[j][0] for i, j in places]
    names = [cell_names(row.dataset, row.method, row.label) for row in rows]
    kept = {places[at] for at in chosen(names, patterns, "dataset, method or label in the leaderboard")}
    sections = [
        replace(section, lines=[line for j, line in enumerate(section.lines) if (i, j) in kept])
        for i, section in enumerate(board.sections)
    ]
    left = len(places) - len(kept)
    note = f"{left} of {len(places)} rows are not shown; the others are still compared and adjusted as if they were"
    return replace(
        board,
        sections=[section for section in sections if section.lines],
        notes=[*board.notes, *([note] if left else [])],
    )


def sort_rows(board: Leaderboard, column: str | None) -> Leaderboard:
    """The leaderboard with the rows of each table ordered by a column it shows, the best first, or by `method`.

    Rows that do not compete, and those without the number, come last. A table without the column stays as it is.
    Errors: UserError for a column that no table shows.
    """
    if column is None:
        return board
    names = {"/".join(one) for section in board.sections for one in section.columns} | {BY_NAME}
    if board.sections and column not in names:
        raise unknown("column to sort by", column, names)
    return replace(board, sections=[sort_section(section, column) for section in board.sections])


def sort_section(section: Section, column: str) -> Section:
    columns = ["/".join(one) for one in section.columns]
    if column == BY_NAME:
        return replace(section, lines=sorted(section.lines, key=lambda line: (line[0].reference, line[0].label)))
    if column not in columns:
        return section
    place = columns.index(column)
    return replace(section, lines=sorted(section.lines, key=lambda line: sort_key(line[place])))


def sort_key(row: Row) -> tuple[bool, bool, float]:
    """The place of a row by its number: the best first, or the largest where neither way is better."""
    aside = row.reference or row.below_chance
    if row.mean is None:
        return aside, True, inf
    return aside, False, row.mean if row.higher_is_better is False else -row.mean
