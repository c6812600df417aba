"""One method entry of a grid file: what it sets, where, and what of that has an effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from spurbench.bench.core.errors import say_unknown
from spurbench.bench.core.fields import NoEffect, Option, check_value, drop_ineffective
from spurbench.bench.core.yamlfile import Origin, Where, located
from spurbench.bench.grid.recipes import Recipe, chosen, recipes_of
from spurbench.bench.grid.schema import DatasetSheet, GridSheet, MethodSheet, unknown_key
from spurbench.bench.grid.search_space import Axis, axis, varies
from spurbench.bench.plugin_files.components import word_for
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.registry import PluginInfo
from spurbench.bench.plugins.training_settings import choices, split_looked_at, training_fields

Settings = dict[str, dict[str, Any]]
"""place → name → value; the places are hyper_parameters, training and options."""


MOST_NAMES = 6  # of settings that a file gives, in words
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
class Entry:
    """One method entry of the file with everything needed to resolve it."""

    sheet: GridSheet
    block: DatasetSheet
    entry: MethodSheet
    where: Where  # of the entry
    origin: Origin
    dataset: PluginInfo
    method: PluginInfo
    fields: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)  # place → name → option
    recipe: Recipe | None = None
    commanded: Mapping[str, Any] = field(default_factory=dict)  # fields of training for its bases, by `--set`
    chain: tuple[str, ...] = ()  # the methods whose runs start from this one's, if it is a base

    def of(self, place: str) -> str:
        """Whose values those of a place are, for messages."""
        return {"hyper_parameters": self.method.name, "options": self.dataset.name}.get(place, place)

    @property
    def seeds(self) -> list[int]:
        given = self.entry.seeds or self.block.seeds or self.sheet.seeds or recipes_of(self.dataset).seeds
        if not given:
            raise self.origin.error(self.where, "no seeds: give 'seeds: 0-9' here or for the whole grid")
        return given

    @property
    def rule(self) -> str:
        by_recipe = self.recipe.rule(self.untouched) if self.recipe else None
        stated = self.sheet.selection if "selection" in self.sheet.model_fields_set else None
        rule = self.block.selection or stated or by_recipe or self.sheet.selection
        settings = [(*self.where, "hyper_parameters"), (*self.where, "training"), (*self.where[:2], "training")]
        changed = any(where[:-1] in settings for where in self.origin.given)
        return (
            "none" if changed and registry.rule(rule).oracle else rule
        )  # no one chose these by looking at the test set

    @property
    def untouched(self) -> bool:
        """Whether the file gives no setting itself."""
        entry = self.entry
        return not (self.block.training or entry.hyper_parameters or entry.training or entry.search)


def fields_of(dataset: PluginInfo, method: PluginInfo) -> dict[str, dict[str, Option]]:
    return {
        "hyper_parameters": {option.name: option for option in method.options},
        "training": training_fields() if method.trains else {},
        "options": {option.name: option for option in registry.dataset_options(dataset)},
    }


def idle_fields(method: PluginInfo) -> frozenset[str]:
    """The fields of training that have no effect with a method."""
    if not method.trains:
        return frozenset(training_fields())
    return frozenset({*choices()["network"].options(), "augment"}) if method.head_only else frozenset()


def check_idle(row: Entry, name: str, where: Where) -> None:
    """Errors: UserError for a field of training, given for a row that trains a head alone, which is its base's."""
    if row.method.trains and name in idle_fields(row.method):
        why = f"which trains a last layer on features of its base: give it to that, `base: {{training: {{{name}: …}}}}`"
        raise row.origin.error(where, f"{name} has no effect with {row.method.name}, {why}")


def rows(sheet: GridSheet, origin: Origin, commanded: Mapping[str, Any] = {}) -> Iterator[Entry]:
    """Every entry of a grid with what it is about; `commanded` as in an `Entry`.

    Errors: UserError for an unknown dataset, method or recipe.
    """
    for i, block in enumerate(sheet.datasets):
        here: Where = ("datasets", i)
        dataset = located(origin, (*here, "dataset"), partial(registry.dataset_info, block.dataset))
        for j, entry in enumerate(block.methods):
            there: Where = (*here, "methods", j)
            method = located(origin, (*there, "method"), partial(registry.method_info, entry.method))
            on_top = commanded_on(here, origin)
            recipe = located(origin, (*there, "recipe"), partial(chosen, block, entry, dataset, on_top))
            fields = fields_of(dataset, method)
            yield Entry(sheet, block, entry, there, origin, dataset, method, fields, recipe, commanded)


