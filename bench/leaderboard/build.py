"""From records and plans to rows: a pure function, so that a leaderboard can be made at any time, even during runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from spurbench.bench.core.errors import unknown
from spurbench.bench.leaderboard.cell_results import CellResult, collect_results, group_into_tables
from spurbench.bench.leaderboard.code_versions import FindEdited
from spurbench.bench.leaderboard.comparisons import compare, data_version_notes, find_baseline, mark_best
from spurbench.bench.leaderboard.published import Comparison, load
from spurbench.bench.leaderboard.rows import Row, row_of, shared_fields
from spurbench.bench.plugins import registry
from spurbench.bench.provenance import edits
from spurbench.bench.records.metrics import ASKED_FOR, Column, columns_of
from spurbench.bench.records.plan import Plan
from spurbench.bench.records.record import Summary


class UnusableRecord(Protocol):
    """A record that cannot be used."""

    @property
    def path(self) -> str: ...
    @property
    def reason(self) -> str: ...


class RecordSource(Protocol):
    """What a leaderboard is made of: a store, or several read together."""

    @property
    def name(self) -> str: ...
    def records(self) -> tuple[Sequence[Summary], Sequence[UnusableRecord]]: ...
    def plans(self) -> Sequence[Plan]: ...


@dataclass(frozen=True)
class Section:
    """One table: `lines` has one row per column for each method; the first column is the main one."""

    dataset: str
    options: Mapping[str, Any]
    protocol_version: int
    precision: str
    columns: list[Column]
    lines: list[list[Row]]


@dataclass(frozen=True)
class Leaderboard:
    sections: list[Section]
    notes: list[str]  # of the grids
    set_aside: list[tuple[str, str]]  # path and reason of each record that is not used
    baseline: str  # name of the method the others are compared with
    finished: str = ""  # when the last run ended

    @property
    def rows(self) -> list[Row]:
        return [row for section in self.sections for line in section.lines for row in line]


def build(
    records: Sequence[Summary],
    plans: Iterable[Plan] = (),
    problems: Iterable[UnusableRecord] = (),
    all_metrics: bool = False,
    *,
    planned_only: bool = False,
    headlines: Mapping[str, Iterable[Sequence[str]]] | None = None,
    comparison: Comparison | None = None,
    edited: FindEdited = lambda record: (),
    columns: Sequence[Column] = (),
) -> Leaderboard:
    """The leaderboard of a store's records, plans and unusable records.

    Without `all_metrics` the columns are the dataset's `headlines` (where these lack it, its records' `headline`) and
    the metrics that were asked for. `planned_only` leaves out records that no plan asks for. `comparison` replaces
    datasets/published.yaml. `edited` names the files of a record that have changed since. `columns` replace all
    others, in every table that has some of them.

    Errors: UserError for one of `columns` that no table has.
    """
    plans, comparison = list(plans), comparison or load()
    shown = default_columns(records, headlines or {})
    found = collect_results(records, plans, planned_only, edited)
    groups = group_into_tables(found)
    each = [table_columns(group, shown, all_metrics) for group in groups]
    notes = notes_of(plans)
    if columns:
        known = [table_columns(group, shown, True) for group in groups]
        if found and (missing := next((one for one in columns if not any(one in there for there in known)), None)):
            raise unknown("column", "/".join(missing), {"/".join(one) for there in known for one in there})
        each = [[one for one in columns if one in there] for there in known]
        without = dict.fromkeys(group[0].dataset for group, own in zip(groups, each, strict=True) if not own)
        notes += [f"{name} has none of these columns" for name in without]
    sections = [build_section(group, own, comparison) for group, own in zip(groups, each, strict=True) if own]
    return Leaderboard(
        sections=sections,
        notes=notes,
        set_aside=[(one.path, one.reason) for one in problems],
        baseline=comparison.baseline,
        finished=max((one.provenance.finished for result in found for one in result.done.values()), default=""),
    )


def notes_of(plans: Sequence[Plan]) -> list[str]:
    """The grids' notes, each once."""
    found: dict[str, dict[str, None]] = {}
    for plan in plans:
        for note in plan.notes:
            found.setdefault(note, {})[plan.grid] = None
    return [f"{', '.join(grids)}: {note}" for note, grids in found.items()]


def default_columns(
    records: Sequence[Summary], known: Mapping[str, Iterable[Sequence[str]]]
) -> dict[str, list[Column]]:
    """Dataset → the columns shown by default."""
    shown: dict[str, list[Column]] = {}
    for record in records:
        if record.dataset not in shown and record.headline:
            shown[record.dataset] = [(split, metric) for split, metric in record.headline]
    return shown | {name: [(split, metric) for split, metric in pairs] for name, pairs in known.items()}


def table_columns(group: list[CellResult], shown: Mapping[str, list[Column]], all_: bool) -> list[Column]:
    """The columns of a table: the main ones of its dataset and those asked for, or all there are."""
    columns = list(shown.get(group[0].dataset, [("test", "accuracy"), ("train", "accuracy")]))
    there = {column: None for result in group for record in result.done.values() for column in columns_of(record)}
    return columns + [column for column in there if column not in columns and (all_ or column[1].startswith(ASKED_FOR))]


def build_section(group: list[CellResult], columns: list[Column], comparison: Comparison) -> Section:
    first = group[0]
    group = [s for s in group if s.method not in comparison.references] + [
        s for s in group if s.method in comparison.references
    ]
    lines: list[list[Row]] = [[] for _ in group]
    common = [shared_fields(result, comparison) for result in group]
    baselines = [find_baseline(at, group, [fact["used"] for fact in common], comparison) for at in range(len(group))]
    for fact, note in zip(common, data_version_notes(group), strict=True):
        fact["notes"] += note
    for column in columns:
        rows = [row_of(result, fact, column, comparison) for result, fact in zip(group, common, strict=True)]
        compare(rows, group, baselines)
        mark_best(rows, group)
        for line, row in zip(lines, rows, strict=True):
            line.append(row)
    return Section(first.dataset, first.dataset_options, first.protocol_version, first.precision, columns, lines)


def build_from_store(
    store: RecordSource, all_: bool = False, grid: str | None = None, columns: Sequence[Column] = ()
) -> Leaderboard:
    """The leaderboard of a store; `grid` restricts it to what that grid planned."""
    records, unusable = store.records()
    plans = [plan for plan in store.plans() if grid in (None, plan.grid)]
    if grid is not None and not plans:
        raise unknown(f"grid in {store.name}", grid, [plan.grid for plan in store.plans()])
    return build(records, plans, unusable, all_, planned_only=grid is not None, headlines=planned_headlines(plans),
                        edited=edits.find_edited_files, columns=columns)  # fmt: skip


def planned_headlines(plans: Sequence[Plan]) -> dict[str, Any]:
    """The columns of every planned dataset that is installed here, for cells without a record."""
    known = registry.datasets()
    names = {cell.dataset for plan in plans for cell in plan.cells} & known.keys()
    return {name: known[name].headline for name in names}
