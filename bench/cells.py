"""From the keys of a grid file to cells: defaults filled in, values checked, lists multiplied out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from spurbench.bench import provenance, registry
from spurbench.bench.errors import named
from spurbench.bench.fields import NoEffect, Option, checked, effective, quoted, shown
from spurbench.bench.grid import Cell, Draw, Search, at
from spurbench.bench.gridfile import DatasetSheet, GridSheet, MethodSheet, SearchSheet, unknown_key
from spurbench.bench.layout import gpus
from spurbench.bench.record import fingerprint
from spurbench.bench.registry import PluginInfo
from spurbench.bench.selection import RULES, lack
from spurbench.bench.space import Axis, axis, choices, declared, varies
from spurbench.bench.training import FIELDS
from spurbench.bench.yamlfile import Origin, Where

Settings = dict[str, dict[str, Any]]
"""place → name → value; the places are hyper_parameters, training and options."""
BLOCK, ENTRY, SEARCH, SPACE, COMMAND = 1, 2, 3, 4, 5
"""Layers in which values are given; the later ones are nearer to the runs."""


@dataclass(frozen=True)
class Source:
    """Where a value is given, and whether it is several values."""

    layer: int
    where: Where
    several: bool


Given = dict[tuple[str, str], Source]
"""(place, name) of each value that is given, and the nearest place where it is."""


@dataclass(frozen=True)
class Row:
    """One method entry of the file with everything needed to resolve it."""

    sheet: GridSheet
    block: DatasetSheet
    entry: MethodSheet
    where: Where  # of the entry
    origin: Origin
    dataset: PluginInfo
    method: PluginInfo
    fields: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)  # place → name → option

    def of(self, place: str) -> str:
        """Whose values those of a place are, for messages."""
        return {"hyper_parameters": self.method.name, "options": self.dataset.name}.get(place, place)

    @property
    def seeds(self) -> list[int]:
        given = self.entry.seeds or self.block.seeds or self.sheet.seeds
        if not given:
            raise self.origin.error(self.where, "no seeds: give 'seeds: 0-9' here or for the whole grid")
        return given

    @property
    def rule(self) -> str:
        return self.block.selection or self.sheet.selection


def cells_of(sheet: GridSheet, origin: Origin) -> Iterator[Cell]:
    """Every cell of the grid, in the file's order.

    Errors: UserError with file and line, also for two rows of one table with the same label.
    """
    labels: set[str] = set()
    for i, block in enumerate(sheet.datasets):
        here: Where = ("datasets", i)
        dataset = at(origin, (*here, "dataset"), partial(registry.dataset_info, block.dataset))
        for j, entry in enumerate(block.methods):
            there: Where = (*here, "methods", j)
            method = at(origin, (*there, "method"), partial(registry.method_info, entry.method))
            row = Row(sheet, block, entry, there, origin, dataset, method, fields_of(dataset, method))
            for cell in row_cells(row):
                table = [cell.dataset, dict(cell.dataset_options), cell.precision, cell.label]
                if fingerprint(table) in labels:
                    message = f"two rows '{cell.label}' for the same {cell.dataset}; give one a 'label:'"
                    raise origin.error(there, message)
                labels.add(fingerprint(table))
                yield cell


def fields_of(dataset: PluginInfo, method: PluginInfo) -> dict[str, dict[str, Option]]:
    return {
        "hyper_parameters": {option.name: option for option in method.options},
        "training": dict(FIELDS) if method.trains else {},
        "options": {option.name: option for option in dataset.options},
    }


def row_cells(row: Row) -> Iterator[Cell]:
    """The cells of one method entry: one, or one for each combination or draw of what varies."""
    settings, given, several = settle(row)
    axes = alive(row, settings, given, several)
    taken = at(row.origin, row.where, lambda: choices(axes, row.entry.draws, row.dataset.name, row.method.name))
    seen: set[str] = set()
    for values in taken:
        kept = in_effect(row, with_values(settings, axes, values), {} if row.entry.search else given)
        own = {i: value for i, value in values.items() if axes[i].option.name in kept[axes[i].place]}
        varied = suffix(axes, own)
        if len(own) == len(values) or varied not in seen:  # what differs in what has no effect is one cell
            yield cell_of(row, completed(row, kept), varied, searched(row, settings, given))
        seen.add(varied)


def cell_of(row: Row, settings: Settings, varied: str, search: Search | None) -> Cell:
    label = " ".join(part for part in (row.entry.label or row.method.name, varied) if part)
    plain = row.entry.label is None and row.entry.search is None and not varied
    by_default = row.method.name if row.block.paper_budget and plain else None
    given = "published" in row.entry.model_fields_set
    rule = search.rule if search else row.rule
    unserved = lack(search.rule, registry.splits_of(row.dataset)) if search else None
    return Cell(
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
        na=registry.requirements(row.method, row.dataset) or unserved,
        selection=RULES[rule].to_dict(rule),
        search=search,
        resources={**row.sheet.resources, **row.block.resources, **row.entry.resources},
    )


def settled_precision(wanted: str) -> str:
    """`auto` is bf16 where the machine multiplies it in hardware, else float32, so that a record says which it was."""
    if wanted != "auto":
        return wanted
    return "bf16" if provenance.has_bf16() or gpus() else "float32"


def settle(row: Row) -> tuple[Settings, Given, list[Axis]]:
    """The settings of an entry with all defaults, what of them the file gives, and what is a list or a range."""
    settings: Settings = {}
    given: Given = {}
    axes: list[Axis] = []
    layers = {
        "hyper_parameters": [(ENTRY, row.where, row.entry.hyper_parameters)],
        "training": [
            (BLOCK, row.where[:2], row.block.training if row.method.trains else {}),
            (ENTRY, row.where, row.entry.training),
        ],
        "options": [(BLOCK, row.where[:2], row.block.options), (ENTRY, row.where, row.entry.options)],
    }
    for place, sources in layers.items():
        settings[place] = defaults(row, place)
        varied: dict[str, Axis] = {}
        for layer, where, values in sources:
            fixed, several = split(row, place, (*where, place), values)
            given |= noted(row, layer, place, (*where, place), values)
            settings[place] |= fixed
            varied = {name: one for name, one in varied.items() if name not in fixed} | several
        axes += varied.values()
    return settings, given, axes


def noted(row: Row, layer: int, place: str, where: Where, values: Mapping[str, Any]) -> Given:
    """What a part of the file gives of a place; what stands on the command line is above all of it."""
    found: Given = {}
    for name, value in values.items():
        spot = (*where, name)
        several = varies(row.fields[place][name], value)
        found[place, name] = Source(COMMAND if spot in row.origin.given else layer, spot, several)
    return found


def in_effect(row: Row, settings: Settings, given: Given) -> Settings:
    """The settings without those that have no effect beside the others.

    Errors: UserError with file and line for one that is given where, or nearer to the runs than, what takes its
    effect away; whatever `given` does not have is left out in silence.
    """
    kept = dict(settings)
    for place in ("hyper_parameters", "training"):
        layers = {name: source.layer for (of, name), source in given.items() if of == place}
        try:
            kept[place] = effective(row.fields[place], settings[place], layers)
        except NoEffect as error:
            beside = given.get((place, error.key))
            more = f"; make it an entry for each {error.key}" if beside and beside.several else ""
            raise row.origin.error(given[place, error.name].where, f"{error}{more}") from None
    return kept


def completed(row: Row, kept: Settings) -> Settings:
    """Settings as runs hold them: all hyper-parameters, and of training's fields those that are set."""
    hyper = defaults(row, "hyper_parameters") | kept["hyper_parameters"]
    training = {name: value for name, value in kept["training"].items() if value is not None}
    return kept | {"hyper_parameters": hyper, "training": training}


