"""The rows of `spurbench list`: all plug-ins and grids, read from their files without importing them."""

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


def list_rows(what: str) -> dict[str, list[Row]]:
    """The rows of `list`, by kind; all kinds if `what` is empty."""
    return {kind: rows_of(kind) for kind in COLUMNS if what in ("", kind)}


def rows_of(kind: str) -> list[Row]:
    if kind == "grids":
        return [{"name": name, "summary": summary} for name, summary in shipped_grids().items()]
    made = ROW_MAKERS.get(kind, component_row)
    return [
        {"name": info.name, "summary": summarize(info), **made(info), "problem": info.problem}
        for info in registry.plugins(kind.removesuffix("s")).values()
    ]


def method_row(info: PluginInfo) -> Row:
    return {
        "needs": join_names(info.needs),
        "hyper_parameters": list_options(info),
        "source": info.sections.get("Source"),
    }


def dataset_row(info: PluginInfo) -> Row:
    return {
        "provides": join_names(info.provides),
        "options": list_options(info),
        "licence": info.sections.get("Licence"),
    }


def component_row(info: PluginInfo) -> Row:
    return {"settings": list_options(info), "source": info.sections.get("Source")}


def rule_row(info: PluginInfo) -> Row:
    return {"uses": describe_fact(info.facts.get("uses")), "text": describe_fact(info.facts.get("text"))}


def metric_row(info: PluginInfo) -> Row:
    better = {True: "higher", False: "lower"}.get(info.facts.get("higher_is_better", ""), "")
    made_from = "counts" if info.facts.get("counted") else "predictions"
    return {
        "unit": describe_fact(info.facts.get("unit")), "better": better, "made_from": made_from,
        "needs": info.sections.get("Needs"), "settings": list_options(info),
    }  # fmt: skip


ROW_MAKERS: Mapping[str, Callable[[PluginInfo], Row]] = {
    "methods": method_row, "datasets": dataset_row, "rules": rule_row, "metrics": metric_row,
}  # fmt: skip
"""What the list of a kind shows beside names and summaries."""


def join_names(names: object) -> str:
    """What is needed or provided; the file alone is read, where it may be the result of a call."""
    return ", ".join(sorted(names)) if isinstance(names, frozenset) else str(names)


def describe_fact(fact: object) -> str:
    """A fact that a class declares, read from its file."""
    if isinstance(fact, tuple | list):
        return ", ".join(map(str, fact))
    return "" if fact is None else str(fact)


def list_options(info: PluginInfo) -> str:
    every = (*SHARED.get(info.kind, ()), *info.options)
    return ", ".join(f"{option.name}={option.default}" for option in every)


def find_plugins(name: str) -> list[PluginInfo]:
    """The plug-ins of that name, of any kind; a network of a family is found by the family's name.

    Errors: UserError, with the nearest name, if there is none.
    """
    each = {kind: registry.plugins(kind) for kind in FOLDERS}
    found = [known[family] for known in each.values() if (family := name.partition(":")[0]) in known]
    if not found:
        every = [*COLUMNS, *(one for known in each.values() for one in known)]
        near = get_close_matches(name[:LONGEST], every, n=1)
        hint = f"; did you mean {near[0]}?" if near else ";"
        raise UserError(
            f"no list and no plug-in '{cut(name)}'{hint} the lists, which show the plug-ins, are {', '.join(COLUMNS)}"
        )
    return found
