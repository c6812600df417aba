"""What code and what data made a run, told by what can alter its numbers, and whether they have changed since.

A plug-in's code counts without its comments, docstrings and annotations; without the defaults of its fields and the
protocol it recommends, since a run's identity holds those; and with the plug-ins it imports. The data count by their
checksum where the dataset has one, else by the files that were read to load them.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from spurbench.bench import registry
from spurbench.bench.record import Record, fingerprint
from spurbench.bench.source import PluginInfo, file_of, module_file

Version = dict[str, str]
"""method, dataset, data → what made a run; "" where that is not known, or the data have no checksum."""
Files = dict[str, str]
"""Data files by their path → what they held."""
IN_IDENTITY = {"training", "headline", "splits"}  # class attributes that alter no number of a run
FACTS = "prepared.json"  # of prepared pictures: holds a checksum of the files beside it
WHOLE = 256 << 20  # bytes of a data file that are read whole to tell it from another
ENDS = 1 << 20  # of a larger one, so many at its beginning and end


def of(record: Record) -> Version:
    """What made a run, as its record tells."""
    source = record["provenance"]
    made = {kind: str((source.get("code") or {}).get(kind) or "") for kind in ("method", "dataset")}
    files = source.get("plugins") or {}  # of schema 1: the hash of the whole file, comments and all
    for kind in (kind for kind in made if files.get(kind) and not made[kind]):
        path = file_of_plugin(kind, record)
        now = path is not None and whole(str(path), path.stat().st_mtime_ns) == files[kind]
        made[kind] = code(path) if path is not None and now else f"file {files[kind][:11]}"
    return made | {"data": str(source.get("data") or "")}


@lru_cache(maxsize=4096)
def whole(file: str, mtime: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def edited(record: Record) -> list[str]:
    """The files that made a run and have changed since on this machine, by name; those not here are passed over."""
    files = record["provenance"].get("files") or {}
    now = {name: content_of(Path(name)) for name, content in files.items() if content and Path(name).is_file()}
    return edited_plugins(record) + [Path(name).name for name, new in now.items() if new not in ("", files[name])]


def edited_plugins(record: Record) -> list[str]:
    """Of those, the method's and the dataset's."""
    made, pairs = of(record), ((kind, file_of_plugin(kind, record)) for kind in ("method", "dataset"))
    return [path.name for kind, path in pairs if path and made[kind] and code(path) not in (made[kind], "")]


def accepted(record: Record, names: Collection[str]) -> Record | None:
    """The record as made by these files as they are now, after an edit that alters no result; None if it was anyway.

    What did make it is kept in it, as `accepted`.
    """
    source, made = record["provenance"], of(record)
    found, before = dict(source.get("code") or {}), dict(source.get("accepted") or {})
    changed = set(edited_plugins(record)) & set(names)
    for kind in ("method", "dataset"):
        path = file_of_plugin(kind, record)
        if path and path.name in changed and code(path) != made[kind]:
            before[kind], found[kind] = [*before.get(kind, ()), made[kind]], code(path)
    return record | {"provenance": source | {"code": found, "accepted": before}} if changed else None


def file_of_plugin(kind: str, record: Record) -> Path | None:
    """A run's plug-in as it is now: the file known by its name here, else the one it had, if that is still there."""
    info = registry.plugins(kind).get(record[kind])
    recorded = (record["provenance"].get("paths") or {}).get(kind)
    path = info.path if info is not None else Path(recorded) if recorded else None
    return path if path is not None and path.is_file() else None


# ---- code -----------------------------------------------------------------------------------------------------------


def loaded(kind: str, name: str) -> str:
    """The version of a plug-in's code that this process has imported or is about to; later edits do not alter it."""
    info: PluginInfo | None = registry.plugins(kind).get(name)
    return first_seen(info.path) if info else ""


@cache
def first_seen(path: Path) -> str:
    return code(path)


@cache
def code(path: Path) -> str:
    """Sixteen hex digits that change when the code of a plug-in could give other numbers; "" if it cannot be read.

    They are worked out once, until `look_again`.
    """
    try:
        return fingerprint([essence(ast.parse(file.read_bytes())) for file in with_imports(path)])[:16]
    except (OSError, SyntaxError, ValueError):
        return ""


