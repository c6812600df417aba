"""Where plug-ins are: the files of a kind's folder, those added for this process, those that packages announce."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from spurbench.bench.core.errors import UserError, reason
from spurbench.bench.core.files import ROOT
from spurbench.bench.plugin_files.entry_points import find_entry_points
from spurbench.bench.plugin_files.reader import ROOTS, PluginInfo, describe, module_file

FOLDERS = {
    "method": ROOT / "methods",
    "dataset": ROOT / "datasets",
    "network": ROOT / "bench" / "training" / "networks",
    "optimizer": ROOT / "bench" / "training" / "optimizers",
    "rule": ROOT / "bench" / "records" / "rules",
    "metric": ROOT / "bench" / "evaluation" / "metrics",
}
PACKAGES = {folder: f"spurbench.{'.'.join(folder.relative_to(ROOT).parts)}" for folder in FOLDERS.values()}
"""The package that the files of a folder of ours are imported from."""
added: dict[Path, PluginInfo] = {}
assert set(ROOTS) == set(FOLDERS)


@cache
def listed(kind: str) -> dict[str, PluginInfo]:
    """All plug-ins of a kind; a name found twice keeps its first owner: folder, then file, then package."""
    found = {}
    for file in sorted(FOLDERS[kind].glob("*.py")):
        if not file.stem.startswith("_"):
            found[file.stem] = describe(file, file.stem, kind)
    found |= {info.name: info for info in added.values() if info.kind == kind}
    for point in find_entry_points(f"spurbench.{kind}s"):
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
        problem_text = f"entry point {point.value}: {problem}"
        return PluginInfo(kind, point.name, Path(point.value), origin="entry point", problem=problem_text)
    return describe(file, point.name, kind, origin="entry point")


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
    if lacks := ", ".join(sorted(getattr(found, "__abstractmethods__", ()))):
        raise UserError(f"{info.kind} '{info.name}': its class {info.class_name} lacks {lacks} ({info.path})")
    return found


def load_component(kind: str, name: str, settings: Mapping[str, Any]) -> Any:
    """A network or optimizer of ours or of a user's, made with its settings; `timm:resnet18` is a variant of timm."""
    name, _, variant = name.partition(":")
    cls = load_class(listed(kind)[name])
    return cls(**settings, variant=variant) if variant else cls(**settings)


def import_file(info: PluginInfo) -> ModuleType:
    """In-tree files under their package name, others by path."""
    if info.path.parent in PACKAGES:
        return importlib.import_module(f"{PACKAGES[info.path.parent]}.{info.path.stem}")
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
