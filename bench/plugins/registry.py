"""The plug-ins there are, by name: the files of a folder for each kind, `--plugin FILE`, entry points."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spurbench.bench.core.errors import UserError, say_unknown, unknown
from spurbench.bench.core.fields import Option, conditions
from spurbench.bench.plugin_files import discovery
from spurbench.bench.plugin_files.components import components
from spurbench.bench.plugin_files.discovery import FOLDERS, load_class
from spurbench.bench.plugin_files.literals import UNREAD
from spurbench.bench.plugin_files.reader import (
    PluginInfo,
    describe,
    needs_known,
    unknown_need,
    wrong_base,
    wrong_condition,
)
from spurbench.bench.plugins import training_settings
from spurbench.bench.plugins.counts import SUBSET
from spurbench.bench.plugins.training_settings import Training

if TYPE_CHECKING:
    from spurbench.bench.plugins.dataset import Dataset
    from spurbench.bench.plugins.method import Method
    from spurbench.bench.plugins.metric import CountedMetric, Metric
    from spurbench.bench.plugins.rule import Rule

__all__ = [
    "FOLDERS", "Option", "PluginInfo", "add_plugin", "counted_metric", "dataset_info", "dataset_options", "datasets",
    "forget_plugins", "load_class", "load_dataset", "load_method", "method_info", "methods", "metric", "metrics",
    "plugin_paths", "plugins", "requirements", "rule", "rules", "splits_of",
]  # fmt: skip

INNATE = frozenset(
    {"index", "features", "random numbers", "second network"}
)  # needs that the engine meets for every dataset


def methods() -> dict[str, PluginInfo]:
    """All methods by name, also those that cannot be used (see `problem`); imports none of them."""
    return plugins("method")


def datasets() -> dict[str, PluginInfo]:
    """All datasets by name, also those that cannot be used (see `problem`); imports none of them."""
    return plugins("dataset")


def method_info(name: str) -> PluginInfo:
    """The usable method of that name with every value resolved.

    Errors: UserError for an unknown name (with the nearest one) or a plug-in that cannot be used.
    """
    return usable("method", name)


def dataset_info(name: str) -> PluginInfo:
    """The usable dataset of that name with every value resolved; errors as for `method_info`."""
    return usable("dataset", name)


def load_method(name: str) -> type[Method]:
    """The class of the method of that name, imported; errors as for `method_info`."""
    cls: type[Method] = load_class(known("method", name))
    return cls


def load_dataset(name: str) -> type[Dataset]:
    """The class of the dataset of that name, imported; errors as for `method_info`."""
    cls: type[Dataset] = load_class(known("dataset", name))
    return cls


def rules() -> list[str]:
    """The names of the selection rules that can be used."""
    return [name for name, info in plugins("rule").items() if not info.problem]


@cache
def rule(name: str) -> Rule:
    """The selection rule of that name; errors as for `method_info`."""
    found: Rule = load_class(known("rule", name))()
    return found


@cache
def counted_metric(name: str) -> CountedMetric | None:
    """The metric of that name if it is made from counts, else None; errors as for `metric`."""
    from spurbench.bench.plugins.metric import CountedMetric

    found = metric(name)
    return found if isinstance(found, CountedMetric) else None


@cache
def metrics() -> dict[str, Metric]:
    """The metrics that can be used, by name; UserError for one that does not import."""
    each = {name: metric(name) for name, info in plugins("metric").items() if not info.problem}
    return {name: found for name, found in each.items() if found}


WORST = "worst_group_"  # before the name of a metric: of the group where it is worst


@cache
def metric(name: str) -> Metric | None:
    """The metric of that name, also `worst_group_` and the name of another; None if there is none.

    Errors: UserError for one that cannot be used.
    """
    from spurbench.bench.plugins.metric import WorstGroup

    if name in plugins("metric"):
        found: Metric = load_class(known("metric", name))()
        return found
    of = metric(name.removeprefix(WORST)) if name.startswith(WORST) else None
    return WorstGroup(of) if of and of.higher_is_better is not None else None


def requirements(
    method: PluginInfo, dataset: PluginInfo, options: Mapping[str, Any] = {}, inferred: bool = False
) -> str | None:
    """Why the method cannot run on the dataset ('needs environments'), or None; with groups that are `inferred`."""
    inferred = inferred or (method.infers and bool(method.base))  # by itself, from its base
    given = dataset.provides | INNATE | ({"groups", "environments"} if inferred else set())
    if "validation" in splits_of(dataset, options):
        given |= {"validation"} | ({"validation groups"} if inferred or "groups" in dataset.provides else set())
    lacking = method.needs - given
    return f"needs {' and '.join(need for need in needs_known() if need in lacking)}" if lacking else None


def splits_of(dataset: PluginInfo, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The splits its records may have; what is held out is known only once the data are read, unless it says so."""
    found = ["train", *(("validation", "test") if dataset.splits is None else dataset.splits)]
    found += ["validation"] if options.get("held_out") else []
    found += ["train_e0"] if "environments" in dataset.provides else []
    return (*found, *(f"{split}{SUBSET}" for split in found if "subsets" in dataset.provides))


def dataset_options(dataset: PluginInfo) -> list[Option]:
    """All options of a dataset: its own, and those of every dataset, which are in no identity unless they are given."""
    groups = Option("groups", "str | None", None, normal=partial(spell_groups, dataset))
    held_out = Option("held_out", "float | None", None, limits=(0.0, 0.9), normal=partial(allow_holding_out, dataset))
    return [*dataset.options, groups, held_out]


SHARED_OPTIONS = ("groups", "held_out")
"""The names of the options of every dataset."""


