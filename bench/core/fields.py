"""A field that a user may set, and what it may hold: a value of its type, within limits, that has an effect."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

WHOLE = 2**63 - 1  # readers of JSON have 64 bits for a whole number
EXACT = 2**53  # above, a number written with a point or an exponent need not be the whole number that was meant
MOST_TEXT, MOST_PARTS = 1000, 10_000  # characters of one text, parts of a list or mapping
TYPE_WORDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}
Limits = tuple[float, float] | tuple[str, ...] | re.Pattern[str] | Callable[[Any], None]
"""Beyond the type: (lowest, highest), the allowed words, a pattern, or a check that raises ValueError."""


@dataclass(frozen=True)
class Condition:
    """When a field has an effect: a condition on another field, `key`, given all values."""

    key: str
    holds: Callable[[Mapping[str, Any]], bool]
    hint: str  # where the field does have an effect, or what to do

    def complaint(self, name: str, values: Mapping[str, Any]) -> str:
        other = values.get(self.key)
        beside = f"without {self.key}" if other is None else f"with {self.key} {show_value(other)}"
        return f"{name} has no effect {beside}; {self.hint}"


@dataclass(frozen=True)
class Option:
    """A hyper-parameter of a method, an option of a dataset or a field of Training."""

    name: str
    type: str  # annotation as written, e.g. "float"
    default: Any
    search: Mapping[str, Any] = field(default_factory=dict)  # {low, high, scale} or {choices}
    symbol: str = ""
    limits: Limits | None = None
    normal: Callable[[Any], Any] | None = None  # one spelling for values that mean the same
    only: tuple[Condition, ...] = ()  # without which it has no effect


def setting(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    above: Mapping[str, float] | None = None,
    hint: str = "",
    file: str = "",
) -> Any:
    """A field of a network or optimizer, all in literals: default, limits or the allowed words.

    `above={"hidden_layers": 0}` says that it has an effect only where another setting is above that; `hint` tells the
    user why. `file="timm"` says that it takes that word, or a file: runs hold its name and a digest of its content, and
    `self.path_of` tells where it is.
    """
    given = {"low": low, "high": high, "choices": choices, "above": above, "hint": hint, "file": file}
    return dataclasses.field(default=default, metadata={"setting": given})


def none_if(*same: Any) -> Callable[[Any], Any]:
    """One spelling for a field whose values `same` mean what leaving it out does."""
    return lambda value: None if value in same else value


class NoEffect(ValueError):
    """The field `name` was given, but has no effect with the value that the field `key` has."""

    def __init__(self, name: str, key: str, message: str) -> None:
        super().__init__(message)
        self.name, self.key = name, key


def conditions(only: Mapping[str, Any]) -> tuple[Condition, ...]:
    """What a method writes as `only={"form": "released"}` beside a hyper-parameter."""

    def equals(key: str, wanted: Any) -> Condition:
        return Condition(key, lambda values: values.get(key) == wanted, f"it has one with {key} {show_value(wanted)}")

    return tuple(equals(key, wanted) for key, wanted in only.items())


def drop_ineffective(
    options: Mapping[str, Option], values: Mapping[str, Any], given: Mapping[str, int]
) -> dict[str, Any]:
    """The values without those that have no effect beside the others.

    `given` has the layer of each value that a user gave, later ones higher. A value from below the layer of what
    takes its effect away, or that nobody gave, is left out silently: a default or a broader setting meant for another
    choice. None, 0 and false switch something off, which is never wrong.

    Errors: NoEffect for a value of the same layer or a higher one.
    """
    kept = dict(values)
    for name, value in values.items():
        failing = next((one for one in options[name].only if not one.holds(values)), None)
        if failing is None:
            continue
        if value and name in given and given[name] >= given.get(failing.key, 0):
            raise NoEffect(name, failing.key, failing.complaint(name, values))
        del kept[name]
    return kept


def show_value(value: Any) -> str:
    """A value in a label or message: numbers are short but distinct, long texts are cut."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    text = short if not isinstance(value, float) or float(short) == value else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def quote_value(value: Any) -> str:
    """A value in a message as it was written, cut if it is long."""
    text = repr(value if not isinstance(value, str) else value[:80])
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_value(option: Option, value: Any, of: str) -> Any:
    """`value` as the field's type (a whole number becomes a float where one is wanted).

    Errors: ValueError with the text for the user.
    """
    if reason := unstorable(value):
        raise ValueError(f"{option.name} of {of} cannot be {quote_value(value)}: {reason}")
    kinds = [part.strip() for part in re.split(r"\|(?![^\[]*\])", option.type)]
    for kind in kinds:
        fits, converted = fit(kind, value)
        if fits:
            allowed = converted if converted is None else within(option, converted, of)
            return option.normal(allowed) if option.normal else allowed
    words = " or ".join(TYPE_WORDS.get(kind) or " or ".join(map(str, literals(kind))) or kind for kind in kinds)
    near = get_close_matches(str(value), [str(word) for kind in kinds for word in literals(kind)], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if "int" in kinds and isinstance(value, float) and value.is_integer():
        words += f" up to {EXACT:,}"
    raise ValueError(f"{option.name} of {of} must be {words}, not {quote_value(value)}{hint}")


def literals(kind: str) -> tuple[Any, ...]:
    """The values that an annotation such as `Literal["a", "b"]` allows; none of another one."""
    return tuple(ast.literal_eval(f"({kind[8:-1]},)")) if kind.startswith("Literal[") else ()


def unstorable(value: Any) -> str | None:
    """Why a record could not store a value and return it unchanged, or None."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if -WHOLE <= value <= WHOLE else "a whole number has at most 64 bits"
    if isinstance(value, float):
        return None if -sys.float_info.max <= value <= sys.float_info.max else "a number is finite"
    if isinstance(value, str):
        return unwritable(value, MOST_TEXT)
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    elif not isinstance(value, list | tuple):
        return f"{type(value).__name__} is neither number, text, list nor mapping"
    if len(value) > MOST_PARTS:
        return f"{len(value):,} parts, {MOST_PARTS:,} are the most"
    return next((reason for part in value if (reason := unstorable(part))), None)


def unwritable(text: str, most: int) -> str | None:
    """Why a text of at most `most` characters cannot be stored, or None."""
    if len(text) > most:
        return f"{len(text):,} characters, {most:,} are the most"
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        return "half of a character (a lone surrogate)"
    return None


def fit(kind: str, value: Any) -> tuple[bool, Any]:
    """Whether the value is of the annotated type, and the value converted to it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "float":
        return number, float(value) + 0.0 if number else value  # −0 becomes 0: no second spelling of one number
    if kind == "int":
        whole = number and (isinstance(value, int) or value.is_integer() and abs(value) <= EXACT)
        return whole, int(value) if whole else value
    if kind in {"bool", "str"}:
        return isinstance(value, bool if kind == "bool" else str), value
    if kind == "None":
        return value is None, value
    if kind.startswith("Literal["):
        return value in literals(kind), value
    return True, value  # types unknown to this check are left to the plug-in


def within(option: Option, value: Any, of: str) -> Any:
    """`value` if the field's choices or limits allow it."""
    words: Sequence[Any] = option.search.get("choices") or ()
    limits = option.limits or ()
    if callable(limits):
        limits(value)
    elif isinstance(limits, re.Pattern):
        if not limits.fullmatch(value):
            raise ValueError(f"{option.name} of {of} must be shares such as 0.5,0.75, not {quote_value(value)}")
    elif limits and isinstance(limits[0], str):
        words = limits
    elif limits and not float(limits[0]) <= value <= float(limits[1]):
        raise ValueError(f"{option.name} of {of} must lie in {limits[0]:g}..{limits[1]:g}, not {quote_value(value)}")
    if words and value not in words and isinstance(value, str):
        near = get_close_matches(value, [str(word) for word in words], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        allowed = " or ".join(map(str, words))
        raise ValueError(f"{option.name} of {of} must be {allowed}, not {quote_value(value)}{hint}")
    return value
