"""The results of each cell of a leaderboard: what the plans ask for, joined with the records there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.leaderboard import code_versions
from spurbench.bench.leaderboard.code_versions import FindEdited, VersionLookup
from spurbench.bench.records.plan import Cell, Choice, Plan
from spurbench.bench.records.record import Summary
from spurbench.bench.records.run import identity, used
from spurbench.bench.records.selection import at_its_best

UNPLANNED = Choice("unknown", text="not in any plan: how its settings were chosen is not known")


@dataclass
class CellResult:
    """One experiment, all its seeds, by the runs of one version of its files."""

    dataset: str
    dataset_options: Mapping[str, Any]
    protocol_version: int
    method: str
    hyper_parameters: Mapping[str, Any] | None  # None while a search goes on
    training: Mapping[str, Any]
    precision: str
    label: str
    base: Mapping[str, Any] | None = None
    inferred_by: Mapping[str, Any] | None = None
    published: str | None = None
    na: str | None = None
    selection: Choice = UNPLANNED
    search: str | None = None
    note: str = ""
    grids: list[str] = field(default_factory=list)
    seeds: set[int] = field(default_factory=set)  # planned, or run without a plan
    records: dict[int, Summary] = field(default_factory=dict)  # seed → record, at the step that is scored
    draws: list[list[Summary]] = field(default_factory=list)  # of its search: the existing records of each
    drawn: int | None = None  # place of the one chosen
    left_out: dict[int, Summary] = field(default_factory=dict)  # seed → record of another version
    version: dict[str, str] = field(default_factory=dict)  # hashes of the files that made `records`, where known
    outdated: list[str] = field(default_factory=list)  # those of these files that have changed since
    notes: list[str] = field(default_factory=list)  # about versions, for the reader

    @cached_property
    def data(self) -> tuple[str, int, str, str]:
        """Cells with equal `data` were trained and scored on the same examples in the same precision."""
        return self.dataset, self.protocol_version, fingerprint(used(self.dataset_options)), self.precision

    @property
    def done(self) -> dict[int, Summary]:
        return {seed: self.records[seed] for seed in sorted(self.records) if self.records[seed].status == "done"}

    @property
    def failed(self) -> dict[int, Summary]:
        return {seed: self.records[seed] for seed in sorted(self.records) if self.records[seed].status != "done"}

    def is_comparable_to(self, other: CellResult) -> bool:
        """Whether its runs may be compared with another's: as far as is known, on the same data by the same code."""
        return self.data == other.data and not code_versions.differing_parts(
            self.version, other.version, but=("method",)
        )


def collect_results(
    records: Sequence[Summary],
    plans: Iterable[Plan],
    planned_only: bool = False,
    edited: FindEdited = lambda record: (),
) -> list[CellResult]:
    """The results of planned cells in the plans' order, then of those that have records but no plan; labels are unique.

    The same experiment in two plans is one cell with the seeds of both, unless two rules choose its steps. A search's
    draws, even those planned before its grid was edited, are not results.
    """
    by_id = {record.id: record for record in records}
    found: dict[str, CellResult] = {}
    by_key: dict[str, dict[str, CellResult]] = {}  # experiment → its results, one for each rule
    planned_ids: set[str] = set()
    plans = list(plans)
    decided_searches = {cell.search_key for plan in plans for cell in plan.cells if cell.search and not cell.pending}
    for plan in plans:
        planned_ids.update(plan.superseded)
        planned_ids.update(plan.bases(plan.ids))
        for cell in plan.cells:
            planned_ids.update(cell.ids, cell.draw_ids)
            if cell.pending and cell.search_key in decided_searches:
                continue  # an older copy of a plan
            key = key_of_cell(cell)
            result = found.setdefault(key + step_rule(cell), CellResult(**cell.identity, label=cell.label))
            by_key.setdefault(key, {})[step_rule(cell)] = result
            add_planned(result, cell, plan, by_id)
    for record in records if not planned_only else ():
        if record.id not in planned_ids:
            key = record.run.cell_key
            unplanned = found.get(key) or CellResult(**record.identity, label=record.method)
            for result in by_key.get(key, {}).values() or [found.setdefault(key, unplanned)]:
                result.seeds.add(record.seed)
                result.records[record.seed] = record
    lookup = VersionLookup(edited)
    for result in found.values():
        keep_one_version(result, lookup)
    make_labels_unique(list(found.values()))
    return list(found.values())


def key_of_cell(cell: Cell) -> str:
    """`Run.cell_key` of a cell; it includes the search while that has not found the settings."""
    shared = identity(cell.identity)
    if cell.hyper_parameters is None:
        shared["search"] = cell.search_key
    return fingerprint(shared)[:16]