def commanded_on(block: Where, origin: Origin) -> set[str]:
    """The fields of training that the command line puts into a block."""
    return {str(where[-1]) for where in origin.given if where[:-1] == (*block, "training")}


def settle(row: Entry) -> tuple[Settings, Given, list[Axis]]:
    """The settings of an entry with all defaults, what of them the file gives, and what is a list or a range."""
    settings: Settings = {}
    given: Given = {}
    axes: list[Axis] = []
    own_groups = row.entry.groups.by if row.entry.groups else None
    layers = {
        "hyper_parameters": [(ENTRY, row.where, row.entry.hyper_parameters)],
        "training": [
            (BLOCK, row.where[:2], row.block.training if row.method.trains else {}),
            (ENTRY, row.where, row.entry.training),
        ],
        "options": [
            (BLOCK, row.where[:2], grouped(row, row.where[:2], row.block.groups, row.block.options)),
            (ENTRY, row.where, grouped(row, row.where, own_groups, row.entry.options)),
        ],
    }
    for place, sources in layers.items():
        settings[place] = defaults(row, place) | recommended(row, place)
        varied: dict[str, Axis] = {}
        for layer, where, values in sources:
            for name in values if place == "training" and layer == ENTRY else ():
                check_idle(row, name, (*where, place, name))
            fixed, several = split(row, place, (*where, place), values)
            given |= noted(row, layer, place, (*where, place), values)
            settings[place] |= fixed
            varied = {name: one for name, one in varied.items() if name not in fixed} | several
        axes += varied.values()
    return settings, given, axes


