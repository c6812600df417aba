"""What figures are drawn from: the cells of grids, and the runs a store has of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

from pydantic import BaseModel

from spurbench.bench.core.errors import unknown
from spurbench.bench.core.terminal import shell
from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid
from spurbench.bench.grid.schema import Precision, Strict
from spurbench.bench.jobs.setup import set_up
from spurbench.bench.leaderboard import published
from spurbench.bench.plugins.dataset import Data
from spurbench.bench.records.plan import Cell as PlannedCell
from spurbench.bench.records.plan import Plan
from spurbench.bench.records.record import Curve, Summary
from spurbench.bench.store import artifacts
from spurbench.bench.store.store import Packed, Store

Part = dict[str, Any]
"""The plotted numbers of a panel, ready for JSON."""


class Cell(Strict):
    """A row of a grid, as a figure file names it."""

    dataset: str
    label: str
    title: str | None = None  # instead of the label
    precision: Precision | None = None  # where the grid has the row in both; None: the first

    @property
    def name(self) -> str:
        return self.label if self.title is None else self.title


@dataclass(frozen=True)
class Found:
    """A planned cell and its finished runs."""

    planned: PlannedCell
    grid: str
    records: dict[int, Summary]  # seed → record

    @property
    def share(self) -> Part:
        """How many of the planned runs there are."""
        return {"n": len(self.records), "planned": len(self.planned.seeds)}


@dataclass(frozen=True)
class Lack:
    """What a store does not have: runs of a cell, or what is drawn of them, which is kept beside their records."""

    found: Found
    what: str  # "runs"; "kept", which training again makes; "record", which only other runs would have
    records: Sequence[Summary] = ()  # those of which it is not there
    words: str = ""  # what of a record is not there

    @property
    def empties(self) -> bool:
        """Whether nothing is left to draw."""
        return len(self.records) == len(self.found.records)


@dataclass
class Source:
    """A store, read once for any number of figures; without one there are no runs."""

    store: Store | None
    records: dict[str, Summary] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        usable = self.store.records()[0] if self.store else []
        self.records = {record.id: record for record in usable}
        self.comparison = published.load()

    def plan(self, grid: str) -> Plan:
        """A grid's plan, made anew from its file: the store's own may be of an older grid."""
        if grid not in self.plans:
            before = self.store.plans() if self.store else []
            self.plans[grid] = expand(load_grid(grid), self.records, before)
        return self.plans[grid]

    def find(self, cell: Cell, grid: str | None) -> Found:
        """The cell as the grid plans it (if none is named, as the store's own plans do), and its finished runs."""
        plans = [self.plan(grid)] if grid else self.store.plans() if self.store else []
        names = [one.label for plan in plans for one in plan.cells if one.dataset == cell.dataset]
        for plan in plans:
            for one in plan.cells:
                wanted = (cell.dataset, cell.label, cell.precision or one.precision)
                if (one.dataset, one.label, one.precision) == wanted:
                    return Found(one, grid or plan.grid, self.done(one))
        raise unknown(f"{cell.dataset} row in the grid", cell.label, names)

    def done(self, planned: PlannedCell) -> dict[int, Summary]:
        pairs = zip(planned.seeds, (self.records.get(id) for id in planned.ids), strict=False)
        return {seed: record for seed, record in pairs if record and record.status == "done"}

    def curves(self, record: Summary) -> dict[str, Curve]:
        """The curves of a run's searches for margins, by name."""
        whole = self.store.record(record.id) if self.store else None
        return whole.curves if whole else {}

    def kept(self, record: Summary) -> dict[str, artifacts.Array]:
        return artifacts.load_arrays(self.store, record.id) if self.store else {}

    def data(self, record: Summary) -> Data:
        """The data a run was trained and scored on, drawn again."""
        from spurbench.bench.jobs.retrain import job_of

        return set_up(job_of([record])).draw(record.run).data


def complaint(lacks: Sequence[Lack], source: Source, figure: str) -> str:
    """What the store lacks of a figure and the command that would make it, in one line; runs come first."""
    runs = [lack.found for lack in lacks if lack.what == "runs"]
    if not runs:
        lacks = [lack for lack in lacks if lack.what == "record"] or lacks
        cells = ", ".join(dict.fromkeys(lack.found.planned.label for lack in lacks))
        count = len({record.id for lack in lacks for record in lack.records})
        if lacks[0].words:
            return f"the records of {count} runs ({cells}) have {lacks[0].words}"
        first, store = folder(source)
        return (
            f"nothing to draw this from is kept of {count} runs ({cells}), which can be trained again for it; "
            f"next: {first}spurbench figure {shell(figure)} {shell(store)} --train"
        )
    runs = list({repr(one.planned): one for one in runs}.values())
    cells = ", ".join(f"{one.planned.dataset}/{one.planned.label}" for one in runs)
    return f"no runs of {cells} (grid '{runs[0].grid}'); next: {command(runs, source)}"


def folder(source: Source) -> tuple[str, Path]:
    """A store that can be added to: first a command that makes it, if that is needed, then where it is."""
    if isinstance(source.store, Packed):
        return f"spurbench merge stores/more {shell(source.store.root)}, then ", Path("stores/more")
    return "", source.store.root if source.store else Path("STORE")


def command(lacking: Sequence[Found], source: Source) -> str:
    """The commands that would make the runs of these cells."""
    only = " ".join(f"--only {quote(f'{one.planned.dataset}/{one.planned.label}')}" for one in lacking)
    first, store = folder(source)
    return f"{first}spurbench run {shell(lacking[0].grid)} --store {shell(store)} {only}"


class Kind(Strict):
    """A panel: which numbers, and how they are drawn. Subclasses are named in a figure file by `kind`."""

    box: ClassVar[float | None] = None  # height by width of what is drawn, if fixed

    title: str = ""
    grid: str | None = None  # the figure's own, if it names one

    def cells(self) -> Sequence[Cell]:
        """The rows of grids it is drawn from."""
        return ()

    def kept(self, source: Source, record: Summary) -> bool:
        """Whether what the panel needs beyond the record itself is kept of a run."""
        return True

    @property
    def in_record(self) -> str:
        """What a record lacks that has not what the panel needs; empty if that is kept beside it."""
        return ""

    def wish(self) -> dict[str, Any]:
        """What to keep of a run that is trained again: fields of `retrain.Again`."""
        return {}

    def lacks(self, source: Source) -> list[Lack]:
        """What the store does not have of what the panel shows."""
        found = []
        for cell in self.cells():
            one = source.find(cell, self.grid)
            bare = [record for record in one.records.values() if not self.kept(source, record)]
            if not one.records:
                found.append(Lack(one, "runs"))
            elif bare:
                found.append(Lack(one, "record" if self.in_record else "kept", bare, self.in_record))
        return found

    def gather(self, source: Source) -> Part:
        """The plotted numbers."""
        raise NotImplementedError

    def draw(self, axes: Any, part: Part) -> None:
        """Put them on matplotlib axes."""
        raise NotImplementedError


def counted(share: Mapping[str, int]) -> str:
    """`8/10 runs` where some are missing, nothing where none are."""
    return f"{share['n']}/{share['planned']} runs" if share["n"] < share["planned"] else ""


def short(values: Any, digits: int = 4) -> Any:
    """Numbers with so many significant digits, in nested lists."""
    if isinstance(values, BaseModel):
        return values.model_dump()
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [short(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if isinstance(values, float) else values
