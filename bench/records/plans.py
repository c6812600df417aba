"""Plans in a store: one for each grid, also where two grids have one name or a grid was edited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.records.record import used

Plan = Mapping[str, Any]


def kept_as(plan: Plan, there: Iterable[Plan]) -> dict[str, Any]:
    """The plan as it is put beside those of a store, one of which it may replace.

    The draws of a plan it replaces stay known as draws, in `superseded`, so that none of them becomes a result.
    """
    by_name = {one["grid"]: one for one in there}
    origin = plan.get("origin") or {}
    name = name_among(plan["grid"], origin, by_name)
    former = by_name.get(name)
    if former is None:
        return {**plan, "grid": name}
    known = {*former.get("superseded", ()), *draws_of(former)} - set(draws_of(plan))
    place = {"place": former["origin"]["place"]} if former.get("origin") else {}
    return {**plan, "grid": name, "origin": {**origin, **place}, "superseded": sorted(known)}


def name_among(name: str, origin: Mapping[str, str], there: Mapping[str, Plan]) -> str:
    """The name of a grid's plan in a store: its own, or `NAME-2` and so on beside other grids of that name.

    A plan is the same grid's if its file was at the same place (it may have been edited since), or if what is to be run
    is the same (the file was copied or moved); one that does not say where it is from is taken for the same.
    """
    names = [name, *(f"{name}-{number}" for number in range(2, len(there) + 3))]
    origins = {one: there[one].get("origin", {}) for one in names if one in there}
    for alike in (
        lambda one: one.get("place") == origin.get("place"),
        lambda one: one.get("content") == origin.get("content"),
        lambda one: not one or not origin,
    ):
        if found := next((one for one in origins if alike(origins[one])), None):
            return found
    return next(one for one in names if one not in there)


def draws_of(plan: Plan) -> list[str]:
    """The ids of the runs of all its searches."""
    return [id for cell in plan["cells"] for id in draw_ids(cell)]


def draw_ids(cell: Mapping[str, Any]) -> list[str]:
    """The ids of the runs of a cell's search."""
    return [id for draw in (cell.get("search") or {"draws": ()})["draws"] for id in draw["ids"]]


def search_of(cell: Mapping[str, Any]) -> str:
    """What tells searches apart: what is searched for, by which runs, chosen by which rule."""
    rule = (cell["search"] or {}).get("rule", "")
    return fingerprint([cell["dataset"], used(cell["dataset_options"]), cell["label"], rule, draw_ids(cell)])


def decided(plans: Iterable[Plan]) -> dict[str, int]:
    """Search → the draw that was chosen."""
    found = [(cell, cell["search"]["chosen"]) for plan in plans for cell in plan["cells"] if cell["search"]]
    return {search_of(cell): chosen for cell, chosen in found if chosen is not None}
