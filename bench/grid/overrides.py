"""`--set KEY=VALUE` on a grid: on every cell that it fits, above all that the file says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from spurbench.bench.core.assignments import parse_assignments
from spurbench.bench.core.errors import UserError, cut
from spurbench.bench.core.yamlfile import Origin, Where, located
from spurbench.bench.grid.cells import CellSpec
from spurbench.bench.grid.entries import (
    Entry,
    Settings,
    firsts,
    idle_fields,
    in_effect,
    rows,
    settle,
    split,
    with_values,
)
from spurbench.bench.grid.schema import BY_DEFAULT, GridSheet, MethodSheet, SearchSheet
from spurbench.bench.grid.search_space import declared, space_name, varies
from spurbench.bench.plugins.training_settings import training_fields
from spurbench.bench.records.run import bases_in

Change = tuple[str, str, Any]
"""Place, name and value of one setting."""
ON_COMMAND: Where = ("--set", "training")
"""Where training fields of the command line stand, for the runs that rows start from."""
Commanded = Mapping[str, Any]
"""Training fields of the command line, which go to the runs that rows start from, too."""


def overridden(sheet: GridSheet, origin: Origin, sets: Sequence[str]) -> tuple[GridSheet, Origin, Commanded, set[str]]:
    """The grid with values of the command line in every entry in which they have an effect.

    Beside it what of them is for the runs that entries start from, and the names of those that no entry has a use for.

    What a search would vary or set otherwise is fixed, and a search with nothing left to vary is none. A changed entry
    is compared with no published number.
    Errors: UserError for one that fits no entry, and for names and values as of a grid's.
    """
    entries = list(rows(sheet, origin))
    names = [dict.fromkeys(of) for of in zip(*((row.dataset.name, row.method.name) for row in entries), strict=True)]
    changes = parse_assignments(sets, *map(list, names))
    options = {given.partition("=")[0].strip(): f"--set {cut(given)}" for given in sets}
    used: set[str] = set()
    options_by_place: dict[Where, str] = {}
    made: dict[Where, MethodSheet] = {}
    for row in entries:
        owners = {"hyper_parameters": row.method.name, "training": "training", "options": row.dataset.name}
        own = [(place, name, value) for place, owner in owners.items() for name, value in changes[owner].items()
               if place != "training" or name not in idle_fields(row.method)]  # fmt: skip
        option = {(place, name): options[f"{owners[place]}.{name}"] for place, name, _ in own}
        spots = {(*row.where, place, name): text for (place, name), text in option.items()}
        fit = fitting(row, own, Origin(origin.name, origin.lines, {**origin.given, **spots}))
        used |= {option[place, name] for place, name, _ in fit}
        options_by_place |= {(*row.where, place, name): option[place, name] for place, name, _ in fit}
        made[row.where] = changed(row, fit)
    idle = [key for key, text in options.items() if text not in used]
    if lost := next((key for key in idle if not key.startswith("training.")), None):
        raise no_use(options[lost], sheet, origin)
    blocks = [
        block.model_copy(update={"methods": [made["datasets", i, "methods", j] for j in range(len(block.methods))]})
        for i, block in enumerate(sheet.datasets)
    ]
    options_by_place |= commanded_places(options)
    found = Origin(origin.name, origin.lines, {**origin.given, **options_by_place})
    left = {key.partition(".")[2] for key in idle}
    return sheet.model_copy(update={"datasets": blocks}), found, changes["training"], left


def commanded_places(options: Mapping[str, str]) -> dict[Where, str]:
    """Where training fields of `--set` stand for the runs that rows start from, each with its option."""
    parts = {key: key.partition(".") for key in options}
    return {(*ON_COMMAND, name): options[key] for key, (owner, _, name) in parts.items() if owner == "training"}


def no_use(option: str, sheet: GridSheet, origin: Origin) -> UserError:
    return UserError(f"{option}: no cell of {sheet.name or origin.name or 'the grid'} has a use for it")


def check_used(left: Iterable[str], cells: Sequence[CellSpec], sheet: GridSheet, origin: Origin) -> None:
    """Errors: UserError for a training field of `--set` that no row has a use for, and no run that they start from."""
    draws = [draw for cell in cells if cell.search for draw in cell.search.draws]
    bases = [base for one in (*cells, *draws) for base in bases_in(vars(one))]
    for name in left:
        if not any(name in base["training"] for base in bases):
            raise no_use(origin.given[(*ON_COMMAND, name)], sheet, origin)


def fitting(row: Entry, changes: Sequence[Change], origin: Origin) -> list[Change]:
    """The changes that have an effect in an entry, all of them made."""
    if not changes:
        return []
    new = replace(row, entry=with_changes(row.entry, changes), origin=origin)
    settings, _, axes = settle(new)
    varied = {one.option.name for one in axes} | {name for _, name in searched_names(row)}
    kept = in_effect(new, with_values(settings, axes, firsts(axes)), {})
    return [
        (place, name, value)
        for place, name, value in changes
        if name in kept[place] or any(condition.key in varied for condition in row.fields[place][name].only)
    ]


def changed(row: Entry, changes: Sequence[Change]) -> MethodSheet:
    """The entry with the changes made, on top of the recipe that it had without them."""
    if not changes:
        return row.entry
    entry = with_changes(row.entry, changes)
    update: dict[str, Any] = {"recipe": row.recipe.name if row.recipe else BY_DEFAULT}
    settings = {(place, name) for place, name, _ in changes if place != "options"}
    if settings:
        update["published"] = None
    if entry.search:
        left = [key for key in searched_names(row) if key not in settings]
        update["search"] = without(entry.search, changes) if left else None
    if entry.draws and not settle(replace(row, entry=entry))[2]:
        update["draws"] = None
    return entry.model_copy(update=update)


def with_changes(entry: MethodSheet, changes: Sequence[Change]) -> MethodSheet:
    places: dict[str, dict[str, Any]] = {}
    for place, name, value in changes:
        places.setdefault(place, dict(getattr(entry, place)))[name] = value
    return entry.model_copy(update=places)


def searched_names(row: Entry) -> list[tuple[str, str]]:
    """Place and name of what an entry's search varies."""
    search = row.entry.search
    if search is None:
        return []
    if search.space is not None:
        return [space_name(key) for key in search.space]
    axes = located(row.origin, (*row.where, "search"), lambda: declared(row.method.options, row.method.name))
    return [("hyper_parameters", one.option.name) for one in axes]


def without(search: SearchSheet, changes: Sequence[Change]) -> SearchSheet:
    """The search without what the changes fix."""
    fixed = {(place, name) for place, name, _ in changes}

    def rest(place: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if (place, name) not in fixed}

    space = search.space and {key: value for key, value in search.space.items() if space_name(key) not in fixed}
    training, options = rest("training", search.training), rest("options", search.options)
    return search.model_copy(update={"space": space, "training": training, "options": options})


def follow(base: Entry, of: Settings, settings: Settings) -> dict[str, Any]:
    """The training fields of `--set` that have an effect in a run to start from; what varies is as in its row, `of`."""
    commanded = {name: value for name, value in base.commanded.items() if name not in idle_fields(base.method)}
    fields = training_fields()
    own = {name: of["training"].get(name, value) if name in fields and varies(fields[name], value) else value
           for name, value in commanded.items()}  # fmt: skip
    fixed, several = split(base, "training", ON_COMMAND, own)
    if several:
        raise base.origin.error((*ON_COMMAND, next(iter(several))), "a run to start from has one value of it")
    kept = in_effect(base, settings | {"training": settings["training"] | fixed}, {})["training"]
    return {name: value for name, value in fixed.items() if name in kept}
