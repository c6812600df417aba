"""Everything that a store knows about one run, for `spurbench show`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any

from spurbench.bench.cluster.status import StoreState, read_state
from spurbench.bench.core.errors import UserError, cut
from spurbench.bench.core.fields import show_value
from spurbench.bench.core.terminal import duration, plural
from spurbench.bench.leaderboard import wording as say
from spurbench.bench.plugins.counts import describe_shares
from spurbench.bench.provenance.commit import describe_code
from spurbench.bench.records.metrics import columns_of, step_of, unit_of, value
from spurbench.bench.records.plan import Cell, Plan
from spurbench.bench.records.record import Counts, Record, Summary
from spurbench.bench.records.run import Run, used
from spurbench.bench.records.selection import at_its_best, rule_of
from spurbench.bench.store import artifacts
from spurbench.bench.store.store import KINDS, Packed, Store

MOST_NAMED = 4  # runs in a message
MOST_COLUMNS, MOST_GROUPS = 6, 12  # of the table of groups: columns if there are few, else rows
POINTS = 6  # rows of the learning curve
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """The place of a run in a plan: its cell and, if it belongs to a search, the draw."""

    plan: Plan
    cell: Cell
    draw: int | None

    @property
    def text(self) -> str:
        if self.draw is None:
            return f"{self.cell.label} of the grid {self.plan.grid}"
        draws = len(self.cell.draws)
        return f"draw {self.draw + 1} of {draws} in the search of {self.cell.label}, grid {self.plan.grid}"

    @property
    def source(self) -> str:
        """Where the run's settings come from, as far as the plan says."""
        if self.draw is not None:
            return "drawn by the search"
        search = f"found by a search: {self.cell.search.text}" if self.cell.search else ""
        return "; ".join(filter(None, (self.cell.source, search)))


@dataclass(frozen=True)
class Details:
    """A run, its record if there is one, its places in plans and its state."""

    run: Run
    record: Record | None
    places: Sequence[Place]
    state: str
    note: str

    @property
    def rule(self) -> str:
        """The rule by which a leaderboard chooses the step that it scores the run at."""
        cell = next((one.cell for one in self.places), None)
        return cell.selection.rule if cell and cell.selection else "none"


def load_details(store: Store, beginning: str) -> Details:
    """All there is of the run whose id begins so. Errors: UserError for none, or for several."""
    known = read_state(store)
    planned = {run.id: run for plan in store.plans() for run, _ in plan.runs()}
    runs = planned | {id: record.run for id, record in known.records.items()}
    id = find_id(runs, beginning, store.name)
    places = [place for plan in store.plans() for place in places_in(plan, id)]
    return Details(runs[id], store.record(id), places, known.state(id), describe_state(known, id))


def find_id(runs: Mapping[str, Run], beginning: str, where: str) -> str:
    """The id that begins so. Errors: UserError for none, naming the nearest, or for several, naming some."""
    found = [id for id in sorted(runs) if id.startswith(beginning)] if beginning else []
    if len(found) == 1 or beginning in runs:
        return beginning if beginning in runs else found[0]
    if not found:
        nearest = max(sorted(runs), key=lambda id: len(commonprefix([id, beginning])), default="")
        hint = f"; did you mean {name_run(runs[nearest])}?" if nearest[:1] == beginning[:1] != "" else ""
        raise UserError(f"no run '{cut(beginning)}' among the {len(runs):,} of {where}{hint}")
    more = f" and {len(found) - MOST_NAMED:,} more" if len(found) > MOST_NAMED else ""
    some = ", ".join(name_run(runs[id]) for id in found[:MOST_NAMED])
    raise UserError(f"{len(found):,} runs of {where} begin with '{beginning}': {some}{more}; give more characters")


def name_run(run: Run) -> str:
    return f"{run.id} ({run.dataset} × {run.method}, seed {run.seed})"


def places_in(plan: Plan, id: str) -> Iterator[Place]:
    for cell in plan.cells:
        if id in cell.ids:
            yield Place(plan, cell, None)
        yield from (Place(plan, cell, number) for number, draw in enumerate(cell.draws) if id in draw.ids)


def describe_state(known: StoreState, id: str) -> str:
    """How far a run is, or why it failed or is not done; and whether its files were edited since."""
    old = known.edited.get(id)
    edited = f"made before {', '.join(old)} was edited" if old else ""
    return "; ".join(filter(None, (known.note(id), edited)))


# ---- in words -----------------------------------------------------------------------------------------------------


def describe_run(found: Details) -> dict[str, str]:
    """What the run is, its places and state, and what it ran with."""
    run, record = found.run, found.record
    sources = dict.fromkeys(place.source for place in found.places if place.source)
    return {
        "run": name_run(run),
        "is": "; ".join(place.text for place in found.places) or "in no plan of this store",
        "status": ", ".join(filter(None, (found.state, found.note))),
        "hyper-parameters": format_values(run.hyper_parameters) or "none",
        "training": format_values(run.training) or "none: it does not train",
        "dataset options": format_values(used(run.dataset_options)),
        "precision": run.precision,
        "settings are": "; ".join(sources) or "of an origin that no plan here states",
        "needs": ", ".join(record.needs) if record else "",
    }


def format_values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={'no' if one is None else show_value(one)}" for name, one in values.items())


