"""What varies in a grid: values listed for a product, or drawn from a range; and seeds."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from spurbench.bench.core.fields import Option, check_value, quote_value

RANGE_KEYS = {"low", "high", "scale"}
MOST_ROWS = 100_000  # combinations of one entry


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


def space_name(key: str) -> tuple[str, str]:
    """Place and name of a key of a search's space."""
    owner, dot, name = key.partition(".")
    return (owner, name) if dot else ("hyper_parameters", key)


def varies(option: Option, value: Any) -> bool:
    """Whether a given value is a list of values or a range instead of one value."""
    several = isinstance(value, list) and not option.type.startswith(("tuple", "list"))
    return several or isinstance(value, dict)


def axis(place: str, option: Option, value: Any, of: str) -> Axis:
    """The axis a list or a `{low, high, scale}` gives.

    Errors: ValueError with the text for the user.
    """
    if isinstance(value, list):
        values = tuple(check_value(option, part, of) for part in value)
        if not values or any(values.count(part) > 1 for part in values):
            raise ValueError(f"{option.name} of {of}: a list needs values, each of them once; got {quote_value(value)}")
        return Axis(place, option, values)
    extra = sorted(set(value) - RANGE_KEYS)
    if extra or not {"low", "high"} <= set(value):
        got = f"the key {quote_value(extra[0])}" if extra else "one of them missing"
        raise ValueError(f"{option.name} of {of}: a range is {{low, high, scale}}; got {got}")
    low, high = (check_value(option, value[key], of) for key in ("low", "high"))
    return ranged(place, option, low, high, value.get("scale", "linear"), of)


def ranged(place: str, option: Option, low: Any, high: Any, scale: Any, of: str) -> Axis:
    """The axis of a range whose ends are numbers in order."""
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not low < high:
        raise ValueError(f"{option.name} of {of}: a range needs numbers low < high; got {low!r}, {high!r}")
    if scale not in {"linear", "log"}:
        raise ValueError(f"{option.name} of {of}: the scale of a range is linear or log, not {quote_value(scale)}")
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
    """What the axes take, axis position → value: `draws` random draws, each once, or else all combinations of lists.

    Errors: ValueError if a range is given without a number of draws.
    """
    if draws is not None:
        each = [{i: drawn(axis, dataset, method, n) for i, axis in enumerate(axes)} for n in range(draws)]
        return list({repr(values): values for values in each}.values())  # draws from a list come out alike
    for one in axes:
        if one.scale:
            raise ValueError(f"{one.key} of {method} is a range: say how many random draws with 'draws: 8'")
    count = math.prod(len(one.values) for one in axes)
    if count > MOST_ROWS:
        raise ValueError(f"{count:,} combinations for {method}, of {MOST_ROWS:,} at most: draw some with 'draws: 100'")
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
