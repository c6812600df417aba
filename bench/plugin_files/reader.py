"""What a plug-in file says of itself, read with `ast`: nothing in it is run."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError, say_unknown
from spurbench.bench.core.fields import Option
from spurbench.bench.core.files import ROOT
from spurbench.bench.plugin_files.literals import (
    MISSING,
    UNREAD,
    assigned,
    base_name,
    evaluate,
    first_sentence,
    option,
    sections,
    training_call,
)

ROOTS = {
    "dataset": "Dataset", "method": "Method", "network": "Network", "optimizer": "Optimizer", "rule": "Rule",
    "metric": "Metric",
}  # fmt: skip
"""What a class of each kind derives from."""
CLASS_ATTRIBUTES: Mapping[str, frozenset[str]] = {
    "method": frozenset({"needs", "stackable", "trains", "head_only", "base"}),
    "dataset": frozenset({"provides", "protocol_version", "headline", "splits", "training", "named", "grouped_by"}),
    "network": frozenset({"variants", "contents"}),
    "optimizer": frozenset(),
    "rule": frozenset({"text", "splits", "uses"}),
    "metric": frozenset({"unit", "higher_is_better", "limits", "counted", "over"}),
}
"""Of those, what a listing tells."""
TOLD = ("rule", "metric")  # kinds of whose attributes nothing but listings is made


@dataclass(frozen=True)
class PluginInfo:
    """A plug-in as its file describes it; `problem` says why it cannot be used, or is None."""

    kind: str  # of ROOTS
    name: str
    path: Path
    class_name: str = ""
    summary: str = ""
    sections: Mapping[str, str] = field(default_factory=dict)  # Source, Needs, Uses, Differs, Licence
    options: tuple[Option, ...] = ()
    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    protocol_version: int = 1
    headline: tuple[tuple[str, str], ...] = (("test", "accuracy"), ("train", "accuracy"))
    splits: tuple[str, ...] | None = None  # held out; None: known only once the data are read
    named: tuple[str, ...] | None = ()  # attributes of a dataset by name; None: likewise
    grouped_by: tuple[str, ...] = ()  # those of them that groups are made of by default; (): all
    training: Mapping[str, Any] = field(default_factory=dict)  # what it sets of Training's fields
    variants: str = ""  # what follows a network family's name and a colon
    contents: tuple[str, ...] = ()  # files of a folder that a network of a family can be, by which runs know it
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else the class of a rule or metric says
    stackable: bool = True
    trains: bool = True
    head_only: bool = False  # of a method: whether its network is its base's but for the last layer
    base: Mapping[str, Any] = field(default_factory=dict)  # of a method: the run it starts from
    infers: bool = False  # whether a method gives examples an attribute
    origin: str = "folder"  # "folder", "file" (--plugin) or "entry point"
    problem: str | None = None

    @property
    def literal(self) -> bool:
        """Whether every value could be read without importing the file."""
        shared = (self.needs, self.provides, self.protocol_version, self.headline, self.splits, self.training,
                  self.named, self.grouped_by)  # fmt: skip
        own = (self.stackable, self.trains, self.head_only, self.base)
        return not any(value is UNREAD for value in (*shared, *own, *(option.default for option in self.options)))


@dataclass(frozen=True)
class Module:
    """A parsed file: its classes, its literal constants, and where imported names come from."""

    path: Path
    tree: ast.Module
    classes: Mapping[str, ast.ClassDef]
    constants: Mapping[str, Any]
    imports: Mapping[str, tuple[str, str]]  # local name -> (module, name there)


MOVED = {
    "spurbench.bench.method": "spurbench.bench.plugins.method",
    "spurbench.bench.dataset": "spurbench.bench.plugins.dataset",
    "spurbench.bench.errors": "spurbench.bench.core.errors",
    "spurbench.bench.pictures": "spurbench.bench.images",
}
"""Where plug-ins imported from in version 0.1 → where they do now; it is the same code, under its former name."""
Lineage = list[tuple[ast.ClassDef, Mapping[str, Any]]]


def describe(path: Path, name: str, kind: str | None = None, origin: str = "folder") -> PluginInfo:
    """The plug-in in `path`; without `kind` it is what its class derives from, a method if that is nothing known."""
    try:
        return described(parse(path), name, kind, origin)
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes, not UTF-8
        line = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        problem = f"syntax error, {line}"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except (RecursionError, MemoryError):
        problem = "cannot be read: its expressions are nested too deep"
    return PluginInfo(kind or "method", name, path, origin=origin, problem=problem)


def described(module: Module, name: str, kind: str | None, origin: str) -> PluginInfo:
    """The plug-in in a parsed file."""
    kind = kind or next((kind for kind, root in ROOTS.items() if leaves(module, root)), "method")
    found = leaves(module, ROOTS[kind])
    chosen = chosen_class(found, name)
    lineage = found.get(chosen, [])
    text = ast.get_docstring(module.tree) or (ast.get_docstring(lineage[-1][0]) if lineage else "") or ""
    info = PluginInfo(
        kind, name, module.path, chosen, first_sentence(text), sections(text), origin=origin,
        **(members(lineage, kind) if lineage else {}),
    )  # fmt: skip
    return with_problem(info, module, list(found))


def with_problem(info: PluginInfo, module: Module, found: list[str]) -> PluginInfo:
    """`info` with the first reason why it cannot be used, if there is one."""
    missing = next((name for name in imported(module.tree) if not importable(name)), None)
    bare = next((option.name for option in info.options if option.default is MISSING), None)
    problem = None
    if missing:
        now = moved(missing)
        problem = f"imports '{missing}', which is {'not installed' if now == missing else f'{now} now'}"
    elif not found:
        problem = f"holds no class derived from {ROOTS[info.kind]}"
    elif not info.class_name:
        problem = f"holds {len(found)} {info.kind}s ({', '.join(found)}); one file holds one"
    elif bare:
        problem = f"field '{bare}' has no default"
    elif info.needs is not UNREAD:
        problem = unknown_need(info.needs) or wrong_base(info.base)
    return replace(info, problem=problem or wrong_condition(info.options))


def wrong_condition(options: Sequence[Option]) -> str | None:
    """The complaint about a hyper-parameter that hangs on one that there is not, or on itself."""
    for one in options:
        others = [option.name for option in options if option.name != one.name]
        for condition in one.only:
            if condition.key not in others:
                return f"field '{one.name}': {say_unknown('other field', condition.key, others)}"
    return None


BASE_KEYS = ("method", "hyper_parameters", "training", "step", "earlier")


def wrong_base(base: Any) -> str | None:
    """The complaint about a `base` that names no run."""
    if base is UNREAD or not base:
        return None
    if not isinstance(base, Mapping) or not isinstance(base.get("method"), str):
        return f'base is {base!r}; expected a mapping such as {{"method": "erm"}}'
    for key in base:
        if key not in BASE_KEYS:
            return f"base: {say_unknown('key', str(key), BASE_KEYS)}"
    return None


def unknown_need(needs: frozenset[str]) -> str | None:
    """The complaint about a need that no engine can meet."""
    known = needs_known()
    for need in sorted(needs - set(known)):
        near = get_close_matches(need, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ";"
        return f"declares the unknown need '{need}'{hint} there are: {', '.join(known)}"
    return None


@cache
def needs_known() -> tuple[str, ...]:
    """NEEDS of bench/plugins/method.py, read without importing torch."""
    return tuple(parse(ROOT / "bench" / "plugins" / "method.py").constants["NEEDS"])


def parse(path: Path) -> Module:
    """The parsed file."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    constants: dict[str, Any] = {}
    imports: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        for target, value in assigned(node):
            constants[target] = evaluate(value, constants)
        if isinstance(node, ast.ImportFrom) and node.module:
            imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return Module(path, tree, classes, constants, imports)


