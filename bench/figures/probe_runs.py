"""The starvation probe on runs of a store: they are chosen, trained again, and shown as a table, a figure and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.core.terminal import shell
from spurbench.bench.evaluation import starvation
from spurbench.bench.figures.draw import Drawing
from spurbench.bench.figures.figure_data import Cell, PanelData, partial_count
from spurbench.bench.figures.panels.responses import Responses
from spurbench.bench.figures.panels.shares import Shares
from spurbench.bench.figures.probe_panel import ProbeSettings, mean_curves
from spurbench.bench.figures.sheet import Figure, FigureSheet
from spurbench.bench.grid.cells import picked
from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid
from spurbench.bench.grid.load import shipped_grids as shipped
from spurbench.bench.jobs import retrain
from spurbench.bench.leaderboard.cell_results import collect_results
from spurbench.bench.records.record import Summary
from spurbench.bench.records.selection import classes_of
from spurbench.bench.store import artifacts
from spurbench.bench.store.store import Packed, Store

MAX_LINES = 6  # features drawn as lines
COLUMNS = {
    "feature": "feature", "about": "aligned with", "strength": "strength", "first": "first response",
    "last": "last response", "due": "due, %", "learned": "learned, %", "ratio": "learned/due", "verdict": "verdict",
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Runs that are probed together: one run, or all of a cell."""

    dataset: str
    name: str
    records: list[Summary]
    planned: int


def find_groups(store: Store, run_ids: Sequence[str], patterns: Sequence[str]) -> list[Group]:
    """The groups named by ids (or their beginnings) and by patterns of cells.

    Errors: UserError for an id or pattern that names nothing, and for a run that is unfinished or not binary.
    """
    if not run_ids and not patterns:
        raise UserError("name what to probe: --run ID, or --cell LABEL for all seeds of a cell")
    records = store.records()[0]
    found = [find_run(records, id) for id in run_ids]
    for pattern in patterns:
        found += find_cells(store, records, pattern)
    for group in found:
        for record in group.records:
            check_binary(record)
    return found


def find_cells(store: Store, records: Sequence[Summary], pattern: str) -> list[Group]:
    """The groups of the cells that a pattern names by the labels of the store's plans, or else of the shipped grids."""
    groups: list[Group] = []
    by_id, before = {one.id: one for one in records}, store.plans()
    for plans in (before, [expand(load_grid(name), by_id, before) for name in shipped()]):
        cells = collect_results(records, plans)
        groups = [Group(one.dataset, one.label, list(one.done.values()), len(one.seeds)) for one in cells]
        matching = [groups[place] for place in sorted(picked([names_of(one) for one in groups], pattern))]
        if any(one.records for one in matching):
            return [one for one in matching if one.records]
        if matching:
            raise UserError(f"no run of {pattern} is finished")
    raise unknown("cell", pattern, {one.name for one in groups})


def names_of(group: Group) -> tuple[str, ...]:
    return group.name, group.dataset, f"{group.dataset}/{group.name}"


def find_run(records: Sequence[Summary], id: str) -> Group:
    """The group of one run."""
    matching = [record for record in records if record.id.startswith(id)]
    if not matching:
        raise UserError(
            f"no run {id} in this store; `spurbench leaderboard STORE --format json` lists cells for --cell"
        )
    if len(matching) > 1:
        raise UserError(f"{len(matching)} runs begin with {id}: {', '.join(one.id for one in matching[:4])}, …")
    record = matching[0]
    if record.cause:
        raise UserError(f"run {id} failed ({record.cause.kind}): there is nothing to probe")
    return Group(record.dataset, f"{record.method}, seed {record.seed}", [record], 1)


def check_binary(record: Summary) -> None:
    classes = classes_of(record)
    if classes != 2:
        raise UserError(
            f"run {record.id} of {record.dataset} has {classes} classes: the probe defines features by labels ±1, "
            "so it needs two classes"
        )


