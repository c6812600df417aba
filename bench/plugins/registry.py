"""The plug-ins there are, by name: files in methods/ and datasets/, `--plugin FILE`, entry points."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spurbench.bench.core.entry_points import announced
from spurbench.bench.core.errors import UserError, reason, unknown
from spurbench.bench.core.fields import Option, conditions
from spurbench.bench.core.files import ROOT
from spurbench.bench.plugins.reader import (
    ROOTS,
    PluginInfo,
    describe,
    module_file,
    needs_known,
    unknown_need,
    wrong_condition,
)

if TYPE_CHECKING:
    from spurbench.bench.plugins.dataset import Dataset
    from spurbench.bench.plugins.method import Method

__all__ = [
    "Option", "PluginInfo", "add_plugin", "dataset_info", "datasets", "forget_plugins", "load_class", "load_dataset",
    "load_method", "method_info", "methods", "plugin_paths", "plugins", "requirements", "splits_of",
]  # fmt: skip

FOLDERS = {"method": ROOT / "methods", "dataset": ROOT / "datasets"}
INNATE = frozenset({"index", "second network"})  # needs that the engine meets for every dataset
_added: dict[Path, PluginInfo] = {}


def methods() -> dict[str, PluginInfo]:
    """All methods by name, also those that cannot be used (see `problem`); imports none of them."""
    return plugins("method")


def datasets() -> dict[str, PluginInfo]:
    """All datasets by name, also those that cannot be used (see `problem`); imports none of them."""
    return plugins("dataset")


def method_info(name: str) -> PluginInfo:
    """The usable method of that name with every value resolved.

    Errors: UserError for an unknown name (with the nearest one) or a plug-in that cannot be used.
    """
    return usable("method", name)


def dataset_info(name: str) -> PluginInfo:
    """The usable dataset of that name with every value resolved; errors as for `method_info`."""
    return usable("dataset", name)


def load_method(name: str) -> type[Method]:
    """The class of the method of that name, imported; errors as for `method_info`."""
    cls: type[Method] = load_class(known("method", name))
    return cls


def load_dataset(name: str) -> type[Dataset]:
    """The class of the dataset of that name, imported; errors as for `method_info`."""
    cls: type[Dataset] = load_class(known("dataset", name))
    return cls


def requirements(method: PluginInfo, dataset: PluginInfo) -> str | None:
    """Why the method cannot run on the dataset ('needs environments'), or None."""
    lacking = method.needs - dataset.provides - INNATE
    return f"needs {' and '.join(need for need in needs_known() if need in lacking)}" if lacking else None


def splits_of(dataset: PluginInfo) -> tuple[str, ...]:
    """The splits its records may have; what is held out is known only once the data are read, unless it says so."""
    own = ("train", "train_e0") if "environments" in dataset.provides else ("train",)
    return (*own, *(("validation", "test") if dataset.splits is None else dataset.splits))


def add_plugin(path: str | Path) -> PluginInfo:
    """Add one file for this process (worker processes: pass `plugin_paths()` on and add them there).

    Errors: UserError if the file does not exist, cannot be used, or its name is taken.
    """
    file = Path(path).resolve()
    if file in _added:
        return _added[file]
    if not file.is_file() or file.suffix != ".py":
        raise UserError(f"no plug-in {path}: expected a Python file")
    info = describe(file, file.stem, origin="file")
    if info.problem:
        raise UserError(f"plug-in {path}: {info.problem}")
    taken = plugins(info.kind).get(info.name)
    if taken and taken.path.resolve() == file:
        return taken
    if taken:
        raise UserError(f"plug-in {path}: the {info.kind} '{info.name}' exists ({taken.path}); rename the file")
    _added[file] = info
    plugins.cache_clear()
    return info


def plugin_paths() -> list[str]:
    """The files added with `add_plugin`, for worker processes to add too."""
    return [str(path) for path in _added]


def forget_plugins() -> None:
    """Undo every `add_plugin` and read the folders again."""
    _added.clear()
    plugins.cache_clear()


@cache
def plugins(kind: str) -> dict[str, PluginInfo]:
    """All plug-ins of a kind; a name found twice keeps its first owner: folder, then file, then package."""
    found = {}
    for file in sorted(FOLDERS[kind].glob("*.py")):
        if not file.stem.startswith("_"):
            found[file.stem] = describe(file, file.stem, kind)
    found |= {info.name: info for info in _added.values() if info.kind == kind}
    for point in announced(f"spurbench.{kind}s"):
        info = from_entry_point(point, kind)
        if info.name in found:
            name = f"{info.name} ({point.dist.name if point.dist else point.value})"
            problem = f"the name '{info.name}' is taken by {found[info.name].path}"
            info = dataclasses.replace(info, name=name, problem=problem)
        found[info.name] = info
    return dict(sorted(found.items()))


def from_entry_point(point: EntryPoint, kind: str) -> PluginInfo:
    """The plug-in an installed package announces, read without importing the package."""
    problem = "no such module"
    try:
        file = module_file(point.module)
    except AttributeError:  # what importlib raises for a value of another form
        file, problem = None, "not the name of a module"
    except UserError as error:
        file, problem = None, str(error)
    if file is None:
        told = f"entry point {point.value}: {problem}"
        return PluginInfo(kind, point.name, Path(point.value), origin="entry point", problem=told)
    return describe(file, point.name, kind, origin="entry point")


def known(kind: str, name: str) -> PluginInfo:
    found = plugins(kind)
    if name not in found:
        raise UserError(f"{unknown(kind, name, found)} (or --plugin FILE)")
    if found[name].problem:
        raise UserError(f"{kind} '{name}' cannot be used: {found[name].problem} ({found[name].path})")
    return found[name]


def usable(kind: str, name: str) -> PluginInfo:
    info = known(kind, name)
    return info if info.literal else resolved(info)


def load_class(info: PluginInfo) -> Any:
    """The plug-in's class, imported; a file that raises as it is imported is a UserError of one line."""
    try:
        module = import_file(info)
    except UserError as error:
        raise UserError(f"{info.kind} '{info.name}' does not import: {error} ({info.path})") from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UserError(f"{info.kind} '{info.name}' does not import: {reason(error)} ({info.path})") from error
    found = getattr(module, info.class_name, None)
    if not isinstance(found, type):
        raise UserError(f"{info.kind} '{info.name}': no class {info.class_name} once imported ({info.path})")
    return found