def leaves(module: Module, root: str) -> dict[str, Lineage]:
    """Classes of the file that derive from `root` and that no other of them derives from."""
    found = {name: lineage(name, module, root) for name in module.classes}
    bases = {base_name(base) for node in module.classes.values() for base in node.bases}
    return {name: line for name, line in found.items() if line and name not in bases}


def lineage(name: str, module: Module, root: str, depth: int = 0) -> Lineage | None:
    """The class and its ancestors up to `root`, eldest first, also through imported modules."""
    node = module.classes.get(name)
    if node is None:
        origin = module.imports.get(name)
        path = module_file(origin[0]) if origin else None
        if origin is None or path is None or depth > 8:
            return None
        return lineage(origin[1], parse(path), root, depth + 1)
    for base in map(base_name, node.bases):
        if base == root:
            return [(node, module.constants)]
        above = lineage(base, module, root, depth + 1) if depth <= 8 else None
        if above:
            return [*above, (node, module.constants)]
    return None


def chosen_class(found: Mapping[str, Lineage], stem: str) -> str:
    """The class the file stands for: the only one, or the one named like the file; '' if unclear."""
    like = [name for name in found if name.lower() == stem.replace("_", "").lower()]
    names = like or list(found)
    return names[0] if len(names) == 1 else ""


