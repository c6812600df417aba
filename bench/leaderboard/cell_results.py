"""The squares of a leaderboard: what the plans want of one experiment, joined with the records there are of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.leaderboard import code_versions
from spurbench.bench.leaderboard.code_versions import Edited, Past
from spurbench.bench.records.plan import Cell, Choice, Plan
from spurbench.bench.records.record import Summary
from spurbench.bench.records.run import identity, used
from spurbench.bench.records.selection import at_its_best

UNPLANNED = Choice("unknown", text="not in any plan: how its settings were chosen is not known")


@dataclass
class Square:
    """One experiment, all its seeds, by the runs of one version of its files."""

    dataset: str
    dataset_options: Mapping[str, Any]
    protocol_version: int
    method: str
    hyper_parameters: Mapping[str, Any] | None  # None while a search goes on
    training: Mapping[str, Any]
    precision: str
    label: str
    published: str | None = None
    na: str | None = None
    selection: Choice = UNPLANNED
    search: str | None = None
    note: str = ""
    grids: list[str] = field(default_factory=list)
    seeds: set[int] = field(default_factory=set)  # planned, or run without a plan
    records: dict[int, Summary] = field(default_factory=dict)  # seed → record, at the step that is scored
    draws: list[list[Summary]] = field(default_factory=list)  # of its search: the records there are of each
    drawn: int | None = None  # which of them was chosen
    left_out: dict[int, Summary] = field(default_factory=dict)  # seed → record of another version
    version: dict[str, str] = field(default_factory=dict)  # what is known of the files that made `records`
    outdated: list[str] = field(default_factory=list)  # of these the ones that have changed since
    notes: list[str] = field(default_factory=list)  # what a reader must know of versions

    @cached_property
    def data(self) -> tuple[str, int, str, str]:
        """Squares of equal `data` were trained and scored on the same examples in the same precision."""
        return self.dataset, self.protocol_version, fingerprint(used(self.dataset_options)), self.precision

    @property
    def done(self) -> dict[int, Summary]:
        return {seed: self.records[seed] for seed in sorted(self.records) if self.records[seed].status == "done"}

    @property
    def failed(self) -> dict[int, Summary]:
        return {seed: self.records[seed] for seed in sorted(self.records) if self.records[seed].status != "done"}

    def beside(self, other: Square) -> bool:
        """Whether its runs may be compared with another's: as far as is known, on the same data by the same code."""
        return self.data == other.data and not code_versions.clashes(self.version, other.version, but=("method",))


def squares(
    records: Sequence[Summary], plans: Iterable[Plan], planned_only: bool = False, edited: Edited = lambda record: ()
) -> list[Square]:
    """Planned squares in the plans' order, then those that have records but no plan; labels made unique.

    The same experiment in two plans is one square with the seeds of both, unless two rules choose its steps. Runs of a
    search's draws, also of one that was planned before its grid was edited, are not results and have no square.
    """
    by_id = {record.id: record for record in records}
    found: dict[str, Square] = {}
    same: dict[str, dict[str, Square]] = {}  # experiment → its squares, one a rule
    taken: set[str] = set()
    plans = list(plans)
    ended = {cell.search_key for plan in plans for cell in plan.cells if cell.search and not cell.pending}
    for plan in plans:
        taken.update(plan.superseded)
        for cell in plan.cells:
            taken.update(cell.ids, cell.draw_ids)
            if cell.pending and cell.search_key in ended:
                continue  # an older copy of a plan
            key = key_of(cell)
            square = found.setdefault(key + by_rule(cell), Square(**cell.identity, label=cell.label))
            same.setdefault(key, {})[by_rule(cell)] = square
            add(square, cell, plan, by_id)
    for record in records if not planned_only else ():
        if record.id not in taken:
            key = record.run.cell_key
            unplanned = found.get(key) or Square(**record.identity, label=record.method)
            for square in same.get(key, {}).values() or [found.setdefault(key, unplanned)]:
                square.seeds.add(record.seed)
                square.records[record.seed] = record
    past = Past(edited)
    for square in found.values():
        settle(square, past)
    told_apart(list(found.values()))
    return list(found.values())