def look_again() -> None:
    """Forget what files held: for a command that looks more than once."""
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
    """Every module that is imported anywhere in a file, and how many folders up it is looked for (0: by its name)."""
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
        return [found for part in node if (found := essence(part)) is not None]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.ImportFrom) and node.module in ("__future__", "typing"):
        return None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring, or `...`
        return None
    if isinstance(node, ast.ClassDef) and any(may_be_plugin(base) for base in node.bases):
        node.body = [part for part in node.body if not in_identity(part)]
    fields = {name: value for name, value in ast.iter_fields(node) if name not in ("annotation", "returns", "ctx")}
    kept = {name: essence(value) for name, value in fields.items() if value is not None and value != []}
    return [type(node).__name__, *(list(pair) for pair in kept.items() if pair[1] not in (None, []))]


def may_be_plugin(base: ast.expr) -> bool:
    """Whether a class derived from this may be a plug-in, whose fields are in the identity; a helper's are not."""
    return isinstance(base, ast.Name) and base.id not in ("Module", "NamedTuple", "Enum", "ABC", "Protocol", "object")


def in_identity(statement: ast.stmt) -> bool:
    """Whether a statement of a class body gives what a run's identity holds: a field, or the recommended protocol."""
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        constant = "ClassVar" in ast.unparse(statement.annotation)
        return not constant or statement.target.id in IN_IDENTITY
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id in IN_IDENTITY for target in statement.targets)
    return False


# ---- data -----------------------------------------------------------------------------------------------------------

_opened: list[str] | None = None  # paths opened while a dataset loads
_read: dict[str, Files] = {}  # dataset → the files that this process has read for it; some datasets keep what they read


@contextmanager
def watching(dataset: str) -> Iterator[Files]:
    """The files that are read inside to load a dataset, or were in this process before, filled in when it is left."""
    global _opened
    start_to_listen()
    files: Files = {}
    opened: list[str] = []
    _opened = opened
    try:
        yield files
    finally:
        _opened = None
    known = _read.setdefault(dataset, {})
    for path in (Path(name) for name in dict.fromkeys(opened)):
        if is_data(path):
            known[str(path.absolute())] = content_of(path)
    files.update(known)


@cache
def start_to_listen() -> None:
    """Once in a process: Python tells of every file that is opened for reading."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _opened is not None:
            file, mode, flags = arguments
            reads = "w" not in (mode or "") and not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR))
            if isinstance(file, str | bytes | os.PathLike) and reads and len(_opened) < 100_000:
                _opened.append(os.fsdecode(file))

    sys.addaudithook(hear)


@cache
def elsewhere() -> tuple[Path, ...]:
    """Folders of files that are no data of a dataset's own: Python, packages, the system, ours."""
    package = Path(__file__).resolve().parents[1]
    rooms = [package / room for room in ("bench", "methods", "datasets", "slurm")]
    python = [Path(prefix).resolve() / "lib" for prefix in (sys.prefix, sys.base_prefix)]
    packages = [Path(place).resolve() for place in sys.path if "site-packages" in place]
    return tuple(rooms + python + packages + [Path(p) for p in ("/proc", "/sys", "/dev", "/etc", "/usr/share")])


def is_data(path: Path) -> bool:
    with suppress(OSError):
        there = path.resolve()
        if there.suffix in (".py", ".pyc", ".so", ".pth") or any(there.is_relative_to(one) for one in elsewhere()):
            return False
        return there.is_file() and not prepared_part(there)
    return False


def prepared_part(path: Path) -> bool:
    """Whether a file belongs to prepared pictures, whose facts hold a checksum of it."""
    return path.name != FACTS and (path.parent / FACTS).is_file()


def content_of(path: Path) -> str:
    """Sixteen hex digits that change with a data file's content; "" if it cannot be read."""
    with suppress(OSError):
        stat = path.stat()
        return read_content(str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return ""


@lru_cache(maxsize=4096)
def read_content(file: str, mtime: int, size: int, inode: int) -> str:
    path = Path(file)
    if path.name == FACTS:  # when and where pictures were prepared is beside the point
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(path.read_bytes())["checksum"])[:16]
    digest = hashlib.sha256(f"{size} ".encode())
    with open(path, "rb") as opened:
        if size <= WHOLE:
            return hashlib.file_digest(opened, lambda: digest).hexdigest()[:16]
        digest.update(opened.read(ENDS))
        opened.seek(size - ENDS)
        digest.update(opened.read())
    return digest.hexdigest()[:16]


def differ(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names of files that two runs have both read, and that held something else."""
    return [Path(name).name for name, content in one.items() if other.get(name, content) != content]