def members(line: Lineage, kind: str) -> dict[str, Any]:
    """Options and class attributes of the plug-in's class."""
    wanted = CLASS_ATTRIBUTES[kind]
    values: dict[str, Any] = {"options": class_options(line)}
    for node, constants in line:
        for target, value in (pair for statement in node.body for pair in assigned(statement)):
            if target in wanted:
                read = training_call if target == "training" else evaluate
                values[target] = read(value, constants)
    if kind == "method":
        defined = {one.name for node, _ in line for one in node.body if isinstance(one, ast.FunctionDef)}
        values["infers"] = "infer" in defined
    if kind in TOLD:
        return {"options": values.pop("options"), "facts": values}
    return values


def class_options(line: Lineage) -> tuple[Option, ...]:
    """The dataclass fields of a class and its ancestors."""
    options: dict[str, Option] = {}
    for node, constants in line:
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                kind = ast.unparse(statement.annotation).strip("'\"")
                if "ClassVar" not in kind:
                    options[statement.target.id] = option(statement.target.id, kind, statement.value, constants)
    return tuple(options.values())


def imported(tree: ast.Module) -> list[str]:
    """Modules the file needs as it is imported; those in `try`, `if` and functions are its own affair."""
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names


@cache
def importable(name: str) -> bool:
    """Whether the top-level package exists (and, of spurbench, the module), without importing it."""
    if name.startswith("spurbench."):
        return module_file(name) is not None
    try:
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def module_file(name: str) -> Path | None:
    """The file of a module, found without importing its package."""
    top, *rest = name.split(".")
    if top == "spurbench":  # our own folder, whatever way it is installed
        return file_of([str(ROOT)], rest)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot look for the module '{name}': {error}") from None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return file_of(spec.submodule_search_locations or (), rest)


def file_of(folders: Iterable[str], parts: Sequence[str]) -> Path | None:
    """The first file of a module, by its path below one of some folders."""
    for folder in folders:
        place = Path(folder, *parts)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def is_ours(module: str | None) -> bool:
    """Whether a module is of this package."""
    return (module or "").partition(".")[0] == "spurbench"


def moved(module: str) -> str:
    """Where a module of version 0.1 is now; any other as it is."""
    package, dot, rest = module.rpartition(".")
    return MOVED.get(module) or (f"{MOVED[package]}.{rest}" if package in MOVED else module)


def former(module: str | None) -> str:
    """What a module was called in version 0.1."""
    found = module or ""
    return next(
        (old + found.removeprefix(new) for old, new in MOVED.items() if f"{found}.".startswith(f"{new}.")), found
    )
