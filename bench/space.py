"""Values of hyper-parameters: checked against their field, listed for a product, or drawn from a range."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from spurbench.bench.source import Option

RANGE_KEYS = {"low", "high", "scale"}
TYPE_WORDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}
MOST_SEEDS = 100_000
NETWORKS = ("mlp", "small_conv", "vgg15_bn", "preact_resnet110")  # and timm:MODEL


def known_network(name: str) -> None:
    """Raise ValueError, with the nearest names, if there is no such network; timm's are imported to be looked at."""
    kind, _, model = name.partition(":")
    if kind != "timm" and name not in NETWORKS:
        raise ValueError(named("network", name, (*NETWORKS, "timm:MODEL")))
    if kind == "timm" and importlib.util.find_spec("timm"):  # if not, it may be where the runs will be
        import timm

        if not timm.is_model(model):
            near = ", ".join(get_close_matches(model, timm.list_models(), n=3))
            raise ValueError(f"timm has no model '{model}'" + (f"; did you mean {near}?" if near else ""))


# What Training's fields may hold beyond their type: (lowest, highest), the words there are, their form, or a check.
LIMITS: Mapping[str, tuple[float, float] | tuple[str, ...] | re.Pattern[str] | Callable[[str], None]] = {
    "network": known_network,
    "width": (1, 1_000_000),
    "hidden_layers": (0, 1000),
    "init": ("torch", "xavier"),
    "dropout": (0.0, 0.999),
    "optimizer": ("sgd", "adam"),
    "lr": (0.0, math.inf),
    "momentum": (0.0, 0.9999),
    "weight_decay": (0.0, math.inf),
    "steps": (0, 10**9),
    "batch": (1, 10**9),
    "evaluate": (1, 10**9),
    "logits": (1, 10**6),
    "augment": ("crop", "flip", "crop,flip"),
    "drops": re.compile(r"0?\.\d+(,0?\.\d+)*"),
}


@dataclass(frozen=True)
class Axis:
    """One thing that varies: where it goes, and its values or its range."""

    place: str  # "hyper_parameters", "training" or "options"
    option: Option
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    scale: str = ""  # "" for a list of values

    @property
    def key(self) -> str:
        """Its name in `space`, in labels and in the hash of its draws."""
        return self.option.name if self.place == "hyper_parameters" else f"{self.place}.{self.option.name}"


