"""What there is: methods, datasets, grids, and the datasets' files. Plug-ins are read, not imported, to be listed."""

from __future__ import annotations

from typing import Any

from spurbench.bench import registry
from spurbench.bench.errors import unknown
from spurbench.bench.grid import shipped_grids
from spurbench.bench.source import PluginInfo

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
            "needs": ", ".join(sorted(info.needs)),
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
            "provides": ", ".join(sorted(info.provides)),
            "options": options(info),
            "licence": info.sections.get("Licence"),
            "problem": info.problem,
        }
        for info in registry.datasets().values()
    ]


def told(info: PluginInfo) -> str:
    return f"cannot be used: {info.problem}" if info.problem else info.summary


def options(info: PluginInfo) -> str:
    return ", ".join(f"{option.name}={option.default}" for option in info.options)


def grid_rows() -> list[dict[str, Any]]:
    return [{"name": name, "summary": summary} for name, summary in shipped_grids().items()]


def data() -> list[dict[str, Any]]:
    """Each dataset with where its files come from and their licence."""
    return [
        {"dataset": name, "source": registry.load_dataset(name)().files(), "licence": info.sections.get("Licence", "")}
        for name, info in registry.datasets().items()
        if not info.problem
    ]


def prepare(name: str) -> str:
    """Make a dataset's files ready; what was done."""
    return registry.load_dataset(name)().prepare()


def verify(name: str | None) -> list[str]:
    """What the check of each dataset's files found."""
    names = [name] if name else [n for n, info in registry.datasets().items() if not info.problem]
    return [f"ok    {n}: {registry.load_dataset(n)().verify()}" for n in names]
