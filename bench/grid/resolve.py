"""From the keys of a grid file to cells: defaults filled in, values checked, lists multiplied out, searches drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from spurbench.bench.core import machine
from spurbench.bench.core.fields import quote_value, show_value
from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.core.machine import gpus
from spurbench.bench.core.yamlfile import Origin, Where, located
from spurbench.bench.grid.cells import CellSpec, DrawSpec, SearchSpec
from spurbench.bench.grid.entries import (
    COMMAND,
    SEARCH,
    SPACE,
    Entry,
    Given,
    Settings,
    Source,
    check_idle,
    commanded_on,
    completed,
    fields_of,
    firsts,
    in_effect,
    noted,
    option_of,
    rows,
    settle,
    source_of,
    split,
    with_values,
)
from spurbench.bench.grid.overrides import ON_COMMAND, follow
from spurbench.bench.grid.recipes import chosen
from spurbench.bench.grid.schema import BaseSheet, GridSheet, MethodSheet, SearchSheet
from spurbench.bench.grid.search_space import Axis, axis, choices, declared, space_name, varies
from spurbench.bench.plugins import registry
from spurbench.bench.records.run import INFERRED, SELECTION, trains_by
from spurbench.bench.records.selection import choice_of, lack


def cells_of(sheet: GridSheet, origin: Origin, commanded: Mapping[str, Any] = {}) -> Iterator[CellSpec]:
    """Every cell of the grid, in the file's order; `commanded` as in an `Entry`.

    Errors: UserError with file and line, also for two rows of one table with the same label.
    """
    labels: set[str] = set()
    for row in rows(sheet, origin, commanded):
        for cell in row_cells(row):
            table = [cell.dataset, dict(cell.dataset_options), cell.precision, cell.label]
            if fingerprint(table) in labels:
                message = f"two rows '{cell.label}' for the same {cell.dataset}; give one a 'label:'"
                raise origin.error(row.where, message)
            labels.add(fingerprint(table))
            yield cell


def row_cells(row: Entry) -> Iterator[CellSpec]:
    """The cells of one method entry: one, or one for each combination or draw of what varies."""
    settings, given, several = settle(row)
    axes = alive(row, settings, given, several)
    taken = located(row.origin, row.where, lambda: choices(axes, row.entry.draws, row.dataset.name, row.method.name))
    seen: set[str] = set()
    for values in taken:
        kept = in_effect(row, with_values(settings, axes, values), {} if row.entry.search else given)
        own = {i: value for i, value in values.items() if axes[i].option.name in kept[axes[i].place]}
        varied = suffix(axes, own)
        if len(own) == len(values) or varied not in seen:  # what differs in what has no effect is one cell
            source = source_of(row, given, kept)
            yield cell_of(row, completed(row, kept), varied, searched(row, settings, given), source)
        seen.add(varied)


def cell_of(row: Entry, settings: Settings, varied: str, search: SearchSpec | None, source: str) -> CellSpec:
    label = " ".join(part for part in (row.entry.label or row.method.name, varied) if part)
    plain = row.entry.label is None and row.entry.search is None and not varied
    by_default = row.method.name if row.block.paper_budget and plain else None
    if row.recipe and row.untouched:
        by_default = row.recipe.published
    given = "published" in row.entry.model_fields_set
    rule = search.rule if search else row.rule
    inferred_by = inferring_run(row, settings)
    splits = registry.splits_of(row.dataset, settings["options"])
    splits += (INFERRED,) if inferred_by and "validation" in splits else ()
    chooses = search is not None or (row.method.trains and settings["training"].get("evaluate") is not None)
    unserved = lack(rule, splits) if chooses else None
    return CellSpec(
        dataset=row.dataset.name,
        dataset_options=settings["options"],
        protocol_version=row.dataset.protocol_version,
        method=row.method.name,
        label=label,
        published=row.entry.published if given else by_default,
        hyper_parameters=settings["hyper_parameters"],
        training=settings["training"],
        precision=settled_precision(row.block.precision or row.sheet.precision),
        seeds=tuple(row.seeds),
        na=registry.requirements(row.method, row.dataset, settings["options"], trains_by(inferred_by)) or unserved,
        selection=choice_of(rule),
        search=search,
        resources={**row.sheet.resources, **row.block.resources, **row.entry.resources},
        source=source,
        base=base_run(row, settings),
        inferred_by=inferred_by,
    )


def settled_precision(wanted: str) -> str:
    """`auto` is bf16 where the machine multiplies it in hardware, else float32, so that a record says which it was."""
    if wanted != "auto":
        return wanted
    return "bf16" if machine.has_bf16() or gpus() else "float32"


def alive(row: Entry, settings: Settings, given: Given, several: Sequence[Axis]) -> list[Axis]:
    """What varies and has an effect; errors where that does not go with the entry's search or draws."""
    axes = [one for one in several if not idle(row, settings, several, one)]
    if len(axes) < len(several) and row.entry.search is None:
        in_effect(row, with_values(settings, several, firsts(several)), given)  # only what is inherited may be idle
    if row.entry.search is not None and axes:
        message = f"{axes[0].key} varies beside a search; put it into the search's 'space'"
        raise row.origin.error(row.where, message)
    if row.entry.draws is not None and not axes:
        raise row.origin.error((*row.where, "draws"), "draws: nothing varies; give a range {low, high, scale}")
    return axes


