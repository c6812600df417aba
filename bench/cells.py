"""From the keys of a grid file to cells: defaults filled in, values checked, lists multiplied out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from spurbench.bench import provenance, registry
from spurbench.bench.grid import Cell, Draw, Search, at
from spurbench.bench.gridfile import DatasetSheet, GridSheet, MethodSheet, SearchSheet, unknown_key
from spurbench.bench.layout import gpus
from spurbench.bench.record import fingerprint
from spurbench.bench.registry import Option, PluginInfo
from spurbench.bench.selection import RULES
from spurbench.bench.space import Axis, axis, checked, choices, declared, named, varies
from spurbench.bench.yamlfile import Origin, Where

Settings = dict[str, dict[str, Any]]
"""place → name → value; the places are hyper_parameters, training and options."""


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
        "training": registry.training_fields(),
        "options": {option.name: option for option in dataset.options},
    }


def row_cells(row: Row) -> Iterator[Cell]:
    """The cells of one method entry: one, or one for each combination or draw of what varies."""
    settings, axes = settle(row)
    if row.entry.search is not None and axes:
        message = f"{axes[0].key} varies beside a search; put it into the search's 'space'"
        raise row.origin.error(row.where, message)
    if row.entry.draws is not None and not axes:
        raise row.origin.error((*row.where, "draws"), "draws: nothing varies; give a range {low, high, scale}")
    taken = at(row.origin, row.where, lambda: choices(axes, row.entry.draws, row.dataset.name, row.method.name))
    for values in taken:
        yield cell_of(row, with_values(settings, axes, values), suffix(axes, values))


def cell_of(row: Row, settings: Settings, varied: str) -> Cell:
    label = " ".join(part for part in (row.entry.label or row.method.name, varied) if part)
    plain = row.entry.label is None and row.entry.search is None and not varied
    by_default = row.method.name if row.block.paper_budget and plain else None
    given = "published" in row.entry.model_fields_set
    search = searched(row, row.entry.search, settings) if row.entry.search else None
    rule = search.rule if search else row.rule
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
        na=registry.requirements(row.method, row.dataset),
        selection=RULES[rule].to_dict(rule),
        search=search,
        resources={**row.sheet.resources, **row.block.resources, **row.entry.resources},
    )


def settled_precision(wanted: str) -> str:
    """`auto` is bf16 where the machine multiplies it in hardware, else float32, so that a record says which it was."""
    if wanted != "auto":
        return wanted
    return "bf16" if provenance.has_bf16() or gpus() else "float32"


def settle(row: Row) -> tuple[Settings, list[Axis]]:
    """The settings of an entry with all defaults, and what in them is a list or a range."""
    settings: Settings = {}
    axes: list[Axis] = []
    block = row.where[:2]
    layers: dict[str, list[tuple[Where, Mapping[str, Any]]]] = {
        "hyper_parameters": [((*row.where, "hyper_parameters"), row.entry.hyper_parameters)],
        "training": [
            ((*block, "training"), row.block.training),
            ((*row.where, "training"), row.entry.training),
        ],
        "options": [((*block, "options"), row.block.options), ((*row.where, "options"), row.entry.options)],
    }
    for place, given in layers.items():
        settings[place] = defaults(row, place)
        varied: dict[str, Axis] = {}
        for where, values in given:
            fixed, several = split(row, place, where, values)
            settings[place] |= fixed
            varied = {name: one for name, one in varied.items() if name not in fixed} | several
        axes += varied.values()
    return settings, axes


def defaults(row: Row, place: str) -> dict[str, Any]:
    """Defaults of a place's fields, as their types; for training, the dataset's over Training's."""
    fields = row.fields[place]
    values = {name: option.default for name, option in fields.items()}
    if place == "training":
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
    if place == "training":
        raise row.origin.error(where, unknown_key(name, "training", list(known)))
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
    return ", ".join(f"{one.key}={shown(values[i])}" for i, one in enumerate(axes))


def shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def searched(row: Row, sheet: SearchSheet, settings: Settings) -> Search:
    """The search of a cell: its draws, each with the settings of the search's own budget."""
    where: Where = (*row.where, "search")
    rule = sheet.rule or row.rule
    if RULES[rule].score is None:
        usable = ", ".join(name for name, known in RULES.items() if known.score)
        raise row.origin.error(where, f"a search needs a selection rule; give 'rule:', one of {usable}")
    budget = {place: dict(values) for place, values in settings.items()}
    changes = {"training": sheet.training, "options": sheet.options}
    for place, given in changes.items():
        fixed, several = split(row, place, (*where, place), given)
        if several:
            name = next(iter(several))
            raise row.origin.error((*where, place, name), f"{name} varies; put '{place}.{name}' into 'space'")
        budget[place] |= fixed
    axes = search_axes(row, sheet, where)
    names = (row.dataset.name, row.method.name)
    taken = at(row.origin, where, lambda: choices(axes, sheet.draws, *names))
    draws = tuple(draw_of(axes, values, budget) for values in taken)
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
    owner, dot, name = key.partition(".")
    place = owner if dot else "hyper_parameters"
    if place not in {"hyper_parameters", "training"}:
        raise row.origin.error(where, f"'{key}': a space holds hyper-parameters and training.<name>")
    option = option_of(row, place, name if dot else key, where)
    if not varies(option, value):
        raise row.origin.error(where, f"{key}: a space needs a list or a range {{low, high, scale}}, not {value!r}")
    return at(row.origin, where, partial(axis, place, option, value, row.of(place)))


def draw_of(axes: Sequence[Axis], values: Mapping[int, Any], budget: Settings) -> Draw:
    tried = with_values({place: {} for place in budget}, axes, values)
    full = with_values(budget, axes, values)
    return Draw(tried, full["hyper_parameters"], full["training"], full["options"])


def budget_text(sheet: SearchSheet, draws: int, rule: str) -> str:
    """The stated budget: draws, seeds, what is smaller than in the final runs, and the rule."""
    kind = "random draws" if sheet.draws else "combinations"
    budget = [f"{draws} {kind} × {len(sheet.seeds)} seed{'s' if len(sheet.seeds) > 1 else ''}"]
    budget += [f"{name} {value}" for name, value in (*sheet.options.items(), *sheet.training.items())]
    return f"{', '.join(budget)}; chosen by {RULES[rule].text}"