def describe_origin(record: Record) -> dict[str, str]:
    """What the run was made with, and what it cost."""
    source, cost = record.provenance, record.cost
    speed = f", {cost.seconds_per_step:.3g} s a step" if cost.seconds_per_step else ""
    beside = f", one of {cost.replicas} that trained together" if cost.replicas > 1 else ""
    resumed = f", resumed {cost.resumed} ×" if cost.resumed else ""
    return {
        "time": f"{source.started} to {source.finished}",
        "cost": f"{duration(float(cost.seconds))} of training{speed}, {say.memory(float(cost.peak_memory_mb))}, "
        f"{plural(cost.threads, 'thread')}{beside}{resumed}{', compiled' if cost.compiled else ''}",
        "machine": ", ".join(filter(None, (source.device, *map(str, (source.hardware.get("gpu") or "",
                                                                     source.hardware.get("cpu") or ""))))),
        "commit": describe_code(source.commit, source.diff) + (f", copy {source.snapshot}" if source.snapshot else ""),
        "code": ", ".join(f"{kind} {hash[:16]}" for kind, hash in source.code.items() if hash),
        "data": source.data or "drawn from the seed",
        "versions": ", ".join(f"{name} {version}" for name, version in source.versions.items()),
    }  # fmt: skip


def list_files(store: Store, id: str) -> list[str]:
    """The files kept of a run, relative to the store, with sizes."""
    if isinstance(store, Packed):
        drawings = artifacts.drawings_file(store.root)
        return [store.root.name, *([drawings.name] if drawings.exists() and artifacts.load_arrays(store, id) else [])]
    found: list[Path] = []
    for name in dict.fromkeys((id, store.file_id(id))):
        for kind in KINDS:
            folders = (store.root / kind, store.root / kind / name[:2])
            found += [file for folder in folders for file in sorted(folder.glob(f"{name}[.@]*")) if file.is_file()]
    return [f"{file.relative_to(store.root)} ({format_size(file.stat().st_size)})" for file in found]


def format_size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB" if count >= 1000 else f"{count} B"


# ---- as tables ----------------------------------------------------------------------------------------------------


def score_table(record: Record, rule: str) -> tuple[Rows, dict[str, str]]:
    """Every metric of every split at the step that the rule chooses, and the table's columns."""
    best = at_its_best(record, rule)
    rows: dict[str, dict[str, Any]] = {}
    columns = {"split": "split", "examples": "examples", "step": "step"}
    for split, metric in columns_of(best):
        number = value(best, (split, metric))
        if number is None:
            continue
        counts = best.splits.get(split)
        examples = f"{sum(counts.n):,.0f}" if counts else ""
        start = {"split": split, "examples": examples, "step": step_of(best, (split, ""))}
        unit = unit_of(metric)
        columns.setdefault(metric, metric.replace("_", " ") + (f" ({unit})" if unit else ""))
        rows.setdefault(split, start)[metric] = say.number(number, unit)
    return list(rows.values()), columns


def scores_title(record: Record, rule: str) -> str:
    """The title of the scores, with the rule that chose the step."""
    chosen = at_its_best(record, rule) is not record and bool(rule_of(rule).criteria)
    return f"scores, the step chosen by {rule_of(rule).text}" if chosen else "scores"


def group_table(record: Record, rule: str) -> tuple[Rows, dict[str, str]]:
    """Accuracy and number of examples of each group of each split; of many groups only the worst, a row each."""
    best = at_its_best(record, rule)
    rows: dict[str, dict[str, Any]] = {}
    worst: dict[str, float] = {}
    for split, counts in best.splits.items():
        for name, n, correct in zip(group_names(best, counts), counts.n, counts.correct, strict=True):
            if n:
                share = float(correct) / float(n)
                rows.setdefault(name, {"group": name})[split] = f"{say.number(100 * share, '%', 1)} of {n:,.0f}"
                worst[name] = min(share, worst.get(name, 1.0))
    if len(rows) <= MOST_COLUMNS:
        by_split = [{"split": split} | {name: row.get(split) for name, row in rows.items()} for split in best.splits]
        return by_split, {"split": "split (%)"} | {name: name for name in rows}
    kept = sorted(rows, key=lambda name: worst[name])[:MOST_GROUPS] if len(rows) > MOST_GROUPS else list(rows)
    return [rows[name] for name in kept], {"group": "group (%)"} | {split: split for split in best.splits}


def describe_attributes(record: Record) -> dict[str, str]:
    """How often labels come with attributes."""
    counted = {name: counts.n for name, counts in record.splits.items() if len(counts.n) == len(record.groups)}
    ordered = dict(sorted(counted.items(), key=lambda split: split[0] != "train"))
    labels = record.classes or len(record.groups)
    return {"P(a | y)": describe_shares(ordered, record.groups, labels)} if ordered else {}


def groups_title(record: Record) -> str:
    most = max((len(counts.n) for counts in record.splits.values()), default=0)
    return "accuracy by group" + (f": the {MOST_GROUPS} worst of {most}" if most > MOST_GROUPS else "")


def group_names(record: Summary, counts: Counts) -> Iterable[str]:
    """The names of the groups that a split is counted by: its classes if it has no attribute."""
    return record.groups if len(record.groups) == len(counts.n) else [f"y{y}" for y in range(len(counts.n))]


def curve_table(record: Record) -> tuple[Rows, dict[str, str]]:
    """Some points of the learning curve, including the first and the last."""
    last = len(record.history) - 1
    places = sorted({round(at * last / (POINTS - 1)) for at in range(POINTS)}) if record.history else []
    points = [record.history[place] for place in places]
    names = dict.fromkeys(["step", *(name for point in points for name in point)])
    rows = [{name: format_reading(name, point[name]) for name in names if name in point} for point in points]
    return rows, {name: name.replace("_", " ") + (" (%)" if unit_of(name) == "%" else "") for name in names}


def format_reading(name: str, number: float) -> str:
    """One number of a learning curve, where accuracies are shares."""
    if name == "step":
        return f"{number:,.0f}"
    return say.number(100 * number, "%") if unit_of(name) == "%" else say.number(number, "")
