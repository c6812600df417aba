"""The search of a cell's hyper-parameters: its draws, each with the settings of the search's own budget."""

from __future__ import annotations

from functools import partial
from typing import Any

from spurbench.bench.core.fields import quote_value
from spurbench.bench.core.yamlfile import Where, located
from spurbench.bench.grid.cells import DrawSpec, SearchSpec
from spurbench.bench.grid.entries import (
    COMMAND,
    SEARCH,
    SPACE,
    Entry,
    Given,
    Settings,
    Source,
    completed,
    in_effect,
    noted,
    option_of,
    split,
    with_values,
)
from spurbench.bench.grid.schema import SearchSheet
from spurbench.bench.grid.search_space import Axis, axis, choices, declared, varies
from spurbench.bench.plugins import registry


def searched(row: Entry, settings: Settings, given: Given) -> SearchSpec | None:
    """The search of a cell, if it has one: its draws, each with the settings of the search's own budget."""
    if row.entry.search is None:
        return None
    sheet, where = row.entry.search, (*row.where, "search")
    rule = sheet.rule or row.rule
    if not registry.rule(rule).criteria:
        usable = ", ".join(name for name in registry.rules() if registry.rule(name).criteria)
        raise row.origin.error(where, f"a search needs a selection rule; give 'rule:', one of {usable}")
    budget = {place: dict(values) for place, values in settings.items()}
    changes = {"training": sheet.training, "options": sheet.options}
    for place, values in changes.items():
        fixed, several = split(row, place, (*where, place), values)
        if several:
            name = next(iter(several))
            raise row.origin.error((*where, place, name), f"{name} varies; put '{place}.{name}' into 'space'")
        budget[place] |= fixed
        given = given | noted(row, SEARCH, place, (*where, place), values)
    axes = search_axes(row, sheet, where, given)
    for key in sheet.space or {}:
        place, name = space_name(key)
        given = given | {(place, name): Source(SPACE, (*where, "space", key), True)}
    names = (row.dataset.name, row.method.name)
    taken = located(row.origin, where, lambda: choices(axes, sheet.draws, *names))
    draws = tuple(
        draw_of(row, with_values(settings, axes, one), with_values(budget, axes, one), given) for one in taken
    )
    return SearchSpec(rule, budget_text(sheet, len(draws), rule), tuple(sheet.seeds), draws)


def search_axes(row: Entry, sheet: SearchSheet, where: Where, given: Given) -> list[Axis]:
    """What a search varies: its `space` (`eta`, `training.lr`), or else what the method declares and is not fixed."""
    if sheet.space is None:
        axes = located(row.origin, where, lambda: declared(row.method.options, row.method.name))
        fixed = {key for key, source in given.items() if source.layer == COMMAND}
        axes = [one for one in axes if (one.place, one.option.name) not in fixed]
    else:
        axes = [space_axis(row, key, value, (*where, "space", key)) for key, value in sheet.space.items()]
    if not axes:
        raise row.origin.error(where, f"nothing to search: {row.method.name} declares no range; give a 'space:'")
    return axes


def space_axis(row: Entry, key: str, value: Any, where: Where) -> Axis:
    place, name = space_name(key)
    if place not in {"hyper_parameters", "training"}:
        raise row.origin.error(where, f"'{key}': a space holds hyper-parameters and training.<name>")
    option = option_of(row, place, name, where)
    if not varies(option, value):
        message = f"{key}: a space needs a list or a range {{low, high, scale}}, not {quote_value(value)}"
        raise row.origin.error(where, message)
    return located(row.origin, where, partial(axis, place, option, value, row.of(place)))


def space_name(key: str) -> tuple[str, str]:
    """Place and name of a key of a search's space."""
    owner, dot, name = key.partition(".")
    return (owner, name) if dot else ("hyper_parameters", key)


def draw_of(row: Entry, final: Settings, budget: Settings, given: Given) -> DrawSpec:
    """One candidate; what the file gives without effect in it is an error, as in a row."""
    full = completed(row, in_effect(row, budget, given))
    return DrawSpec(
        completed(row, in_effect(row, final, {})), full["hyper_parameters"], full["training"], full["options"]
    )


def budget_text(sheet: SearchSheet, draws: int, rule: str) -> str:
    """The stated budget: draws, seeds, what is smaller than in the final runs, and the rule."""
    kind = "random draws" if sheet.draws else "combinations"
    budget = [f"{draws} {kind} × {len(sheet.seeds)} seed{'s' if len(sheet.seeds) > 1 else ''}"]
    budget += [f"{name} {value}" for name, value in (*sheet.options.items(), *sheet.training.items())]
    return f"{', '.join(budget)}; chosen by {registry.rule(rule).text}"