def import_file(info: PluginInfo) -> ModuleType:
    """In-tree files under their package name, others by path."""
    if info.path.parent == ROOT / f"{info.kind}s":
        return importlib.import_module(f"spurbench.{info.kind}s.{info.path.stem}")
    name = f"spurbench_plugin_{info.path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(info.path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, info.path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@cache
def _resolved(path: Path, info_name: str, kind: str) -> PluginInfo:
    info = plugins(kind)[info_name]
    cls = load_class(info)
    options = tuple(from_field(item) for item in dataclasses.fields(cls))
    names: tuple[str, ...] = ("needs", "stackable", "trains")
    if kind == "dataset":
        names = ("provides", "protocol_version", "headline", "splits")
    values = {name: getattr(cls, name) for name in names}
    if kind == "dataset":
        values["training"] = cls.training.flat()
    problem = unknown_need(values.get("needs", frozenset())) or wrong_condition(options)
    if problem:
        raise UserError(f"{kind} '{info.name}' cannot be used: {problem} ({path})")
    return dataclasses.replace(info, options=options, **values)


def resolved(info: PluginInfo) -> PluginInfo:
    """`info` with the values that are no literals taken from the imported class."""
    return _resolved(info.path, info.name, info.kind)


def from_field(item: dataclasses.Field[Any]) -> Option:
    default = item.default
    if default is dataclasses.MISSING and item.default_factory is not dataclasses.MISSING:
        default = item.default_factory()
    kind = item.type if isinstance(item.type, str) else getattr(item.type, "__name__", str(item.type))
    known = item.metadata
    only = conditions(known.get("only", {}))
    return Option(item.name, kind, default, known.get("search", {}), known.get("symbol", ""), only=only)


assert set(ROOTS) == set(FOLDERS)


def add_plugins(paths: Iterable[str | Path] | None) -> None:
    """Add each of some files, see `add_plugin`."""
    for path in paths or ():
        add_plugin(path)