def key_of(cell: Cell) -> str:
    """`Run.cell_key` of a cell; of one whose settings no search has found yet, with that search."""
    shared = identity(cell.identity)
    if cell.hyper_parameters is None:
        shared["search"] = cell.search_key
    return fingerprint(shared)[:16]


def by_rule(cell: Cell) -> str:
    """The name of the rule that chooses among a cell's own steps, if there are several."""
    return cell.selection.rule if cell.selection and cell.training.get("evaluate") else ""


def add(square: Square, cell: Cell, plan: Plan, by_id: Mapping[str, Summary]) -> None:
    """Put what one plan says of a square into it."""
    search = cell.search
    square.grids.append(plan.grid)
    square.na = cell.na
    square.published = square.published or cell.published
    if square.selection is UNPLANNED or (search and not square.search):
        square.selection = cell.selection or plan.selection
    if search:
        square.search = square.search or search.text
        if not square.draws:
            square.draws = [[by_id[id] for id in draw.ids if id in by_id] for draw in search.draws]
            square.drawn = search.chosen
        if cell.pending:
            ended = sum(id in by_id for id in cell.draw_ids)
            square.note = f"search going on, {ended} of {len(cell.draw_ids)} runs ended"
    square.seeds.update(cell.seeds)
    for id, seed in zip(cell.ids, cell.seeds, strict=False):
        if id in by_id:
            square.records[seed] = by_id[id]


def settle(square: Square, past: Past) -> None:
    """Leave the square the runs of one version, each at the step that its rule chooses."""
    found = code_versions.chosen(square.records, past)
    square.left_out, square.version, square.outdated = found.left_out, found.version, found.outdated
    square.notes = code_versions.notes(found, [one for draw in square.draws for one in draw], past)
    square.records = {seed: at_its_best(one, square.selection.rule) for seed, one in found.records.items()}


def told_apart(all_: Sequence[Square]) -> None:
    """Where squares of one table share a label, add the settings in which they differ."""
    same: dict[tuple[Any, ...], list[Square]] = {}
    for square in all_:
        same.setdefault((*square.data, square.label), []).append(square)
    for group in (group for group in same.values() if len(group) > 1):
        settings = [settings_of(square) for square in group]
        names = [name for name in settings[0] if any(one.get(name) != settings[0].get(name) for one in settings)]
        names += sorted({name for one in settings for name in one} - set(settings[0]))
        for square, values in zip(group, settings, strict=True):
            square.label += f" ({listed({name: values.get(name) for name in names}) or 'searched'})"


def settings_of(square: Square) -> dict[str, Any]:
    """What may tell two rows of one label apart."""
    rule = {"selection": square.selection.rule} if square.training.get("evaluate") else {}
    return {**square.training, **(square.hyper_parameters or {}), **rule}


def listed(values: Mapping[str, Any]) -> str:
    """`name=value` pairs, numbers short."""
    return ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())


def tables(all_: Sequence[Square]) -> list[list[Square]]:
    """Squares that share a table: same dataset, protocol, options and precision.

    Options under which there is one square only do not get a table of their own: it joins the largest of its
    dataset, with what differs in its label (and is not compared there, see `Square.data`).
    """
    by_data: dict[tuple[str, int, str, str], list[Square]] = {}
    for square in all_:
        by_data.setdefault(square.data, []).append(square)
    for data, alone in list(by_data.items()):
        kin = [key for key in by_data if key != data and key[:2] == data[:2] and key[3] == data[3]]
        home = max(kin, key=lambda key: len(by_data[key]), default=None)
        if len(alone) == 1 and home is not None:
            usual, own = by_data[home][0].dataset_options, alone[0].dataset_options
            alone[0].label += f" [{listed({k: v for k, v in own.items() if usual.get(k) != v})}]"
            by_data[home].append(alone[0])
            del by_data[data]
    return list(by_data.values())