def grouped(row: Entry, where: Where, groups: Sequence[str] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a list of `groups` among them; what the command line says is above it."""
    if groups and "groups" in options and (*where, "options", "groups") not in row.origin.given:
        raise row.origin.error((*where, "groups"), "groups stand here and among the options: give them once")
    return {**({"groups": ",".join(groups)} if groups else {}), **options}


def noted(row: Entry, layer: int, place: str, where: Where, values: Mapping[str, Any]) -> Given:
    """What a part of the file gives of a place; what stands on the command line is above all of it."""
    found: Given = {}
    for name, value in values.items():
        spot = (*where, name)
        several = varies(row.fields[place][name], value)
        found[place, name] = Source(COMMAND if spot in row.origin.given else layer, spot, several)
    return found


def in_effect(row: Entry, settings: Settings, given: Given) -> Settings:
    """The settings without those that have no effect beside the others.

    Errors: UserError with file and line for one that is given where, or nearer to the runs than, what takes its
    effect away; whatever `given` does not have is left out in silence.
    """
    kept = dict(settings)
    for place in ("hyper_parameters", "training"):
        layers = {name: source.layer for (of, name), source in given.items() if of == place}
        try:
            kept[place] = drop_ineffective(row.fields[place], settings[place], layers)
        except NoEffect as error:
            beside = given.get((place, error.key))
            more = f"; make it an entry for each {error.key}" if beside and beside.several else ""
            raise row.origin.error(given[place, error.name].where, f"{error}{more}") from None
    check_split(row, kept["training"], kept["options"], given)
    return kept


def check_split(row: Entry, training: Mapping[str, Any], options: Mapping[str, Any], given: Given) -> None:
    """Errors: UserError for a training that looks at a held-out split which the dataset is known not to have."""
    split = split_looked_at(training)
    if split and split not in registry.splits_of(row.dataset, options):
        source = given.get(("training", "average"))
        message = f"average {training['average']} goes by the split '{split}', which {row.dataset.name} does not have"
        raise row.origin.error(source.where if source else row.where, message)


def completed(row: Entry, kept: Settings) -> Settings:
    """Settings as runs hold them: all hyper-parameters, and what is set of training and of every dataset's options."""
    hyper = defaults(row, "hyper_parameters") | kept["hyper_parameters"]
    training = {name: value for name, value in kept["training"].items() if value is not None}
    shared = registry.SHARED_OPTIONS
    options = {name: value for name, value in kept["options"].items() if value is not None or name not in shared}
    return {"hyper_parameters": hyper, "training": training, "options": options}


def source_of(row: Entry, given: Given, settings: Settings) -> str:
    """Where the settings of a cell are from, in words: published or defaults, and what the file sets otherwise."""
    own = []
    for place in ("hyper_parameters", "training"):
        base, here = defaults(row, place) | recommended(row, place), settings[place]
        names = [name for of, name in given if of == place and name in here and here[name] != base[name]]
        own += [name if place == "hyper_parameters" else f"{place}.{name}" for name in names]
    origin = f"published: {row.recipe.source}" if row.recipe else "defaults"
    more = f" and {len(own) - MOST_NAMES} more" if len(own) > MOST_NAMES else ""
    changed = f", but for {', '.join(own[:MOST_NAMES])}{more}" if own else ""
    return origin + changed + random_features(settings["training"])


def random_features(training: Mapping[str, Any]) -> str:
    """What to say of a network that is frozen with the weights that it was drawn with, where it could have others."""
    if not training.get("freeze") or training.get("pretrained"):
        return ""
    fields = choices()["network"].fields[word_for("network", training.get("network"))]
    if not any(one.name == "pretrained" for one in fields):
        return ""
    return "; FROZEN WITH RANDOM WEIGHTS: set training.pretrained for features of a trained network"


def firsts(axes: Sequence[Axis]) -> dict[int, Any]:
    """One combination of what varies."""
    return {i: one.values[0] if one.values else one.low for i, one in enumerate(axes)}


def defaults(row: Entry, place: str) -> dict[str, Any]:
    """Defaults of a place's fields, as their types; for training, the dataset's over Training's."""
    fields = row.fields[place]
    values = {name: option.default for name, option in fields.items()}
    if place == "training" and row.method.trains:
        values |= row.dataset.training
    of = row.of(place)
    return {
        name: located(Origin(of), (), partial(check_value, fields[name], value, of)) for name, value in values.items()
    }


def recommended(row: Entry, place: str) -> dict[str, Any]:
    """What the entry's recipe says of a place, if it has one; as with defaults, what has no effect is left out."""
    values = row.recipe.values.get(place, {}) if row.recipe else {}
    if not row.recipe or not values:
        return {}
    where = (*row.recipe.where, place)
    fixed, several = split(replace(row, origin=row.recipe.origin), place, where, values)
    if several:
        name = next(iter(several))
        raise row.recipe.origin.error((*where, name), f"{name}: a recipe has one value of it")
    return fixed


def split(row: Entry, place: str, where: Where, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Axis]]:
    """Given values, checked: single ones, and those that vary."""
    fixed, several = {}, {}
    for name, value in given.items():
        option = option_of(row, place, name, (*where, name))
        if varies(option, value):
            several[name] = located(row.origin, (*where, name), partial(axis, place, option, value, row.of(place)))
        else:
            fixed[name] = located(row.origin, (*where, name), partial(check_value, option, value, row.of(place)))
    return fixed, several


def option_of(row: Entry, place: str, name: str, where: Where) -> Option:
    """The field of that name; an unknown one is named with its line and the nearest."""
    known = row.fields[place]
    if name in known:
        return known[name]
    if place == "training" and not row.method.trains and name in training_fields():
        raise row.origin.error(where, f"{name} has no effect with {row.method.name}, which does not train")
    if place == "training":
        raise row.origin.error(where, unknown_key(name, "training", list(training_fields())))
    kind = f"{'hyper-parameter' if place == 'hyper_parameters' else 'option'} of {row.of(place)}"
    raise row.origin.error(where, say_unknown(kind, name, known))


def with_values(settings: Settings, axes: Sequence[Axis], values: Mapping[int, Any]) -> Settings:
    """A copy of the settings with the varied values put in."""
    copy = {place: dict(values) for place, values in settings.items()}
    for i, one in enumerate(axes):
        copy[one.place][one.option.name] = values[i]
    return copy
