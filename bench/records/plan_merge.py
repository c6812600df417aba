"""Plans of several places put together: none is lost under another's name, and none is there twice."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

from spurbench.bench.records.validation import Plan

PLACED = ("grid", "schema", "origin", "superseded")  # fields of a plan that say where it was, not what is planned
SEARCHED = ("hyper_parameters", "training", "na", "seeds", "ids")  # fields of a cell that its search settles


def together(plans: Iterable[tuple[Plan, str]]) -> tuple[list[Plan], list[str]]:
    """Plans, each with where it comes from, under names of their own; and what was renamed, in words.

    Of two of the same grid the one whose searches are further is kept. One of another grid becomes `NAME-2` and so on.
    """
    kept: dict[str, Plan] = {}
    said = []
    for plan, place in plans:
        name, joined = own_place(plan, kept)
        if name != plan["grid"] and name not in kept:
            said.append(f"{place}: there is another plan called {plan['grid']}: this one is kept beside it as {name}")
        kept[name] = joined
    return list(kept.values()), said


def own_place(plan: Plan, kept: dict[str, Plan]) -> tuple[str, Plan]:
    """The name of a plan among others, and the plan under it, joined with the one of the same grid if it is there."""
    for number in count(1):
        name = plan["grid"] if number == 1 else f"{plan['grid']}-{number}"
        alike = plan | {"grid": name}
        joined = further(kept[name], alike) if name in kept else alike
        if joined is not None:
            return name, joined
    raise AssertionError("there is always another name")


def further(one: Plan, other: Plan) -> Plan | None:
    """Of two plans of one grid the one whose searches are further; None if they are of two grids, or contradict."""
    if of_grid(one) != of_grid(other):
        return None
    pairs = list(zip(one["cells"], other["cells"], strict=True))
    if all(b == a or not settled(b) for a, b in pairs):
        return one | superseded(one, other)
    return other | superseded(one, other) if all(a == b or not settled(a) for a, b in pairs) else None


def superseded(*plans: Plan) -> Plan:
    """The draws that plans keep known of what they replaced, together."""
    found = {id for plan in plans for id in plan.get("superseded", ())}
    return {"superseded": sorted(found)} if found else {}


def of_grid(plan: Plan) -> Plan:
    """What a plan has from its grid alone, its name left out: what searches have found so far is not in it."""
    cells = [cell_of_grid(cell) for cell in plan["cells"]]
    return {key: plan[key] for key in plan if key not in PLACED} | {"cells": cells}


def cell_of_grid(cell: dict[str, Any]) -> dict[str, Any]:
    if not cell["search"]:
        return cell
    tried = [{key: draw[key] for key in draw if key not in ("seeds", "ids")} for draw in cell["search"]["draws"]]
    return {key: cell[key] for key in cell if key not in SEARCHED} | {"search": [cell["search"]["rule"], tried]}


def settled(cell: dict[str, Any]) -> bool:
    """Whether no search of the cell is under way."""
    return not cell["search"] or cell["search"]["chosen"] is not None or cell["na"] is not None
