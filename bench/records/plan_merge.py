"""Plans of several places put together: none is lost under another's name, and none is there twice."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

from msgspec.structs import replace

from spurbench.bench.records.plan import Cell, Plan


def merge_plans(plans: Iterable[tuple[Plan, str]]) -> tuple[list[Plan], list[str]]:
    """Plans, each with where it comes from, under names of their own; and what was renamed, in words.

    Of two of the same grid the one whose searches are further is kept. One of another grid becomes `NAME-2` and so on.
    """
    kept: dict[str, Plan] = {}
    renamed = []
    for plan, place in plans:
        name, merged = find_place(plan, kept)
        if name != plan.grid and name not in kept:
            renamed.append(f"{place}: there is another plan called {plan.grid}: this one is kept beside it as {name}")
        kept[name] = merged
    return list(kept.values()), renamed


def find_place(plan: Plan, kept: dict[str, Plan]) -> tuple[str, Plan]:
    """The name of a plan among others, and the plan under it, merged with the one of the same grid if it is there."""
    for number in count(1):
        name = plan.grid if number == 1 else f"{plan.grid}-{number}"
        merged = merge_two(kept[name], plan.with_(grid=name)) if name in kept else plan.with_(grid=name)
        if merged is not None:
            return name, merged
    raise AssertionError("there is always another name")


def merge_two(one: Plan, other: Plan) -> Plan | None:
    """Of two plans of one grid the one whose searches are further; None if they are of two grids, or contradict."""
    if before_searches(one) != before_searches(other):
        return None
    superseded = sorted({*one.superseded, *other.superseded})
    pairs = list(zip(map(unsourced, one.cells), map(unsourced, other.cells), strict=True))
    if all(b == a or b.pending for a, b in pairs):
        return one.with_(superseded=superseded)
    return other.with_(superseded=superseded) if all(a == b or a.pending for a, b in pairs) else None


def before_searches(plan: Plan) -> Any:
    """What a plan has from its grid alone, its name left out: what searches have found so far is not in it."""
    return plan.description, plan.selection, plan.notes, [cell_before_search(cell) for cell in plan.cells]


def cell_before_search(cell: Cell) -> Any:
    cell = unsourced(cell)
    if cell.search is None:
        return cell
    draws = [replace(draw, seeds=[], ids=[]) for draw in cell.draws]
    search = replace(cell.search, draws=draws, chosen=None, text="")
    return replace(cell, hyper_parameters=None, training={}, na=None, seeds=[], ids=[], search=search)


def unsourced(cell: Cell) -> Cell:
    """The cell without what it says of where its settings are from: earlier plans do not say it."""
    return replace(cell, source=None) if cell.source else cell
