"""From a grid and the records there are to the plan: every cell with the ids of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spurbench.bench.grid.cells import Cell, Grid, Search
from spurbench.bench.plugins import registry
from spurbench.bench.records.plans import decided, search_of
from spurbench.bench.records.record import IDENTITY, SCHEMA, Record, Run, run_ids, settled
from spurbench.bench.records.selection import Scores, at_its_best, lack, mean_scores
from spurbench.bench.records.validation import Plan


def expand(grid: Grid, records_by_id: Mapping[str, Record], before: Iterable[Plan] = ()) -> Plan:
    """The plan: every cell with the ids of its runs. A pure function of the grid, the records and the plans present.

    While a search is unfinished its cell has `chosen` null, no ids and no hyper-parameters; run what the
    plan lists, expand again with the new records, until nothing is pending. Of draws that score alike, one that a plan
    of `before` chose stays chosen.
    """
    taken = decided(before)
    return {
        "schema": SCHEMA,
        "grid": grid.name,
        "description": grid.description,
        "selection": dict(grid.selection),
        "notes": list(grid.notes),
        "origin": grid.origin,
        "superseded": [],
        "cells": [planned(cell, records_by_id, taken) for cell in grid.cells],
    }


def planned(cell: Cell, records: Mapping[str, Record], taken: Mapping[str, int]) -> dict[str, Any]:
    """One cell of the plan."""
    row: dict[str, Any] = {
        "dataset": cell.dataset,
        "dataset_options": dict(cell.dataset_options),
        "protocol_version": cell.protocol_version,
        "method": cell.method,
        "label": cell.label,
        "published": cell.published,
        "hyper_parameters": dict(cell.hyper_parameters),
        "training": dict(cell.training),
        "precision": cell.precision,
        "selection": dict(cell.selection),
        "na": cell.na,
        "seeds": [] if cell.na else list(cell.seeds),
        "ids": [],
        "search": None,
    }
    if cell.search and not cell.na:
        add_search(row, cell.search, records, taken)
    if not row["na"] and row["hyper_parameters"] is not None:
        row["ids"] = run_ids(row, row["seeds"])
    return row


def add_search(row: dict[str, Any], search: Search, records: Mapping[str, Record], taken: Mapping[str, int]) -> None:
    """Put the search into the cell, and its winner if every draw has come to an end."""
    draws: list[dict[str, Any]] = []
    for draw in search.draws:
        settings: dict[str, Any] = {
            "hyper_parameters": dict(draw.hyper_parameters),
            "training": dict(draw.training),
            "dataset_options": dict(draw.dataset_options),
            "seeds": list(search.seeds),
        }
        draws.append({**settings, "ids": run_ids({**row, **settings}, search.seeds)})
    ids = [id for draw in draws for id in draw["ids"]]
    finished = all(settled(records.get(id)) for id in ids)
    scores = [mean_scores(search.rule, [records[id] for id in draw["ids"]]) for draw in draws] if finished else []
    row["search"] = {"rule": search.rule, "draws": draws}
    chosen, failed = best(scores, taken.get(search_of(row))), scores.count(None)
    why = unserved(search.rule, [records[id] for id in ids if id in records])
    if finished and chosen is None:
        why = why or f"every draw of the search failed ({failed})"
    text = search.text + (f"; {failed} of {len(draws)} draws failed" if failed else "")
    draws = [begun(draw, records) for draw in draws] if why else draws  # no other is needed any more
    row["search"] |= {"text": text, "draws": draws, "chosen": chosen}
    if chosen is None:
        row["hyper_parameters"] = None
        row["na"] = why
        row["seeds"] = [] if why else row["seeds"]
    else:
        row["hyper_parameters"] = dict(search.draws[chosen].final["hyper_parameters"])
        row["training"] = dict(search.draws[chosen].final["training"])


def begun(draw: Mapping[str, Any], records: Mapping[str, Record]) -> dict[str, Any]:
    """The draw with those of its runs that there are."""
    there = [(id, seed) for id, seed in zip(draw["ids"], draw["seeds"], strict=True) if id in records]
    return {**draw, "ids": [id for id, _ in there], "seeds": [seed for _, seed in there]}


def unserved(rule: str, records: Iterable[Record]) -> str | None:
    """What a rule needs that the runs there are do not give, by the first that is done."""
    done = next((record for record in records if record["status"] == "done"), None)
    return None if done is None else lack(rule, at_its_best(done, rule)["splits"])


def best(scores: Sequence[Scores | None], before: int | None = None) -> int | None:
    """The place of the best scores, the first of equals; None if there are none.

    What was chosen `before` stays if the rule's own score is the best: its runs may be there.
    """
    found = [(score, -place) for place, score in enumerate(scores) if score is not None]
    stays = before is not None and before < len(scores) and (score := scores[before]) and score[0] == max(found)[0][0]
    return before if stays else -max(found)[1] if found else None


def runs(plan: Plan) -> list[tuple[Run, dict[str, Any]]]:
    """Every run the plan lists, searches' draws included, each with its cell; an id comes once."""
    found: dict[str, tuple[Run, dict[str, Any]]] = {}
    for cell in plan["cells"]:
        for part in [*(cell["search"] or {"draws": []})["draws"], cell]:
            fields = {name: part.get(name, cell[name]) for name in IDENTITY}
            for id, seed in zip(part["ids"], part["seeds"], strict=False):  # no ids: nothing to run yet
                if id not in found:
                    found[id] = (Run(**fields, seed=seed), cell)
                    vars(found[id][0])["id"] = id  # known: not to be hashed again
    return list(found.values())


SHOWN = ("dataset", "dataset_options", "label", "method", "precision", "na", "published")


def summary(plan: Plan) -> list[dict[str, Any]]:
    """One row per cell for `spurbench plan`: how many runs and updates, and why none."""
    rows, known = [], registry.methods()
    for cell in plan["cells"]:
        search = cell["search"] or {"draws": [], "text": None}
        counts = [(len(draw["ids"]), draw["training"].get("steps", 0)) for draw in search["draws"]]
        own = 0 if cell["na"] else len(cell["seeds"])
        idle = cell["method"] in known and not known[cell["method"]].trains
        row = {key: cell[key] for key in SHOWN} | {"runs": own, "search_runs": sum(n for n, _ in counts)}
        updates = own * cell["training"].get("steps", 0) + sum(n * steps for n, steps in counts)
        rows.append(row | {"updates": 0 if idle else updates, "search": search["text"]})
    return rows
