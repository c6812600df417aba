"""What figures are drawn from: the cells of grids, and the runs of them that a store has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

from pydantic import BaseModel

from spurbench.bench.core.errors import unknown
from spurbench.bench.core.terminal import plural, shell
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

PanelData = dict[str, Any]
"""The plotted numbers of a panel, ready for JSON."""


class Cell(Strict):
    """A row of a grid, as a figure file names it."""

    dataset: str
    label: str
    title: str | None = None  # instead of the label
    precision: Precision | None = None  # if the grid has the row in both; None: the first

    @property
    def name(self) -> str:
        return self.label if self.title is None else self.title


@dataclass(frozen=True)
class FoundCell:
    """A planned cell and its finished runs."""

    planned: PlannedCell
    grid: str
    records: dict[int, Summary]  # seed → record

    @property
    def share(self) -> PanelData:
        """How many of the planned runs there are."""
        return {"n": len(self.records), "planned": len(self.planned.seeds)}


@dataclass(frozen=True)
class Missing:
    """What a store lacks: runs of a cell, or what is drawn of them, which is kept beside their records."""

    found: FoundCell
    what: str  # "runs"; "kept", which retraining makes; "record", which only other runs would have
    records: Sequence[Summary] = ()  # those that lack it
    words: str = ""  # what the records lack

    @property
    def leaves_nothing(self) -> bool:
        """Whether that leaves nothing to draw."""
        return len(self.records) == len(self.found.records)


@dataclass
class FigureData:
    """A store's runs, read once for any number of figures; without a store there are none."""

    store: Store | None
    records: dict[str, Summary] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        usable = self.store.records()[0] if self.store else []
        self.records = {record.id: record for record in usable}
        self.comparison = published.load()

    def plan(self, grid: str) -> Plan:
        """A grid's plan, made anew from its file: the store's own may be of an older version."""
        if grid not in self.plans:
            before = self.store.plans() if self.store else []
            self.plans[grid] = expand(load_grid(grid), self.records, before)
        return self.plans[grid]

    def find_cell(self, cell: Cell, grid: str | None) -> FoundCell:
        """The cell as the grid plans it (without a grid, as the store's own plans do), and its finished runs."""
        plans = [self.plan(grid)] if grid else self.store.plans() if self.store else []
        names = [one.label for plan in plans for one in plan.cells if one.dataset == cell.dataset]
        for plan in plans:
            for one in plan.cells:
                wanted = (cell.dataset, cell.label, cell.precision or one.precision)
                if (one.dataset, one.label, one.precision) == wanted:
                    return FoundCell(one, grid or plan.grid, self.finished_runs(one))
        raise unknown(f"{cell.dataset} row in the grid", cell.label, names)

    def finished_runs(self, planned: PlannedCell) -> dict[int, Summary]:
        pairs = zip(planned.seeds, (self.records.get(id) for id in planned.ids), strict=False)
        return {seed: record for seed, record in pairs if record and record.status == "done"}

    def margin_curves(self, record: Summary) -> dict[str, Curve]:
        """The curves of a run's searches for margins, by name."""
        whole = self.store.record(record.id) if self.store else None
        return whole.curves if whole else {}

    def kept_arrays(self, record: Summary) -> dict[str, artifacts.Array]:
        return artifacts.load_arrays(self.store, record.id) if self.store else {}

    def load_data(self, record: Summary) -> Data:
        """The data that a run was trained and scored on, drawn again."""
        from spurbench.bench.jobs.retrain import job_of

        return set_up(job_of([record])).draw(record.run).data


def explain_missing(missing: Sequence[Missing], source: FigureData, figure: str) -> str:
    """What the store lacks for a figure and the command that would make it, in one line; missing runs come first."""
    runs = [lack.found for lack in missing if lack.what == "runs"]
    if not runs:
        missing = [lack for lack in missing if lack.what == "record"] or missing
        cells = ", ".join(dict.fromkeys(lack.found.planned.label for lack in missing))
        count = len({record.id for lack in missing for record in lack.records})
        if missing[0].words:
            return f"the records of {plural(count, 'run')} ({cells}) have {missing[0].words}"
        first, store = addable_store(source)
        return (
            f"what this is drawn from was not kept of {plural(count, 'run')} ({cells}), which can be retrained for it; "
            f"next: {first}spurbench figure {shell(figure)} {shell(store)} --train"
        )
    runs = list({repr(one.planned): one for one in runs}.values())
    cells = ", ".join(f"{one.planned.dataset}/{one.planned.label}" for one in runs)
    return f"no runs of {cells} (grid '{runs[0].grid}'); next: {run_command(runs, source)}"


def addable_store(source: FigureData) -> tuple[str, Path]:
    """A store that runs can be added to: the command that makes it, if that is needed, and where it is."""
    if isinstance(source.store, Packed):
        return f"spurbench merge stores/more {shell(source.store.root)}, then ", Path("stores/more")
    return "", source.store.root if source.store else Path("STORE")


def run_command(lacking: Sequence[FoundCell], source: FigureData) -> str:
    """The command that would make the runs of these cells."""
    only = " ".join(f"--only {quote(f'{one.planned.dataset}/{one.planned.label}')}" for one in lacking)
    first, store = addable_store(source)
    return f"{first}spurbench run {shell(lacking[0].grid)} --store {shell(store)} {only}"


class Panel(Strict):
    """A panel: which numbers, and how they are drawn. Subclasses are named in a figure file by `kind`."""

    box: ClassVar[float | None] = None  # ratio of height to width of what is drawn, if fixed

    title: str = ""
    grid: str | None = None  # the figure's own, if it names one

    def cells(self) -> Sequence[Cell]:
        """The cells it is drawn from."""
        return ()

    def is_kept(self, source: FigureData, record: Summary) -> bool:
        """Whether what the panel needs beyond the record itself is kept of a run."""
        return True

    @property
    def lacking_in_record(self) -> str:
        """What a record lacks if it does not have what the panel needs; empty if that is kept beside records."""
        return ""

    def retraining_options(self) -> dict[str, Any]:
        """What to keep of a run that is trained again: fields of `retrain.Retraining`."""
        return {}

    def find_missing(self, source: FigureData) -> list[Missing]:
        """What the store lacks of what the panel shows."""
        found = []
        for cell in self.cells():
            one = source.find_cell(cell, self.grid)
            bare = [record for record in one.records.values() if not self.is_kept(source, record)]
            if not one.records:
                found.append(Missing(one, "runs"))
            elif bare:
                found.append(Missing(one, "record" if self.lacking_in_record else "kept", bare, self.lacking_in_record))
        return found

    def gather(self, source: FigureData) -> PanelData:
        """The plotted numbers."""
        raise NotImplementedError

    def draw(self, axes: Any, part: PanelData) -> None:
        """Draw them on matplotlib axes."""
        raise NotImplementedError


def partial_count(share: Mapping[str, int]) -> str:
    """`8/10 runs` if some are missing, else nothing."""
    return f"{share['n']}/{share['planned']} runs" if share["n"] < share["planned"] else ""


def rounded(values: Any, digits: int = 4) -> Any:
    """Numbers rounded to this many significant digits, in nested lists."""
    if isinstance(values, BaseModel):
        return values.model_dump()
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [rounded(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if isinstance(values, float) else values