def step_rule(cell: Cell) -> str:
    """The rule that chooses among a cell's own steps, if there are several."""
    return cell.selection.rule if cell.selection and cell.training.get("evaluate") else ""


def add_planned(result: CellResult, cell: Cell, plan: Plan, by_id: Mapping[str, Summary]) -> None:
    """Add what one plan says of a cell."""
    search = cell.search
    result.grids.append(plan.grid)
    result.na = cell.na
    result.published = result.published or cell.published
    selection = cell.selection or plan.selection
    more_seen = selection.oracle and not result.selection.oracle and not result.search
    if result.selection is UNPLANNED or (search and not result.search) or more_seen:
        result.selection = selection
    if search:
        result.search = result.search or search.text
        if not result.draws:
            result.draws = [[by_id[id] for id in draw.ids if id in by_id] for draw in search.draws]
            result.drawn = search.chosen
        if cell.pending:
            ended = sum(id in by_id for id in cell.draw_ids)
            result.note = f"search going on, {ended} of {len(cell.draw_ids)} runs ended"
    result.seeds.update(cell.seeds)
    for id, seed in zip(cell.ids, cell.seeds, strict=False):
        if id in by_id:
            result.records[seed] = by_id[id]


def keep_one_version(result: CellResult, lookup: VersionLookup) -> None:
    """Keep the runs of one version, each at the step that its rule chooses."""
    found = code_versions.choose_version(result.records, lookup)
    result.left_out, result.version, result.outdated = found.left_out, found.version, found.outdated
    result.notes = code_versions.version_notes(found, [one for draw in result.draws for one in draw], lookup)
    result.records = {seed: at_its_best(one, result.selection.rule) for seed, one in found.records.items()}


def make_labels_unique(results: Sequence[CellResult]) -> None:
    """Where rows of one table share a label, add the settings in which they differ."""
    same: dict[tuple[Any, ...], list[CellResult]] = {}
    for result in results:
        same.setdefault((*result.data, result.label), []).append(result)
    for group in (group for group in same.values() if len(group) > 1):
        settings = [distinguishing_settings(result) for result in group]
        names = [name for name in settings[0] if any(one.get(name) != settings[0].get(name) for one in settings)]
        names += sorted({name for one in settings for name in one} - set(settings[0]))
        for result, values in zip(group, settings, strict=True):
            text = format_values({name: values.get(name) for name in names}) or ("searched" if result.search else "")
            result.label += f" ({text})" if text else ""
        labels = [result.label for result in group]
        for result in (one for one in group if labels.count(one.label) > 1):  # alike but for the settings of a base
            result.label += f" [{', '.join(sorted(set(result.grids)))}]"


def distinguishing_settings(result: CellResult) -> dict[str, Any]:
    """The settings by which two rows with the same label may differ."""
    rule = {"selection": result.selection.rule} if result.training.get("evaluate") else {}
    others = {"base": result.base, "groups": result.inferred_by}
    methods = {name: other["method"] for name, other in others.items() if other}
    return {**result.training, **(result.hyper_parameters or {}), **rule, **methods}


def format_values(values: Mapping[str, Any]) -> str:
    """`name=value` pairs, numbers as short as they are still the same."""
    short = {k: f"{v:g}" if isinstance(v, float) and float(f"{v:g}") == v else v for k, v in values.items()}
    return ", ".join(f"{name}={value}" for name, value in short.items())


def group_into_tables(results: Sequence[CellResult]) -> list[list[CellResult]]:
    """Cells that share a table: same dataset, protocol, options and precision.

    A single cell with options of its own gets no table of its own: it joins the largest one of its dataset, with what
    differs in its label (and is not compared there, see `CellResult.data`).
    """
    by_data: dict[tuple[str, int, str, str], list[CellResult]] = {}
    for result in results:
        by_data.setdefault(result.data, []).append(result)
    for data, alone in list(by_data.items()):
        kin = [key for key in by_data if key != data and key[:2] == data[:2] and key[3] == data[3]]
        home = max(kin, key=lambda key: len(by_data[key]), default=None)
        if len(alone) == 1 and home is not None:
            usual, own = by_data[home][0].dataset_options, alone[0].dataset_options
            differing = {name: own.get(name) for name in {**usual, **own} if usual.get(name) != own.get(name)}
            alone[0].label += f" [{format_values(differing)}]"
            by_data[home].append(alone[0])
            del by_data[data]
    return list(by_data.values())
