"""The squares of a leaderboard: what the plans want of one experiment, joined with the records there are of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spurbench.bench.record import Record, Run, fingerprint, identity, used
from spurbench.bench.selection import at_its_best

Plan = Mapping[str, Any]
UNPLANNED = {"rule": "unknown", "text": "not in any plan: how its settings were chosen is not known"}
IDENTITY = tuple(name for name in Run.__dataclass_fields__ if name != "seed")


@dataclass
class Square:
    """One experiment, all its seeds."""

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
    selection: Mapping[str, Any] = field(default_factory=lambda: UNPLANNED)
    search: str | None = None
    note: str = ""
    grids: list[str] = field(default_factory=list)
    seeds: set[int] = field(default_factory=set)  # planned, or run without a plan
    records: dict[int, Record] = field(default_factory=dict)  # seed → record

    @property
    def data(self) -> tuple[str, int, str, str]:
        """Squares of equal `data` were trained and scored on the same examples in the same precision."""
        return self.dataset, self.protocol_version, fingerprint(used(self.dataset_options)), self.precision

    @property
    def done(self) -> dict[int, Record]:
        return {seed: self.records[seed] for seed in sorted(self.records) if self.records[seed]["status"] == "done"}

    @property
    def failed(self) -> dict[int, Record]:
        return {seed: self.records[seed] for seed in sorted(self.records) if self.records[seed]["status"] != "done"}


def squares(records: Sequence[Record], plans: Iterable[Plan], planned_only: bool = False) -> list[Square]:
    """Planned squares in the plans' order, then those that have records but no plan; labels made unique.

    The same experiment in two plans is one square with the seeds of both. Runs of a search's draws are not results
    and have no square.
    """
    by_id = {record["id"]: record for record in records}
    found: dict[str, Square] = {}
    taken: set[str] = set()
    for plan in plans:
        for cell in plan["cells"]:
            square = found.setdefault(key_of(cell, plan), new(cell))
            add(square, cell, plan, by_id)
            taken.update(cell["ids"], *(draw["ids"] for draw in (cell["search"] or {"draws": []})["draws"]))
    if not planned_only:
        for record in records:
            if record["id"] not in taken:
                square = found.setdefault(key_of(record), new(record))
                square.seeds.add(record["seed"])
                square.records[record["seed"]] = record
    told_apart(list(found.values()))
    return list(found.values())


def key_of(cell: Mapping[str, Any], plan: Plan | None = None) -> str:
    """`Run.cell_key` of a cell or record; for a cell whose settings are still searched, its place in the plan."""
    shared = identity({name: cell[name] for name in IDENTITY})
    if plan is not None and cell["hyper_parameters"] is None:
        shared |= {"grid": plan["grid"], "label": cell["label"]}
    return fingerprint(shared)[:16]


def new(cell: Mapping[str, Any]) -> Square:
    return Square(**{name: cell[name] for name in IDENTITY}, label=cell.get("label", cell["method"]))


def add(square: Square, cell: Mapping[str, Any], plan: Plan, by_id: Mapping[str, Record]) -> None:
    """Put what one plan says of a square into it."""
    search = cell["search"]
    square.grids.append(plan["grid"])
    square.na = cell["na"]
    square.published = square.published or cell["published"]
    if square.selection is UNPLANNED or (search and not square.search):
        square.selection = cell.get("selection") or plan["selection"]
    if search:
        square.search = square.search or search["text"]
        ids = [id for draw in search["draws"] for id in draw["ids"]]
        if search["chosen"] is None and not cell["na"]:
            square.note = f"search going on, {sum(id in by_id for id in ids)} of {len(ids)} runs ended"
    square.seeds.update(cell["seeds"])
    for id, seed in zip(cell["ids"], cell["seeds"], strict=False):
        if id in by_id:
            square.records[seed] = at_its_best(by_id[id], square.selection["rule"])


def told_apart(all_: Sequence[Square]) -> None:
    """Where squares of one table share a label, add the settings in which they differ."""
    same: dict[tuple[Any, ...], list[Square]] = {}
    for square in all_:
        same.setdefault((*square.data, square.label), []).append(square)
    for group in (group for group in same.values() if len(group) > 1):
        settings = [{**square.training, **(square.hyper_parameters or {})} for square in group]
        names = [name for name in settings[0] if any(one.get(name) != settings[0].get(name) for one in settings)]
        names += sorted({name for one in settings for name in one} - set(settings[0]))
        for square, values in zip(group, settings, strict=True):
            square.label += f" ({listed({name: values.get(name) for name in names}) or 'searched'})"


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