def idle(row: Entry, settings: Settings, axes: Sequence[Axis], one: Axis) -> bool:
    """Whether something inherited would vary in vain: it has no effect, and nothing that varies could give it one."""
    full = with_values(settings, axes, firsts(axes))
    others = {each.option.name for each in axes if each.place == one.place}
    fixed = not any(condition.key in others for condition in one.option.only)
    return fixed and one.option.name not in in_effect(row, full, {})[one.place]


def suffix(axes: Sequence[Axis], values: Mapping[int, Any]) -> str:
    """What tells the rows of one entry apart: `coef=0.1, delay=3`."""
    texts = {i: "no" if value is None else show_value(value) for i, value in values.items()}
    return ", ".join(f"{axes[i].key}={text}" for i, text in texts.items())


# ---- searches -------------------------------------------------------------------------------------------------------


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
    if place == "training":
        check_idle(row, name, where)
    if not varies(option, value):
        message = f"{key}: a space needs a list or a range {{low, high, scale}}, not {quote_value(value)}"
        raise row.origin.error(where, message)
    return located(row.origin, where, partial(axis, place, option, value, row.of(place)))


def draw_of(row: Entry, final: Settings, budget: Settings, given: Given) -> DrawSpec:
    """One candidate; what the file gives without effect in it is an error, as in a row."""
    full, own = completed(row, in_effect(row, budget, given)), completed(row, in_effect(row, final, {}))
    smaller = row.entry.search.training if row.entry.search else {}
    return DrawSpec(
        own,
        full["hyper_parameters"],
        full["training"],
        full["options"],
        base_run(row, full, smaller),
        base_run(row, own),
    )


def budget_text(sheet: SearchSheet, draws: int, rule: str) -> str:
    """The stated budget: draws, seeds, what is smaller than in the final runs, and the rule."""
    kind = "random draws" if sheet.draws else "combinations"
    budget = [f"{draws} {kind} × {len(sheet.seeds)} seed{'s' if len(sheet.seeds) > 1 else ''}"]
    budget += [f"{name} {value}" for name, value in (*sheet.options.items(), *sheet.training.items())]
    return f"{', '.join(budget)}; chosen by {registry.rule(rule).text}"


# ---- runs to start from ---------------------------------------------------------------------------------------------

GROUPED = {"groups", "environments", "validation groups"}
"""What methods need that inferred groups stand in for."""

Description = dict[str, Any]
"""A run to start from, as it is in the identity of those that do: `base` or `inferred_by` of a `Run`."""


def base_run(row: Entry, settings: Settings, smaller: Mapping[str, Any] = {}) -> Description | None:
    """The run that those of an entry with these settings start from, if its method starts from one.

    `smaller` are training fields of a search's budget, which a draw's base has, too.
    """
    declared, sheet = row.method.base, row.entry.base or BaseSheet()
    where = (*row.where, "base")
    if not declared:
        if row.entry.base:
            raise row.origin.error(where, f"{row.method.name} starts from no other run")
        return None
    if sheet.groups and (sheet.groups.by or not sheet.groups.from_):
        raise row.origin.error((*where, "groups"), "a base has its row's groups: only 'from' may differ")
    own = {key: named(value, settings["hyper_parameters"]) for key, value in declared.items()}
    entry = MethodSheet(
        method=sheet.method or own["method"],
        hyper_parameters={**own.get("hyper_parameters", {}), **sheet.hyper_parameters},
        training={**own.get("training", {}), **smaller, **sheet.training},
        groups=sheet.groups,
    )
    found = describe_run(row, settings, entry, where)
    if registry.method_info(entry.method).head_only:
        message = f"{entry.method} makes a last layer alone, and no run can start from that: take its own base"
        raise row.origin.error(where, message)
    steps = int(found["training"].get("steps", 0))
    for key in ("step", "earlier"):
        value = sheet.step if key == "step" and sheet.step is not None else own.get(key)
        if value is not None and value is not False:
            found[key] = located(row.origin, where, partial(step_of, value, steps))
    found = {"step": steps} | found
    if found.get("earlier", 0) >= found["step"] > 0:
        raise row.origin.error(where, f"step {found['step']:,} is not after the earlier one, {found['earlier']:,}")
    return found