def alive(row: Row, settings: Settings, given: Given, several: Sequence[Axis]) -> list[Axis]:
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


def firsts(axes: Sequence[Axis]) -> dict[int, Any]:
    """One combination of what varies."""
    return {i: one.values[0] if one.values else one.low for i, one in enumerate(axes)}


def idle(row: Row, settings: Settings, axes: Sequence[Axis], one: Axis) -> bool:
    """Whether something inherited would vary in vain: it has no effect, and nothing that varies could give it one."""
    full = with_values(settings, axes, firsts(axes))
    others = {each.option.name for each in axes if each.place == one.place}
    fixed = not any(condition.key in others for condition in one.option.only)
    return fixed and one.option.name not in in_effect(row, full, {})[one.place]


def defaults(row: Row, place: str) -> dict[str, Any]:
    """Defaults of a place's fields, as their types; for training, the dataset's over Training's."""
    fields = row.fields[place]
    values = {name: option.default for name, option in fields.items()}
    if place == "training" and row.method.trains:
        values |= row.dataset.training
    of = row.of(place)
    return {name: at(Origin(of), (), partial(checked, fields[name], value, of)) for name, value in values.items()}


def split(row: Row, place: str, where: Where, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Axis]]:
    """Given values, checked: single ones, and those that vary."""
    fixed, several = {}, {}
    for name, value in given.items():
        option = option_of(row, place, name, (*where, name))
        if varies(option, value):
            several[name] = at(row.origin, (*where, name), partial(axis, place, option, value, row.of(place)))
        else:
            fixed[name] = at(row.origin, (*where, name), partial(checked, option, value, row.of(place)))
    return fixed, several


