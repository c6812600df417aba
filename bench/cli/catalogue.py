"""The rows of `spurbench list`: what there is, read from the plug-ins' files and not imported."""

from __future__ import annotations

from typing import Any

from spurbench.bench.core.errors import unknown
from spurbench.bench.grid.load import shipped_grids
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset_files import told
from spurbench.bench.plugins.reader import PluginInfo

COLUMNS = {
    "methods": {"name": "name", "summary": "what it does", "needs": "needs", "hyper_parameters": "hyper-parameters"},
    "datasets": {"name": "name", "summary": "what it is", "provides": "provides", "options": "options"},
    "grids": {"name": "name", "summary": "what it runs"},
}


def everything(what: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of `list`, by kind; all kinds if `what` is empty."""
    makers = {"methods": method_rows, "datasets": dataset_rows, "grids": grid_rows}
    if what and what not in makers:
        raise unknown("list", what, makers)
    return {kind: make() for kind, make in makers.items() if what in ("", kind)}


def method_rows() -> list[dict[str, Any]]:
    return [
        {
            "name": info.name,
            "summary": told(info),
            "needs": listed(info.needs),
            "hyper_parameters": options(info),
            "source": info.sections.get("Source"),
            "problem": info.problem,
        }
        for info in registry.methods().values()
    ]


def dataset_rows() -> list[dict[str, Any]]:
    return [
        {
            "name": info.name,
            "summary": told(info),
            "provides": listed(info.provides),
            "options": options(info),
            "licence": info.sections.get("Licence"),
            "problem": info.problem,
        }
        for info in registry.datasets().values()
    ]


def listed(names: object) -> str:
    """Needs or what is provided; they are read from the file alone, where they may be the result of a call."""
    return ", ".join(sorted(names)) if isinstance(names, frozenset) else str(names)


def options(info: PluginInfo) -> str:
    return ", ".join(f"{option.name}={option.default}" for option in info.options)


def grid_rows() -> list[dict[str, Any]]:
    return [{"name": name, "summary": summary} for name, summary in shipped_grids().items()]
