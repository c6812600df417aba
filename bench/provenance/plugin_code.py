"""A hash of what in a plug-in's code can alter numbers: without comments, docstrings, annotations and defaults."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.plugin_files.reader import PluginInfo, file_of, former, is_ours, module_file
from spurbench.bench.plugins import registry
from spurbench.bench.records.run import bases_in

IN_IDENTITY = {"training", "headline", "splits", "base", "head_only"}  # class attributes that alter no number of a run


def makers(fields: Mapping[str, Any]) -> dict[str, str]:
    """The plug-ins whose code makes a run, by part: method, dataset, and the user's own network and optimizer.

    `fields` are those of a run, a record or a cell. Networks and optimizers that come with spurbench are part of the
    harness, like the engine. The methods of runs that it starts from are the parts `base method 1` and so on.
    """
    found = {"method": str(fields["method"]), "dataset": str(fields["dataset"])}
    found |= {f"base method {place}": name for place, name in enumerate(base_methods(fields), 1)}
    for kind in ("network", "optimizer"):
        name = str(fields["training"].get(kind) or "").partition(":")[0]
        info = registry.plugins(kind).get(name)
        if info and info.origin != "folder":
            found[kind] = name
    return found


def base_methods(fields: Mapping[str, Any]) -> list[str]:
    """The methods of the runs that a run starts from, at any distance, and of those that inferred groups for it."""
    found = [(base["method"], base.get("infer", base)["method"]) for base in bases_in(fields)]
    return list(dict.fromkeys(str(name) for names in found for name in names))


def kind_of(part: str) -> str:
    """The kind of plug-in that a part of a run is."""
    return "method" if part.startswith("base method") else part


def loaded(part: str, name: str) -> str:
    """The version of a plug-in's code that this process imports, or has imported; later edits do not change it."""
    info: PluginInfo | None = registry.plugins(kind_of(part)).get(name)
    return first_seen(info.path) if info else ""


@cache
def first_seen(path: Path) -> str:
    return code(path)


@cache
def code(path: Path) -> str:
    """Sixteen hex digits that change when the code of a plug-in could give other numbers; "" if it cannot be read.

    They are computed once, until `clear_caches`.
    """
    try:
        return fingerprint([essence(ast.parse(file.read_bytes())) for file in with_imports(path)])[:16]
    except (OSError, SyntaxError, ValueError):
        return ""


def clear_caches() -> None:
    """Forget what files contained, for commands that look more than once."""
    code.cache_clear()


def with_imports(path: Path) -> list[Path]:
    """A plug-in's file and those of its own modules and of other plug-ins that it imports, directly or not."""
    found, left = [path], [path]
    while left:
        importer = left.pop()
        files = (own_module(importer, *name) for name in imported(ast.parse(importer.read_bytes())))
        new = [file for file in dict.fromkeys(files) if file is not None and file not in found]
        found += new
        left += new
    return found


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in a file, and how many folders up it is looked for (0: an absolute import)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                yield node.module, node.level
            for alias in node.names:  # which may be modules, too
                yield ".".join(filter(None, (node.module, alias.name))), node.level


def own_module(importer: Path, name: str, up: int) -> Path | None:
    """The file of a module if it is a plug-in's, lies beside the importer, or belongs to the same package."""
    top, *rest = name.split(".")
    if up:
        return file_of([str(importer.parents[up - 1])], [top, *rest])
    if top == "spurbench":
        return module_file(name) if rest[:1] in (["methods"], ["datasets"]) else None
    package = next((folder for folder in importer.parents if folder.name == top), None)
    return file_of([str(package)], rest) if package else file_of([str(importer.parent)], [top, *rest])


def essence(node: Any) -> Any:
    """A syntax tree as nested lists, without what cannot alter a result."""
    if isinstance(node, list):
        return [found for part in in_former_order(node) if (found := essence(part)) is not None]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.ImportFrom) and node.module in ("__future__", "typing"):
        return None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring, or `...`
        return None
    if isinstance(node, ast.ClassDef) and any(may_be_plugin(base) for base in node.bases):
        node.body = [part for part in node.body if not in_identity(part)]
    fields = {name: value for name, value in ast.iter_fields(node) if name not in ("annotation", "returns", "ctx")}
    if isinstance(node, ast.ImportFrom) and is_ours(node.module):
        fields["module"] = former(node.module)
    kept = {name: essence(value) for name, value in fields.items() if value is not None and value != []}
    return [type(node).__name__, *(list(pair) for pair in kept.items() if pair[1] not in (None, []))]


def in_former_order(statements: list[Any]) -> list[Any]:
    """A block's statements, its imports from spurbench sorted by the names by which they count."""
    places = [at for at, one in enumerate(statements) if isinstance(one, ast.ImportFrom) and is_ours(one.module)]
    found = list(statements)
    for at, one in zip(
        places, sorted((statements[at] for at in places), key=lambda one: former(one.module)), strict=True
    ):
        found[at] = one
    return found


def may_be_plugin(base: ast.expr) -> bool:
    """Whether a class with this base may be a plug-in, whose fields are in the identity; a helper's are not."""
    return isinstance(base, ast.Name) and base.id not in ("Module", "NamedTuple", "Enum", "ABC", "Protocol", "object")


def in_identity(statement: ast.stmt) -> bool:
    """Whether a statement of a class body gives what a run's identity holds: a field, or the recommended protocol."""
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        constant = "ClassVar" in ast.unparse(statement.annotation)
        return not constant or statement.target.id in IN_IDENTITY
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id in IN_IDENTITY for target in statement.targets)
    return False
