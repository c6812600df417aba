"""From a grid and the records there are to the plan: every cell with the ids of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from spurbench.bench.grid.cells import CellSpec, DrawSpec, Grid, SearchSpec
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.rule import Scores
from spurbench.bench.records.plan import Cell, Draw, Plan, Search, decided
from spurbench.bench.records.record import SCHEMA, Summary, is_settled
from spurbench.bench.records.run import run_ids, trains_by
from spurbench.bench.records.selection import at_its_best, lack, mean_scores


def expand(grid: Grid, records_by_id: Mapping[str, Summary], before: Iterable[Plan] = ()) -> Plan:
    """The plan: every cell with the ids of its runs. A pure function of the grid, the records and the plans present.

    While a search is unfinished its cell has `chosen` null, no ids and no hyper-parameters; run what the
    plan lists, expand again with the new records, until nothing is pending. Of draws that score alike, one that a plan
    of `before` chose stays chosen.
    """
    taken = decided(before)
    return Plan(
        schema=SCHEMA,
        grid=grid.name,
        description=grid.description,
        selection=grid.selection,
        notes=list(grid.notes),
        origin=grid.origin,
        cells=[plan_cell(cell, records_by_id, taken) for cell in grid.cells],
    )


def plan_cell(spec: CellSpec, records: Mapping[str, Summary], taken: Mapping[str, int]) -> Cell:
    """One cell of the plan."""
    cell = Cell(
        dataset=spec.dataset,
        dataset_options=dict(spec.dataset_options),
        protocol_version=spec.protocol_version,
        method=spec.method,
        label=spec.label,
        published=spec.published,
        hyper_parameters=dict(spec.hyper_parameters),
        training=dict(spec.training),
        precision=spec.precision,
        selection=spec.selection,
        na=spec.na,
        seeds=[] if spec.na else list(spec.seeds),
        ids=[],
        search=None,
        source=spec.source or None,
        base=plain(spec.base),
        inferred_by=plain(spec.inferred_by),
    )
    if spec.search and not spec.na:
        cell = with_search(cell, spec.search, records, taken)
    if not cell.na and cell.hyper_parameters is not None:
        cell = replace(cell, ids=run_ids(cell.identity, cell.seeds))
    return cell


def with_search(cell: Cell, spec: SearchSpec, records: Mapping[str, Summary], taken: Mapping[str, int]) -> Cell:
    """The cell with its search, and with the settings of its winner if every draw has come to an end."""
    draws = [plan_draw(draw, cell, spec.seeds) for draw in spec.draws]
    cell = replace(cell, search=Search(rule=spec.rule, text=spec.text, draws=draws, chosen=None))
    finished = all(is_settled(records.get(id)) for id in cell.draw_ids)
    scores = [mean_scores(spec.rule, [records[id] for id in draw.ids]) for draw in draws] if finished else []
    chosen, failed = best(scores, taken.get(cell.search_key)), scores.count(None)
    why = unserved(spec.rule, [records[id] for id in cell.draw_ids if id in records])
    if finished and chosen is None:
        why = why or f"every draw of the search failed ({failed})"
    text = spec.text + (f"; {failed} of {len(draws)} draws failed" if failed else "")
    draws = [only_begun(draw, records) for draw in draws] if why else draws  # no other is needed any more
    cell = replace(cell, search=Search(rule=spec.rule, text=text, draws=draws, chosen=chosen))
    if chosen is None:
        return replace(cell, hyper_parameters=None, na=why, seeds=[] if why else cell.seeds)
    final = spec.draws[chosen].final
    return replace(
        cell,
        hyper_parameters=dict(final["hyper_parameters"]),
        training=dict(final["training"]),
        base=plain(spec.draws[chosen].final_base),
    )


def plain(base: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if base is None else dict(base)


def plan_draw(draw: DrawSpec, cell: Cell, seeds: Sequence[int]) -> Draw:
    """One candidate with the ids of its runs."""
    settings = {
        "dataset_options": dict(draw.dataset_options),
        "hyper_parameters": dict(draw.hyper_parameters),
        "training": dict(draw.training),
    }
    base = plain(draw.base)
    return Draw(**settings, base=base, seeds=list(seeds), ids=run_ids(cell.identity | settings | {"base": base}, seeds))


def only_begun(draw: Draw, records: Mapping[str, Summary]) -> Draw:
    """The draw with those of its runs that there are."""
    there = [(id, seed) for id, seed in zip(draw.ids, draw.seeds, strict=True) if id in records]
    return replace(draw, ids=[id for id, _ in there], seeds=[seed for _, seed in there])


def unserved(rule: str, records: Iterable[Summary]) -> str | None:
    """What a rule needs that the runs there are do not give, by the first that is done."""
    done = next((record for record in records if record.status == "done"), None)
    return None if done is None else lack(rule, at_its_best(done, rule).splits)


def best(scores: Sequence[Scores | None], before: int | None = None) -> int | None:
    """The place of the best scores, the first of equals; None if there are none.

    What was chosen `before` stays if the rule's own score is the best: its runs may be there.
    """
    found = [(score, -place) for place, score in enumerate(scores) if score is not None]
    stays = before is not None and before < len(scores) and (score := scores[before]) and score[0] == max(found)[0][0]
    return before if stays else -max(found)[1] if found else None


def summarize(plan: Plan) -> list[dict[str, Any]]:
    """One row per cell for `spurbench plan`: how many runs and updates, and why none."""
    rows, known = [], registry.methods()
    for cell in plan.cells:
        own = 0 if cell.na else len(cell.seeds)
        updates = own * cell.training.get("steps", 0)
        updates += sum(len(draw.ids) * draw.training.get("steps", 0) for draw in cell.draws)
        rows.append({
            "dataset": cell.dataset,
            "dataset_options": cell.dataset_options,
            "label": cell.label,
            "method": cell.method,
            "precision": cell.precision,
            "na": cell.na,
            "published": cell.published,
            "runs": own,
            "search_runs": len(cell.draw_ids),
            "updates": 0 if cell.method in known and not known[cell.method].trains else updates,
            "search": cell.search.text if cell.search else None,
            "source": cell.source,
            "starts_from": describe_bases(cell),
        })  # fmt: skip
    return rows


def without_validation(plan: Plan) -> list[str]:
    """The datasets of cells of which it is known that they hold out no split `validation`."""
    known = registry.datasets()
    infos = {cell.dataset: known[cell.dataset] for cell in plan.cells if cell.dataset in known}
    splits = ((cell.dataset, registry.splits_of(infos[cell.dataset], cell.dataset_options))
              for cell in plan.cells if cell.dataset in infos)  # fmt: skip
    return sorted({name for name, there in splits if "validation" not in there})


def describe_bases(cell: Cell) -> str | None:
    """What the runs of a cell start from, in words."""
    each = [cell.base, *(draw.base for draw in cell.draws)]
    steps = sorted({base["step"] for base in each if base})
    found = []
    if base := next((base for base in each if base), None):
        after = f"step {steps[0]:,}" if len(steps) == 1 else f"steps {steps[0]:,} to {steps[-1]:,}"
        found.append(f"starts from {base['method']}, {after}")
    if cell.inferred_by:
        use = "" if trains_by(cell.inferred_by) else "selection by "
        found.append(f"{use}groups inferred by {cell.inferred_by['infer']['method']}")
    return "; ".join(found) or None


def count_bases(plan: Plan) -> dict[str, tuple[int, int]]:
    """Method → runs that others start from and that are none of the grid's own, and their updates."""
    own, found = set(plan.ids), dict[str, tuple[int, int]]()
    for id, (run, _) in plan.bases(own).items():
        if id not in own:
            runs, updates = found.get(run.method, (0, 0))
            found[run.method] = runs + 1, updates + int(run.training.get("steps", 0))
    return found
