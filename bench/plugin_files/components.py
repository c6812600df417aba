"""Networks and optimizers as parts of a training: which there are, and the fields that each brings along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError, say_unknown
from spurbench.bench.core.fields import Condition, Option, none_if
from spurbench.bench.plugin_files import places
from spurbench.bench.plugin_files.discovery import listed, load_class
from spurbench.bench.plugin_files.literals import MISSING, UNREAD
from spurbench.bench.plugin_files.reader import PluginInfo


@dataclass(frozen=True)
class Component:
    """The chosen network or optimizer: its name, and the values of its fields: `training.network["width"]`."""

    name: str
    values: tuple[tuple[str, Any], ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """The values of its fields, by name."""
        return dict(self.values)

    def __getitem__(self, field: str) -> Any:
        return self.settings[field]


DEFAULTS = {"network": "mlp", "optimizer": "sgd"}
DECAYS = Condition("weight_decay", lambda values: values.get("weight_decay", 0.0) > 0, "give one above 0")
SHARED: Mapping[str, tuple[Option, ...]] = {
    "network": (
        # outputs of the network; by default one for two classes, else one a class
        Option("logits", "int | None", None, limits=(1, 10**6)),
        # train the last layer alone: what the rest makes of the data is computed once and kept
        Option("freeze", "bool | None", None, normal=none_if(False)),
    ),
    "optimizer": (
        Option("lr", "float", 0.01, limits=(0.0, 1e30)),  # learning rate
        # times a weight, added to its gradient (adamw: times lr and a weight, taken from the weight)
        Option("weight_decay", "float", 0.0, limits=(0.0, 1e30)),
        # what decays: all parameters, or matrices and kernels alone, not biases and norms
        Option(
            "weight_decay_of", "str | None", None, limits=("all", "matrices"), normal=none_if("all"), only=(DECAYS,)
        ),
    ),
}
"""The fields of every network, and of every optimizer."""
TAKEN = frozenset({
    *DEFAULTS, "variant", "steps", "lr_schedule", "drops", "warmup", "clip_norm", "evaluate", "sam", "average", "decay",
    "average_from", "n_converge", "n_tolerance", "tolerance_ratio", "batch", "balanced", "augment",
})  # fmt: skip
"""Names of other fields of training, which no network or optimizer may have for its own."""


@cache
def components(kind: str) -> dict[str, PluginInfo]:
    """The networks or the optimizers by name, the default first, each with the reason where it cannot be used."""
    found = dict[str, PluginInfo]()
    for name, info in sorted(listed(kind).items(), key=lambda pair: (pair[0] != DEFAULTS[kind], pair[0])):
        problem = info.problem or clash(info, found.values())
        found[name] = replace(info, problem=problem)
    return found


def clash(info: PluginInfo, others: Iterable[PluginInfo]) -> str | None:
    """Why the settings of a network or optimizer cannot be, or cannot stand among those of the others."""
    if info.variants is UNREAD:
        return "variants is no literal"
    taken = TAKEN | {option.name for options in SHARED.values() for option in options}
    names = [option.name for option in info.options]
    elsewhere = {option.name: option for other in others if not other.problem for option in other.options}
    for option in info.options:
        if option.default is UNREAD or option.default is MISSING:
            return f"field '{option.name}' has no literal default: settings are read without running the file"
        if option.name in taken or elsewhere.get(option.name, option) != option:
            return f"field '{option.name}' is another field of training already: choose another name"
        for other in option.search.get("above") or ():
            if other not in names:
                return f"field '{option.name}': {say_unknown('other field', other, names)}"
    return None


def alternatives(kind: str) -> dict[str, PluginInfo]:
    """The usable networks or optimizers by what a user writes: `timm:MODEL` for the family timm."""
    usable = {name: info for name, info in components(kind).items() if not info.problem}
    return {f"{name}:{info.variants}" if info.variants else name: info for name, info in usable.items()}


def word_for(kind: str, name: Any) -> str:
    """Which of the alternatives a name is of; a name of none as it is."""
    family, colon, _ = str(name or DEFAULTS[kind]).partition(":")
    info = components(kind).get(family)
    return f"{family}:{info.variants}" if info and info.variants and colon else family + colon


UNLIMITED: Mapping[str, Any] = {"low": -inf, "high": inf, "choices": None, "above": None, "hint": "", "file": ""}


def own_options(info: PluginInfo) -> Iterator[Option]:
    """The settings of a network or optimizer, with their limits and conditions."""
    defaults = {option.name: option.default for option in info.options}
    for option in info.options:
        limits = {**UNLIMITED, **option.search}
        bounded = (limits["low"], limits["high"]) != (-inf, inf)
        above = (limits["above"] or {}).items()
        conditions = [is_above(name, least, defaults[name], limits["hint"]) for name, least in above]
        allowed = (limits["low"], limits["high"]) if bounded else limits["choices"]
        normal = none_if(False) if option.type == "bool | None" else None
        if limits["file"]:
            allowed, normal = partial(check_file, option.name, limits["file"]), name_file
        yield replace(option, search={}, limits=allowed, normal=normal, only=tuple(conditions))


def check_file(name: str, word: str, value: str) -> None:
    """Raise ValueError for what is neither this word nor a file, nor the name of one that is known here."""
    if value == word or Path(value).expanduser().is_file():
        return
    try:
        places.locate(value)
    except UserError as error:
        known = places.NAMED.fullmatch(value)
        raise ValueError(str(error) if known else f"{name}: no file {value}; expected {word}, or a file") from None


def name_file(value: str | None) -> str | None:
    """A file as runs hold it, by its name and content; what is none as it is."""
    path = Path(value or "").expanduser()
    return places.name_content(path) if value and path.is_file() else value


def name_network(name: str) -> str:
    """A network as runs hold it: one of a family that is a folder by its name and content; any other as it is."""
    family, _, variant = str(name).partition(":")
    info = components("network").get(family)
    if info is None or not is_folder(info, variant):
        return name
    return f"{family}:{places.name_content(Path(variant), info.contents)}"


def is_folder(info: PluginInfo, variant: str) -> bool:
    """Whether a network of a family is a folder here, by the first of the files that make it up."""
    return bool(variant and info.contents and (Path(variant).expanduser() / info.contents[0]).is_file())


def is_above(name: str, least: float, default: Any, hint: str) -> Condition:
    """The condition that another setting is above a value."""
    return Condition(name, lambda values: values.get(name, default) > least, hint)


def known_network(name: str) -> None:
    """Raise ValueError, with the nearest names, if there is no such network; a family is imported to be asked."""
    info, variant = network_info(name), name.partition(":")[2]
    if info.contents and places.NAMED.fullmatch(variant):
        try:
            places.locate(variant, info.contents)
        except UserError as error:
            raise ValueError(str(error)) from None
    elif info.variants and not is_folder(info, variant):
        load_class(info).check_variant(variant)


def network_info(name: str) -> PluginInfo:
    """The network, or the family of networks, that a name such as `mlp` or `timm:resnet18` is of.

    Errors: ValueError, with the nearest names, if there is none, or it cannot be used.
    """
    kind, colon, _ = name.partition(":")
    info = components("network").get(kind)
    if info is None or bool(info.variants) != bool(colon):
        raise ValueError(say_unknown("network", name, alternatives("network")))
    if info.problem:
        raise ValueError(f"network '{kind}' cannot be used: {info.problem} ({info.path})")
    return info
