"""What code and what data made a run, identified by what can alter its numbers, and whether they changed since.

A plug-in's code counts without its comments, docstrings and annotations; without the defaults of its fields and the
protocol it recommends, since a run's identity holds those; and with the plug-ins it imports. The data count by their
checksum where the dataset has one, else by the files that were read to load them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import cache, lru_cache
from pathlib import Path

from msgspec.structs import replace

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugin_files import places
from spurbench.bench.plugins import registry
from spurbench.bench.provenance import plugin_code
from spurbench.bench.provenance.data_files import content_of
from spurbench.bench.provenance.plugin_code import code
from spurbench.bench.records.record import Record, Summary

Version = dict[str, str]
"""method, dataset, data → what made a run; "" where that is not known, or the data have no checksum.

A network and an optimizer of the user's own are included.
"""


def versions_of(record: Summary) -> Version:
    """What made a run, according to its record."""
    source = record.provenance
    kinds = dict.fromkeys(["method", "dataset", *source.code])
    made = {kind: source.code.get(kind, "") for kind in kinds}
    files = source.plugins  # of schema 1: the hash of the whole file, comments and all
    for kind in (kind for kind in made if files.get(kind) and not made[kind]):
        path = file_of_plugin(kind, record)
        now = path is not None and hash_file(str(path), path.stat().st_mtime_ns) == files[kind]
        made[kind] = code(path) if path is not None and now else f"file {str(files[kind])[:11]}"
    return made | {"data": source.data}


@lru_cache(maxsize=4096)
def hash_file(file: str, mtime: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def find_edited_files(record: Summary) -> list[str]:
    """The files that made a run and have changed since on this machine, by name; missing ones are ignored.

    They are looked up once for all runs that were made alike, until `clear_caches`.
    """
    made = record.provenance
    key = (record.method, record.dataset, made.data, str(made.code), str(made.paths), str(made.files))
    if made.plugins or key not in _edited:
        found = {name: places.find(name, old) for name, old in made.files.items() if old}
        now = {name: content_of(path) for name, path in found.items() if path}
        data = [Path(name).name for name, new in now.items() if new not in ("", made.files[name])]
        _edited[key] = find_edited_plugins(record) + data
    return _edited[key]


_edited: dict[tuple[str, ...], list[str]] = {}


def find_edited_plugins(record: Summary) -> list[str]:
    """Those of the files that are plug-ins."""
    made = code_by_kind(record)
    pairs = [(kind, file_of_plugin(kind, record)) for kind in made]
    return [path.name for kind, path in pairs if path and made[kind] and code(path) not in (made[kind], "")]


def check_unedited(record: Summary, what: str = "") -> None:
    """Errors: UserError for a run that would not come out again as recorded; `what` follows the reason."""
    if files := find_edited_files(record):
        raise UserError(
            f"run {record.id} was made before {' and '.join(files)} was edited{what}: `run --fresh` trains it again"
        )


def code_by_kind(record: Summary) -> Version:
    """The code that made a run, by kind."""
    return {kind: made for kind, made in versions_of(record).items() if kind != "data"}


def accept_record(record: Record, names: Collection[str]) -> Record | None:
    """The record, as if made by these files as they are now, after a harmless edit; None if nothing changes.

    The hashes of what did make it are kept in it, as `accepted`.
    """
    source, made = record.provenance, code_by_kind(record)
    found, before = dict(source.code), dict(source.accepted)
    changed = set(find_edited_plugins(record)) & set(names)
    for kind in made:
        path = file_of_plugin(kind, record)
        if path and path.name in changed and code(path) != made[kind]:
            before[kind], found[kind] = [*before.get(kind, ()), made[kind]], code(path)
    return record.with_(provenance=replace(source, code=found, accepted=before)) if changed else None


def file_of_plugin(kind: str, record: Summary) -> Path | None:
    """A run's plug-in as it is now: the file found by its name here, else where it was when the run was made."""
    if plugin_code.kind_of(kind) != kind:  # of a run that it started from
        name = plugin_code.makers(record.identity).get(kind)
    else:
        name = record.training.get(kind) if kind in ("network", "optimizer") else getattr(record, kind)
    made = record.provenance
    return file_by_name(kind, str(name).partition(":")[0], made.paths.get(kind), made.code.get(kind, ""))


@cache
def file_by_name(kind: str, name: str, recorded: str | None, code: str) -> Path | None:
    info = registry.plugins(plugin_code.kind_of(kind)).get(name)
    path = info.path if info is not None else places.find(recorded, code) if recorded else None
    return path if path is not None and path.is_file() else None


def clear_caches() -> None:
    """Forget where files were and what they contained, for commands that look more than once."""
    _edited.clear()
    file_by_name.cache_clear()
    plugin_code.clear_caches()
