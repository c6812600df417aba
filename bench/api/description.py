"""What `spurbench list NAME` shows of one plug-in: its docstring, and every value that can be set."""

from __future__ import annotations

import re
from math import inf
from typing import Any

from spurbench.bench.core.fields import Limits, Option, show_value
from spurbench.bench.plugin_files.components import SHARED, own_options
from spurbench.bench.plugin_files.literals import MISSING, UNREAD
from spurbench.bench.plugin_files.reader import PluginInfo
from spurbench.bench.plugins import registry

COLUMNS = {"name": "name", "type": "type", "default": "default", "range": "range", "symbol": "symbol",
           "only": "has an effect with"}  # fmt: skip
SET = {
    "method": "--set {name}.{option}=VALUE, in a grid hyper_parameters: {{{option}: VALUE}}",
    "dataset": "--set {name}.{option}=VALUE, in a grid options: {{{option}: VALUE}}",
    "network": "--set training.{option}=VALUE, in a grid training: {{network: {called}, {option}: VALUE}}",
    "optimizer": "--set training.{option}=VALUE, in a grid training: {{optimizer: {called}, {option}: VALUE}}",
}
"""How a value of each kind is set."""
UNBOUNDED = 1e30  # a limit this large means none


def describe(info: PluginInfo) -> dict[str, Any]:
    """Everything known about a plug-in, in plain values."""
    if info.kind in ("method", "dataset") and not info.problem:
        info = (registry.method_info if info.kind == "method" else registry.dataset_info)(info.name)
    return {
        "kind": info.kind,
        "name": info.name,
        "summary": info.summary,
        "problem": info.problem,
        **{title.lower(): text for title, text in info.sections.items()},
        **facts(info),
        "file": str(info.path),
        "options": [row(option, conditions_of(option.name, info)) for option in options_of(info)],
    }


def facts(info: PluginInfo) -> dict[str, Any]:
    """The facts that its class declares, by their names in the output."""
    found: dict[str, Any] = {}
    if info.kind == "dataset":
        headline = info.headline if info.headline is not UNREAD else ()
        found = {
            "provides": ", ".join(sorted(info.provides)), "held out": ", ".join(info.splits or ()),
            "main columns": ", ".join(" ".join(column) for column in headline),
            "named attributes": ", ".join(info.named or ()), "groups of": ", ".join(info.grouped_by),
            "training": ", ".join(f"{name}={show_value(value)}" for name, value in info.training.items()),
        }  # fmt: skip
    elif info.kind == "method":
        found = {"is given": ", ".join(sorted(info.needs))}
    elif info.kind == "rule" and not info.problem:
        rule = registry.rule(info.name)
        found = {
            "chosen by": rule.text, "looks at": ", ".join(rule.looks_at),
            "criteria": ", then ".join(one.__name__.replace("_", " ") for one in rule.criteria),
            "oracle": "it looks at the test set" if rule.oracle else "",
        }  # fmt: skip
    elif info.kind == "metric":
        low, high = info.facts.get("limits", (None, None))
        found = {
            "unit": info.facts.get("unit", ""),
            "better": {True: "higher", False: "lower"}.get(info.facts.get("higher_is_better", ""), "neither way"),
            "limits": span((-inf if low is None else low, inf if high is None else high)),
            "made from": "counts: on every leaderboard, with --all" if info.facts.get("counted") else "predictions",
        }
    return {name: text for name, text in found.items() if text}


def options_of(info: PluginInfo) -> list[Option]:
    """Every field that can be set, including those that all networks, optimizers or datasets have."""
    if info.kind in SHARED:
        return [*SHARED[info.kind], *own_options(info)]
    if info.kind == "dataset":
        return [one for one in registry.dataset_options(info) if one.name != "groups" or info.named != ()]
    return list(info.options)


def conditions_of(name: str, info: PluginInfo) -> str:
    """The values of other fields with which a field has an effect."""
    own = [option for option in info.options if option.name == name]
    above = [
        f"{other} above {least:g}" for option in own for other, least in (option.search.get("above") or {}).items()
    ]
    hints = [condition.hint.removeprefix("it has one with ") for option in own for condition in option.only]
    return ", ".join([*above, *hints])


def row(option: Option, only: str) -> dict[str, Any]:
    """A field, as a line of the table."""
    default = option.default
    return {
        "name": option.name, "type": option.type,
        "default": None if default is None or default is MISSING or default is UNREAD else show_value(default),
        "range": range_of(option), "symbol": option.symbol,
        "only": only,
    }  # fmt: skip


def range_of(option: Option) -> str:
    """The allowed values or, for a hyper-parameter, its search range."""
    search = option.search
    if choices := search.get("choices"):
        return ", ".join(map(show_value, choices))
    low, high = search.get("low"), search.get("high")
    if low is not None or high is not None:
        scale = ", log" if search.get("scale") == "log" else ""
        return span((-inf if low is None else low, inf if high is None else high)) + scale
    return span(option.limits)


def span(limits: Limits | None) -> str:
    """Limits in words; empty if there are none, or if only the field itself knows them."""
    if isinstance(limits, re.Pattern):
        return "shares such as 0.5,0.75"
    if limits is None or not isinstance(limits, tuple) or not limits:
        return ""
    if isinstance(limits[0], str):
        return ", ".join(map(str, limits))
    low, high = float(limits[0]), float(limits[-1])
    if high >= UNBOUNDED:
        return "" if low <= -UNBOUNDED else f"{low:g} and above"
    return f"at most {high:g}" if low <= -UNBOUNDED else f"{low:g} to {high:g}"


def how_to_set(info: PluginInfo) -> str:
    """How one of its values is set; empty if there are none."""
    options = list(info.options) or options_of(info)
    if not options or info.kind not in SET:
        return ""
    called = f"{info.name}:{info.variants}" if info.variants else info.name
    return SET[info.kind].format(name=info.name, option=options[0].name, called=called)