def find_retrainings(store: Store, groups: Sequence[Group], settings: starvation.Settings) -> list[retrain.Retraining]:
    """The runs to train again: those not yet probed with these settings."""
    found = []
    for group in groups:
        arrays = {one.id: artifacts.load_arrays(store, one.id) for one in group.records}
        bare = [one for one in group.records if starvation.read_probe(arrays[one.id], settings) is None]
        found += [retrain.Retraining(stack, store.root, False, settings) for stack in retrain.stacks(bare)]
    if found and isinstance(store, Packed):
        more = f"`spurbench merge FOLDER {shell(store.root)}`, then probe that"
        raise UserError(f"{store.root} is a packed store, for reading only: {more}")
    return found


def summarize(store: Store, groups: Sequence[Group], settings: starvation.Settings) -> list[PanelData]:
    """What was measured of each group once its runs have been probed: curves and summary, means over its runs."""
    found = []
    for group in groups:
        seen = [starvation.read_probe(artifacts.load_arrays(store, record.id), settings) for record in group.records]
        runs = [one for one in seen if one is not None]
        head = {"name": f"{group.dataset} × {group.name}", "n": len(runs), "planned": group.planned}
        head |= {"runs": [record.id for record in group.records], "examples": int(runs[0]["examples"])}
        found.append(head | mean_curves(runs))
    return found


def print_table(part: PanelData, show: Callable[..., None]) -> None:
    """Print one group: a row for each feature, then the verdicts."""
    rows = [
        row
        | {"strength": f"{row['strength']:.3g}", "first": f"{row['first']:.3g}", "last": f"{row['last']:.3g}"}
        | {"due": f"{100 * row['due']:.1f}", "learned": f"{100 * row['learned']:.1f}"}
        | {"ratio": f"{row['learned'] / row['due']:.2f}" if row["due"] >= starvation.NOTABLE else ""}
        | {"about": f"{about} {100 * row[about]:.0f} %" if (about := starvation.main_subject(row)) else ""}
        for row in part["summary"]
    ]
    missing = f", {partial_count(part)}" if partial_count(part) else f", {part['n']} runs" if part["n"] > 1 else ""
    show(rows, COLUMNS, f"{part['name']}{missing}, {part['examples']} examples")
    print(describe_verdicts(part["summary"]))


def describe_verdicts(summary: Sequence[dict[str, Any]]) -> str:
    """Which features grew and which starved, and the rule for it, in words."""
    said = [
        f"{word}: {', '.join(str(row['feature']) for row in summary if row['verdict'] == word) or 'none'}"
        for word in ("grew", "starved")
    ]
    rest = [max(0.0, 1 - sum(row[share] for row in summary)) for share in ("due", "learned")]
    return (
        f"{'; '.join(said)}. A feature is due the share of ‖ŷ‖² it would have if all margins were equal; it starved "
        f"if it is due {100 * starvation.NOTABLE:.0f} % or more and learned less than {starvation.STARVED:g} of that. "
        f"All weaker features together are due {100 * rest[0]:.1f} % and learned {100 * rest[1]:.1f} %."
    )


def make_drawing(parts: Sequence[PanelData], settings: starvation.Settings) -> Drawing:
    """A row of two panels for each group: responses over training, shares at the end."""
    look = ProbeSettings(
        features=settings.features, sample=settings.sample, points=settings.points, spacing=settings.spacing
    )
    panels: list[Responses | Shares] = []
    data: list[PanelData | None] = []
    for part in parts:
        panels.append(Responses(title=part["name"], series=[], features=choose_features(parts), probe=look))
        panels.append(Shares(cell=Cell(dataset="", label=""), probe=look))
        data += [{"series": [part]}, part]
    sheet = FigureSheet(title="Features learned and features starved", height=0.4 + 2.0 * len(parts), columns=2,
                        widths=[1.25, 1], panels=[{}])  # fmt: skip
    return Drawing(Figure("probe", sheet, list(panels)), data, [])


def choose_features(parts: Sequence[PanelData]) -> list[int]:
    """The features drawn as lines: those that are due most in any group, the same in each."""
    due: dict[int, float] = {}
    for row in (row for part in parts for row in part["summary"]):
        due[row["feature"]] = max(due.get(row["feature"], 0.0), row["due"])
    return sorted(sorted(due, key=lambda feature: -due[feature])[:MAX_LINES])
