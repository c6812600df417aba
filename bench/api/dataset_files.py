"""The datasets' files: where they come from, preparing and verifying them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spurbench.bench.core.assignments import parse_assignments
from spurbench.bench.core.errors import BadData, UserError, reason, unknown
from spurbench.bench.core.fields import check_value
from spurbench.bench.plugin_files.reader import PluginInfo
from spurbench.bench.plugins import registry

if TYPE_CHECKING:
    from spurbench.bench.plugins.dataset import Dataset


def summarize(info: PluginInfo) -> str:
    return f"cannot be used: {info.problem}" if info.problem else info.summary


def list_files() -> list[dict[str, Any]]:
    """Each dataset, where its files come from, and their licence; for one that cannot tell, why."""
    return [
        {"dataset": name, "source": files_of(info), "licence": info.sections.get("Licence", "")}
        for name, info in registry.datasets().items()
    ]


def files_of(info: PluginInfo) -> str:
    """Where a dataset's files come from, or why it cannot say."""
    try:
        return summarize(info) if info.problem else registry.load_dataset(info.name)().files()
    except Exception as error:  # it is somebody's plug-in
        return f"cannot be used: {reason(error)}"


def prepare(
    name: str, source: Path | None = None, sets: Sequence[str] = (), allow_bad: bool = False, jobs: int | None = None
) -> str:
    """Prepare a dataset's files, with options as `run` takes them (`name.option=value`); says what was done."""
    return with_options(name, sets).prepare(source, allow_bad, jobs)


def with_options(name: str, sets: Sequence[str]) -> Dataset:
    """The dataset with options of the form `name.option=value`."""
    known = {option.name: option for option in registry.dataset_info(name).options}
    given = parse_assignments(sets, [name], [])
    if shared := next((option for option in registry.SHARED_OPTIONS if option in given[name]), None):
        raise UserError(f"--set {name}.{shared}: every run makes its own choice; give it to plan or run, not here")
    for option in [f"training.{key}" for key in given["training"]] + [key for key in given[name] if key not in known]:
        raise unknown(f"option of {name}", option, known)
    try:
        chosen = {option: check_value(known[option], value, name) for option, value in given[name].items()}
    except ValueError as error:
        raise UserError(str(error)) from None
    return registry.load_dataset(name)(**chosen)


def split_sets(sets: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Of settings as `run` takes them those of a dataset, as they are, and the fields of training by name."""
    training = [text for text in sets if text.startswith("training.")]
    return [text for text in sets if text not in training], parse_assignments(training, [], [])["training"]


def verify(name: str | None = None, thorough: bool = True) -> Iterator[tuple[str, bool, str]]:
    """Each dataset, whether its files are in order, and what was found; unless `thorough`, only what takes no time."""
    if name:
        registry.load_dataset(name)  # raises for an unknown name
    for each in [name] if name else [n for n, info in registry.datasets().items() if not info.problem]:
        try:
            found = registry.load_dataset(each)().verify(thorough)
        except Exception as error:  # it is somebody's plug-in, or somebody's files
            if name and isinstance(error, UserError) and not isinstance(error, BadData):
                raise
            yield each, False, str(error) if isinstance(error, OSError) else reason(error)
        else:
            yield each, True, found