def option_of(row: Row, place: str, name: str, where: Where) -> Option:
    """The field of that name; an unknown one is named with its line and the nearest."""
    known = row.fields[place]
    if name in known:
        return known[name]
    if place == "training" and not row.method.trains and name in FIELDS:
        raise row.origin.error(where, f"{name} has no effect with {row.method.name}, which does not train")
    if place == "training":
        raise row.origin.error(where, unknown_key(name, "training", list(FIELDS)))
    kind = f"{'hyper-parameter' if place == 'hyper_parameters' else 'option'} of {row.of(place)}"
    raise row.origin.error(where, named(kind, name, known))


def with_values(settings: Settings, axes: Sequence[Axis], values: Mapping[int, Any]) -> Settings:
    """A copy of the settings with the varied values put in."""
    copy = {place: dict(values) for place, values in settings.items()}
    for i, one in enumerate(axes):
        copy[one.place][one.option.name] = values[i]
    return copy


def suffix(axes: Sequence[Axis], values: Mapping[int, Any]) -> str:
    """What tells the rows of one entry apart: `coef=0.1, delay=3`."""
    texts = {i: "no" if value is None else shown(value) for i, value in values.items()}
    return ", ".join(f"{axes[i].key}={text}" for i, text in texts.items())


def searched(row: Row, settings: Settings, given: Given) -> Search | None:
    """The search of a cell, if it has one: its draws, each with the settings of the search's own budget."""
    if row.entry.search is None:
        return None
    sheet, where = row.entry.search, (*row.where, "search")
    rule = sheet.rule or row.rule
    if not RULES[rule].criteria:
        usable = ", ".join(name for name, known in RULES.items() if known.criteria)
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
    axes = search_axes(row, sheet, where)
    for key in sheet.space or {}:
        place, name = space_name(key)
        given = given | {(place, name): Source(SPACE, (*where, "space", key), True)}
    names = (row.dataset.name, row.method.name)
    taken = at(row.origin, where, lambda: choices(axes, sheet.draws, *names))
    draws = tuple(
        draw_of(row, with_values(settings, axes, one), with_values(budget, axes, one), given) for one in taken
    )
    return Search(rule, budget_text(sheet, len(draws), rule), tuple(sheet.seeds), draws)


def search_axes(row: Row, sheet: SearchSheet, where: Where) -> list[Axis]:
    """What a search varies: its `space` (`eta`, `training.lr`), or else what the method declares."""
    if sheet.space is None:
        axes = at(row.origin, where, lambda: declared(row.method.options, row.method.name))
    else:
        axes = [space_axis(row, key, value, (*where, "space", key)) for key, value in sheet.space.items()]
    if not axes:
        raise row.origin.error(where, f"nothing to search: {row.method.name} declares no range; give a 'space:'")
    return axes


def space_axis(row: Row, key: str, value: Any, where: Where) -> Axis:
    place, name = space_name(key)
    if place not in {"hyper_parameters", "training"}:
        raise row.origin.error(where, f"'{key}': a space holds hyper-parameters and training.<name>")
    option = option_of(row, place, name, where)
    if not varies(option, value):
        message = f"{key}: a space needs a list or a range {{low, high, scale}}, not {quoted(value)}"
        raise row.origin.error(where, message)
    return at(row.origin, where, partial(axis, place, option, value, row.of(place)))


def space_name(key: str) -> tuple[str, str]:
    """Place and name of a key of a search's space."""
    owner, dot, name = key.partition(".")
    return (owner, name) if dot else ("hyper_parameters", key)


def draw_of(row: Row, final: Settings, budget: Settings, given: Given) -> Draw:
    """One candidate; what the file gives without effect in it is an error, as in a row."""
    full = completed(row, in_effect(row, budget, given))
    return Draw(completed(row, in_effect(row, final, {})), full["hyper_parameters"], full["training"], full["options"])


def budget_text(sheet: SearchSheet, draws: int, rule: str) -> str:
    """The stated budget: draws, seeds, what is smaller than in the final runs, and the rule."""
    kind = "random draws" if sheet.draws else "combinations"
    budget = [f"{draws} {kind} × {len(sheet.seeds)} seed{'s' if len(sheet.seeds) > 1 else ''}"]
    budget += [f"{name} {value}" for name, value in (*sheet.options.items(), *sheet.training.items())]
    return f"{', '.join(budget)}; chosen by {RULES[rule].text}"