def named(kind: str, name: str, known: Iterable[str]) -> str:
    """The text for a name that does not exist, with the nearest one."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ";"
    return f"no {kind} '{name}'{hint} there are: {', '.join(names) or 'none'}"


def checked(option: Option, value: Any, of: str) -> Any:
    """`value` as the field's type (a whole number becomes a float where one is wanted).

    Errors: ValueError with the text for the user.
    """
    kinds = [part.strip() for part in re.split(r"\|(?![^\[]*\])", option.type)]
    for kind in kinds:
        fits, converted = fit(kind, value)
        if fits:
            return converted if converted is None else allowed(option, converted, of)
    words = " or ".join(TYPE_WORDS.get(kind, kind) for kind in kinds)
    raise ValueError(f"{option.name} of {of} must be {words}, not {value!r}")


def fit(kind: str, value: Any) -> tuple[bool, Any]:
    """Whether the value is of the annotated type, and the value converted to it."""
    if kind == "float":
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return number, float(value) if number else value
    if kind == "int":
        whole = isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
        return whole, int(value) if whole else value
    if kind in {"bool", "str"}:
        return isinstance(value, bool if kind == "bool" else str), value
    if kind == "None":
        return value is None, value
    if kind.startswith("Literal["):
        words = ast.literal_eval(f"({kind[8:-1]},)")
        return value in words, value
    return True, value  # a type this check does not know is left to the plug-in


def allowed(option: Option, value: Any, of: str) -> Any:
    """`value` if the field's choices or limits allow it."""
    words: Sequence[Any] = option.search.get("choices") or ()
    limits = LIMITS.get(option.name, ()) if of == "training" else ()
    if callable(limits):
        limits(value)
    elif isinstance(limits, re.Pattern):
        if not limits.fullmatch(value):
            raise ValueError(f"{option.name} of {of} must be shares such as 0.5,0.75, not {value!r}")
    elif limits and isinstance(limits[0], str):
        words = limits
    elif limits and not float(limits[0]) <= value <= float(limits[1]):
        raise ValueError(f"{option.name} of {of} must lie in {limits[0]:g}..{limits[1]:g}, not {value!r}")
    if words and value not in words and isinstance(value, str):
        near = get_close_matches(value, [str(word) for word in words], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{option.name} of {of} must be {' or '.join(map(str, words))}, not {value!r}{hint}")
    return value


def varies(option: Option, value: Any) -> bool:
    """Whether a given value is a list of values or a range instead of one value."""
    several = isinstance(value, list) and not option.type.startswith(("tuple", "list"))
    return several or isinstance(value, dict)


def axis(place: str, option: Option, value: Any, of: str) -> Axis:
    """The axis a list or a `{low, high, scale}` gives.

    Errors: ValueError with the text for the user.
    """
    if isinstance(value, list):
        values = tuple(checked(option, part, of) for part in value)
        if not values or any(values.count(part) > 1 for part in values):
            raise ValueError(f"{option.name} of {of}: a list needs values, each of them once; got {value!r}")
        return Axis(place, option, values)
    extra = sorted(set(value) - RANGE_KEYS)
    if extra or not {"low", "high"} <= set(value):
        got = f"the key '{extra[0]}'" if extra else "one of them missing"
        raise ValueError(f"{option.name} of {of}: a range is {{low, high, scale}}; got {got}")
    low, high = (checked(option, value[key], of) for key in ("low", "high"))
    return ranged(place, option, low, high, value.get("scale", "linear"), of)


def ranged(place: str, option: Option, low: Any, high: Any, scale: Any, of: str) -> Axis:
    """The axis of a range whose ends are numbers in order."""
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not low < high:
        raise ValueError(f"{option.name} of {of}: a range needs numbers low < high; got {low!r}, {high!r}")
    if scale not in {"linear", "log"}:
        raise ValueError(f"{option.name} of {of}: the scale of a range is linear or log, not {scale!r}")
    if scale == "log" and low <= 0:
        raise ValueError(f"{option.name} of {of}: a log range needs low > 0; got {low!r}")
    return Axis(place, option, (), low, high, scale)


def declared(options: Iterable[Option], of: str) -> list[Axis]:
    """The axes a method declares itself: ranges and choices of its hyper-parameters."""
    axes = []
    for option in options:
        if len(option.search.get("choices") or ()) > 1:
            axes.append(Axis("hyper_parameters", option, tuple(option.search["choices"])))
        elif option.search.get("low") is not None and option.search.get("high") is not None:
            search = option.search
            axes.append(ranged("hyper_parameters", option, search["low"], search["high"], search["scale"], of))
    return axes


def choices(axes: Sequence[Axis], draws: int | None, dataset: str, method: str) -> list[dict[int, Any]]:
    """What the axes take, axis position → value: `draws` random draws, or else every combination of lists.

    Errors: ValueError if a range is given without a number of draws.
    """
    if draws is not None:
        return [{i: drawn(axis, dataset, method, n) for i, axis in enumerate(axes)} for n in range(draws)]
    for one in axes:
        if one.scale:
            raise ValueError(f"{one.key} of {method} is a range: say how many random draws with 'draws: 8'")
    return [dict(enumerate(values)) for values in itertools.product(*(one.values for one in axes))]


def drawn(one: Axis, dataset: str, method: str, draw: int) -> Any:
    """The value of a draw: it hangs on these four names alone, so that no new method or key changes it."""
    name = f"{dataset}/{method}/{one.key}/{draw}"
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7]) / 2**56  # uniform in [0, 1)
    if not one.scale:
        return one.values[int(share * len(one.values))]
    if one.option.type == "int":
        return min(int(one.high), int(interpolate(one, one.low, one.high + 1, share)))
    return float(f"{interpolate(one, one.low, one.high, share):.6g}")  # six digits: readable and enough


def interpolate(one: Axis, low: float, high: float, share: float) -> float:
    if one.scale == "log":
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def parse_seeds(value: object) -> list[int]:
    """Seeds from `7`, `[0, 1]`, `"0-9"`, `[1234..1243]` or `"0-4, 7"`.

    Errors: ValueError with the text for the user, also for a seed given twice.
    """
    parts = value if isinstance(value, list) else [value]
    seeds = [seed for part in parts for seed in span(part)]
    seen: set[int] = set()
    for seed in seeds:
        if seed in seen:
            raise ValueError(f"seed {seed} is given twice")
        seen.add(seed)
    if not seeds:
        raise ValueError("seeds: at least one is needed")
    return seeds


def span(part: object) -> list[int]:
    """The seeds of one number or of comma-separated numbers and ranges."""
    if isinstance(part, bool) or not isinstance(part, int | str):
        raise ValueError(f"seeds must be whole numbers or ranges such as 0-9, not {part!r}")
    found: list[int] = []
    for text in str(part).split(","):
        match = re.fullmatch(r"\s*(\d{1,10})\s*(?:(?:-|\.\.)\s*(\d{1,10})\s*)?", text)
        if not match:
            raise ValueError(f"seeds must be whole numbers or ranges such as 0-9, not {str(part)!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < 2**32 or last - first >= MOST_SEEDS:
            raise ValueError(f"seeds {text.strip()}: expected first ≤ last < 2^32, at most {MOST_SEEDS}")
        found += range(first, last + 1)
    return found