def spell_groups(dataset: PluginInfo, text: str | None) -> str | None:
    """One spelling of the named attributes that groups are made of; None for those that are so by default.

    Errors: ValueError for a name that there is not, with the nearest.
    """
    names = sorted({name.strip() for name in (text or "").split(",") if name.strip()})
    if dataset.named is None:  # they are known once the data are read
        return ",".join(names) or None
    if wrong := next((name for name in names if name not in dataset.named), None):
        raise ValueError(say_unknown(f"named attribute of {dataset.name}", wrong, dataset.named))
    return None if names in ([], sorted(dataset.grouped_by or dataset.named)) else ",".join(names)


def allow_holding_out(dataset: PluginInfo, share: float | None) -> float | None:
    """The share of training to hold out, or None. Errors: ValueError for a dataset that has a validation split."""
    if share and dataset.splits and "validation" in dataset.splits:
        raise ValueError(f"{dataset.name} has a split validation of its own: leave held_out out")
    return share or None


def add_plugin(path: str | Path) -> PluginInfo:
    """Add one file for this process (worker processes: pass `plugin_paths()` on and add them there).

    Errors: UserError if the file does not exist, cannot be used, or its name is taken.
    """
    file = Path(path).resolve()
    if file in discovery.added:
        return discovery.added[file]
    if not file.is_file() or file.suffix != ".py":
        raise UserError(f"no plug-in {path}: expected a Python file")
    info = describe(file, file.stem, origin="file")
    if info.problem:
        raise UserError(f"plug-in {path}: {info.problem}")
    taken = plugins(info.kind).get(info.name)
    if taken and taken.path.resolve() == file:
        return taken
    if taken:
        raise UserError(f"plug-in {path}: the {info.kind} '{info.name}' exists ({taken.path}); rename the file")
    discovery.added[file] = info
    clear_caches()
    if problem := plugins(info.kind)[info.name].problem:
        del discovery.added[file]
        clear_caches()
        raise UserError(f"plug-in {path}: {problem}")
    return info


def plugin_paths() -> list[str]:
    """The files added with `add_plugin`, for worker processes to add too."""
    return [str(path) for path in discovery.added]


def forget_plugins() -> None:
    """Undo every `add_plugin` and read the folders again."""
    discovery.added.clear()
    clear_caches()


def clear_caches() -> None:
    """Forget what was listed, and what follows from it."""
    for listing in (discovery.listed, plugins, rule, metric, metrics, counted_metric):
        listing.cache_clear()
    training_settings.clear_caches()


@cache
def plugins(kind: str) -> dict[str, PluginInfo]:
    """All plug-ins of a kind by name, with the reason where one cannot be used."""
    if kind in ("network", "optimizer"):
        return components(kind)
    found = discovery.listed(kind)
    return {name: with_training(info) for name, info in found.items()} if kind == "dataset" else found


def with_training(info: PluginInfo) -> PluginInfo:
    """The dataset, with the complaint about an option, or about its `Training(...)`, where that could be read."""
    problem = next((f"field '{one.name}' is an option of every dataset already: choose another name"
                    for one in info.options if one.name in SHARED_OPTIONS), None)  # fmt: skip
    try:
        Training(**info.training if info.training is not UNREAD else {})
    except UserError as error:
        problem = problem or str(error)
    return dataclasses.replace(info, problem=info.problem or problem)


def known(kind: str, name: str) -> PluginInfo:
    found = plugins(kind)
    if name not in found:
        raise UserError(f"{unknown(kind, name, found)} (or --plugin FILE)")
    if found[name].problem:
        raise UserError(f"{kind} '{name}' cannot be used: {found[name].problem} ({found[name].path})")
    return found[name]


def usable(kind: str, name: str) -> PluginInfo:
    info = known(kind, name)
    return info if info.literal else resolved(info)


@cache
def _resolved(path: Path, info_name: str, kind: str) -> PluginInfo:
    info = plugins(kind)[info_name]
    cls = load_class(info)
    options = tuple(from_field(item) for item in dataclasses.fields(cls) if item.name not in SHARED_OPTIONS)
    names: tuple[str, ...] = ("needs", "stackable", "trains", "head_only", "base")
    if kind == "dataset":
        names = ("provides", "protocol_version", "headline", "splits", "named", "grouped_by")
    values = {name: getattr(cls, name) for name in names}
    if kind == "dataset":
        values["training"] = cls.training.flat()
    problem = (
        unknown_need(values.get("needs", frozenset())) or wrong_base(values.get("base")) or wrong_condition(options)
    )
    if problem:
        raise UserError(f"{kind} '{info.name}' cannot be used: {problem} ({path})")
    return dataclasses.replace(info, options=options, **values)


def resolved(info: PluginInfo) -> PluginInfo:
    """`info` with the values that are no literals taken from the imported class."""
    return _resolved(info.path, info.name, info.kind)


def from_field(item: dataclasses.Field[Any]) -> Option:
    default = item.default
    if default is dataclasses.MISSING and item.default_factory is not dataclasses.MISSING:
        default = item.default_factory()
    kind = item.type if isinstance(item.type, str) else getattr(item.type, "__name__", str(item.type))
    known = item.metadata
    only = conditions(known.get("only", {}))
    return Option(item.name, kind, default, known.get("search", {}), known.get("symbol", ""), only=only)


def add_plugins(paths: Iterable[str | Path] | None) -> None:
    """Add each of some files, see `add_plugin`; datasets last, whose training may name a network among them."""
    for path in sorted(map(Path, paths or ()), key=lambda path: describe(path, path.stem).kind == "dataset"):
        add_plugin(path)
