"""The rows of `spurbench list`: what there is, read from the plug-ins' files and not imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from spurbench.bench.api.dataset_files import summarize
from spurbench.bench.core.errors import LONGEST, UserError, cut
from spurbench.bench.grid.load import shipped_grids
from spurbench.bench.plugin_files.components import SHARED
from spurbench.bench.plugin_files.discovery import FOLDERS
from spurbench.bench.plugin_files.reader import PluginInfo
from spurbench.bench.plugins import registry

Row = dict[str, Any]
COLUMNS = {
    "methods": {"name": "name", "summary": "what it does", "needs": "needs", "hyper_parameters": "hyper-parameters"},
    "datasets": {"name": "name", "summary": "what it is", "provides": "provides", "options": "options"},
    "networks": {"name": "name", "summary": "what it is", "settings": "settings"},
    "optimizers": {"name": "name", "summary": "what it does", "settings": "settings"},
    "rules": {"name": "name", "summary": "what it chooses", "uses": "uses"},
    "metrics": {"name": "name", "summary": "what it is", "unit": "unit", "better": "better", "made_from": "made from",
                "needs": "needs", "settings": "settings"},
    "grids": {"name": "name", "summary": "what it runs"},
}  # fmt: skip


def everything(what: str) -> dict[str, list[Row]]:
    """The rows of `list`, by kind; all kinds if `what` is empty."""
    return {kind: rows(kind) for kind in COLUMNS if what in ("", kind)}


def rows(kind: str) -> list[Row]:
    if kind == "grids":
        return [{"name": name, "summary": summary} for name, summary in shipped_grids().items()]
    made = OWN.get(kind, of_component)
    return [
        {"name": info.name, "summary": summarize(info), **made(info), "problem": info.problem}
        for info in registry.plugins(kind.removesuffix("s")).values()
    ]


def of_method(info: PluginInfo) -> Row:
    return {"needs": listed(info.needs), "hyper_parameters": options(info), "source": info.sections.get("Source")}


def of_dataset(info: PluginInfo) -> Row:
    return {"provides": listed(info.provides), "options": options(info), "licence": info.sections.get("Licence")}


def of_component(info: PluginInfo) -> Row:
    return {"settings": options(info), "source": info.sections.get("Source")}


def of_rule(info: PluginInfo) -> Row:
    return {"uses": in_words(info.facts.get("uses")), "text": in_words(info.facts.get("text"))}


def of_metric(info: PluginInfo) -> Row:
    better = {True: "higher", False: "lower"}.get(info.facts.get("higher_is_better", ""), "")
    made_from = "counts" if info.facts.get("counted") else "predictions"
    return {
        "unit": in_words(info.facts.get("unit")), "better": better, "made_from": made_from,
        "needs": info.sections.get("Needs"), "settings": options(info),
    }  # fmt: skip


OWN: Mapping[str, Callable[[PluginInfo], Row]] = {
    "methods": of_method, "datasets": of_dataset, "rules": of_rule, "metrics": of_metric,
}  # fmt: skip
"""What a listing has of a kind beside names and summaries."""


def listed(names: object) -> str:
    """Needs or what is provided; they are read from the file alone, where they may be the result of a call."""
    return ", ".join(sorted(names)) if isinstance(names, frozenset) else str(names)


def in_words(fact: object) -> str:
    """What a class says of itself, read from its file."""
    if isinstance(fact, tuple | list):
        return ", ".join(map(str, fact))
    return "" if fact is None else str(fact)


def options(info: PluginInfo) -> str:
    every = (*SHARED.get(info.kind, ()), *info.options)
    return ", ".join(f"{option.name}={option.default}" for option in every)


def named(name: str) -> list[PluginInfo]:
    """The plug-ins of that name, of whatever kind; a network of a family by the family's.

    Errors: UserError, with the nearest name, if there is none.
    """
    each = {kind: registry.plugins(kind) for kind in FOLDERS}
    found = [known[family] for known in each.values() if (family := name.partition(":")[0]) in known]
    if not found:
        every = [*COLUMNS, *(one for known in each.values() for one in known)]
        near = get_close_matches(name[:LONGEST], every, n=1)
        hint = f"; did you mean {near[0]}?" if near else ";"
        raise UserError(
            f"no list and no plug-in '{cut(name)}'{hint} lists are: {', '.join(COLUMNS)}; they have the plug-ins' names"
        )
    return found