def named(value: Any, hyper: Mapping[str, Any]) -> Any:
    """A value of a declared base, in which a text may name a hyper-parameter."""
    if isinstance(value, Mapping):
        return {key: named(part, hyper) for key, part in value.items()}
    return hyper.get(value, value) if isinstance(value, str) else value


def step_of(value: int | float, steps: int) -> int:
    """A step of a training: a whole number, or a share of its `steps`. Errors: ValueError for one that it lacks."""
    if not isinstance(value, int | float):
        raise ValueError(f"step {quote_value(value)}: neither a number nor a hyper-parameter of the method")
    if steps == 0:
        raise ValueError(f"step {show_value(value)}: the run to start from takes no steps")
    share = isinstance(value, float) and 0 < value <= 1
    found = max(1, round(value * steps)) if share else value
    if found != int(found) or not 0 < found <= steps:
        has = f"the run to start from has {steps:,} steps"
        raise ValueError(f"step {show_value(value)}: {has}; give one of them, or a share such as 0.5")
    return int(found)


def inferring_run(row: Entry, settings: Settings) -> Description | None:
    """The run that infers groups for those of an entry, if it takes such, the method that does, and their use."""
    sheet = row.entry.groups
    if sheet is None or sheet.from_ is None:
        return None
    where = (*row.where, "groups")
    entry = MethodSheet(
        method=sheet.from_, hyper_parameters=sheet.hyper_parameters, training=sheet.training, base=sheet.base
    )
    info = located(row.origin, where, partial(registry.method_info, sheet.from_))
    if not info.infers:
        able = [name for name, one in registry.methods().items() if one.infers]
        raise row.origin.error(where, f"{info.name} infers no groups; these do: {', '.join(able) or 'none'}")
    own = describe_run(row, settings, entry, where)
    method = {"method": info.name, "hyper_parameters": own["hyper_parameters"]}
    takes = GROUPED & row.method.needs or settings["training"].get("balanced")
    use = {"use": SELECTION} if sheet.use == SELECTION or not takes else {}
    return {"infer": method} | use | (own["base"] if "base" in own else {"step": own["training"].get("steps", 0)} | own)


def describe_run(row: Entry, of: Settings, entry: MethodSheet, where: Where) -> Description:
    """A run of another method on the data of an entry with the settings `of`: its own are as those of a row, then as
    given.

    Errors: UserError for a method that cannot run there, for several values, and where a chain of bases never ends.
    """
    method = located(row.origin, where, partial(registry.method_info, entry.method))
    if method.name in (*row.chain, row.method.name):
        chain = " → ".join((*row.chain, row.method.name, method.name))
        raise row.origin.error(where, f"{chain}: a run cannot start from one of the same method")
    if not method.trains and not method.base:
        raise row.origin.error(where, f"{method.name} trains nothing to start from")
    on_top = commanded_on(row.where[:2], row.origin)
    recipe = located(row.origin, where, partial(chosen, row.block, entry, row.dataset, on_top))
    base = replace(row, entry=entry, where=where, method=method, fields=fields_of(row.dataset, method), recipe=recipe,
                   chain=(*row.chain, row.method.name))  # fmt: skip
    settings, given, axes = settle(base)
    if varied := [axis.key for axis in axes if axis.place != "options"]:
        raise row.origin.error(where, f"{varied[0]} varies: a base has one value of it")
    settings["options"] = of["options"]
    commanded = follow(base, of, settings)
    settings["training"] |= commanded
    given |= noted(base, COMMAND, "training", ON_COMMAND, commanded)
    inferred_by = inferring_run(base, settings)
    full = completed(base, in_effect(base, settings, given))
    if lacking := registry.requirements(method, row.dataset, full["options"], trains_by(inferred_by)):
        raise row.origin.error(where, f"{method.name} {lacking}, which {row.dataset.name} does not give")
    found = {
        "method": method.name,
        "hyper_parameters": full["hyper_parameters"],
        "training": full["training"],
        "base": base_run(base, full),
        "inferred_by": inferred_by,
    }
    return {key: value for key, value in found.items() if value is not None}
