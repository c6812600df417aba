"""What there is: methods, datasets, grids, and the datasets' files. Plug-ins are read, not imported, to be listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spurbench.bench import registry
from spurbench.bench.errors import BadData, UserError, reason, unknown
from spurbench.bench.fields import checked
from spurbench.bench.grid import parsed_sets, shipped_grids
from spurbench.bench.source import PluginInfo

if TYPE_CHECKING:
    from spurbench.bench.dataset import Dataset

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


def told(info: PluginInfo) -> str:
    return f"cannot be used: {info.problem}" if info.problem else info.summary


def listed(names: object) -> str:
    """Needs or what is provided; they are read from the file alone, where they may be the result of a call."""
    return ", ".join(sorted(names)) if isinstance(names, frozenset) else str(names)


def options(info: PluginInfo) -> str:
    return ", ".join(f"{option.name}={option.default}" for option in info.options)


def grid_rows() -> list[dict[str, Any]]:
    return [{"name": name, "summary": summary} for name, summary in shipped_grids().items()]


def data() -> list[dict[str, Any]]:
    """Each dataset with where its files come from and their licence; of one that cannot tell, why."""
    return [
        {"dataset": name, "source": files_of(info), "licence": info.sections.get("Licence", "")}
        for name, info in registry.datasets().items()
    ]


def files_of(info: PluginInfo) -> str:
    """Where a dataset's files come from, or why it cannot say."""
    try:
        return told(info) if info.problem else registry.load_dataset(info.name)().files()
    except Exception as error:  # it is somebody's plug-in
        return f"cannot be used: {reason(error)}"


def prepare(
    name: str, source: Path | None = None, sets: Sequence[str] = (), allow_bad: bool = False, jobs: int | None = None
) -> str:
    """Make a dataset's files ready, with options as `run` takes them (`name.option=value`); what was done."""
    return with_options(name, sets).prepare(source, allow_bad, jobs)


def with_options(name: str, sets: Sequence[str]) -> Dataset:
    """The dataset with options of the form `name.option=value`."""
    known = {option.name: option for option in registry.dataset_info(name).options}
    given = parsed_sets(sets, [name], [])
    for option in [f"training.{key}" for key in given["training"]] + [key for key in given[name] if key not in known]:
        raise unknown(f"option of {name}", option, known)
    try:
        chosen = {option: checked(known[option], value, name) for option, value in given[name].items()}
    except ValueError as error:
        raise UserError(str(error)) from None
    return registry.load_dataset(name)(**chosen)


def verify(name: str | None = None, thorough: bool = True) -> Iterator[tuple[str, bool, str]]:
    """Each dataset, whether its files are in order, and what was found; unless `thorough`, what takes no time."""
    if name:
        registry.load_dataset(name)  # complains of a name that there is not
    for each in [name] if name else [n for n, info in registry.datasets().items() if not info.problem]:
        try:
            found = registry.load_dataset(each)().verify(thorough)
        except Exception as error:  # it is somebody's plug-in, or somebody's files
            if name and isinstance(error, UserError) and not isinstance(error, BadData):
                raise
            yield each, False, str(error) if isinstance(error, OSError) else reason(error)
        else:
            yield each, True, found
