"""What code and what data made a run, told by what can alter its numbers, and whether they have changed since.

A plug-in's code counts without its comments, docstrings and annotations; without the defaults of its fields and the
protocol it recommends, since a run's identity holds those; and with the plug-ins it imports. The data count by their
checksum where the dataset has one, else by the files that were read to load them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from spurbench.bench.plugins import registry
from spurbench.bench.provenance.data_files import content_of
from spurbench.bench.provenance.plugin_code import code
from spurbench.bench.records.record import Record

Version = dict[str, str]
"""method, dataset, data → what made a run; "" where that is not known, or the data have no checksum.

A network and an optimizer of a user's own are among them.
"""


def of(record: Record) -> Version:
    """What made a run, as its record tells."""
    source = record["provenance"]
    code_of = source.get("code") or {}
    kinds = ["method", "dataset", *(kind for kind in ("network", "optimizer") if kind in code_of)]
    made = {kind: str(code_of.get(kind) or "") for kind in kinds}
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
    """Of those, the plug-ins."""
    made = code_by_kind(record)
    pairs = [(kind, file_of_plugin(kind, record)) for kind in made]
    return [path.name for kind, path in pairs if path and made[kind] and code(path) not in (made[kind], "")]


def code_by_kind(record: Record) -> Version:
    """What made a run, without the data."""
    return {kind: made for kind, made in of(record).items() if kind != "data"}


def accepted(record: Record, names: Collection[str]) -> Record | None:
    """The record as made by these files as they are now, after an edit that alters no result; None if it was anyway.

    What did make it is kept in it, as `accepted`.
    """
    source, made = record["provenance"], code_by_kind(record)
    found, before = dict(source.get("code") or {}), dict(source.get("accepted") or {})
    changed = set(edited_plugins(record)) & set(names)
    for kind in made:
        path = file_of_plugin(kind, record)
        if path and path.name in changed and code(path) != made[kind]:
            before[kind], found[kind] = [*before.get(kind, ()), made[kind]], code(path)
    return record | {"provenance": source | {"code": found, "accepted": before}} if changed else None


def file_of_plugin(kind: str, record: Record) -> Path | None:
    """A run's plug-in as it is now: the file known by its name here, else the one it had, if that is still there."""
    name = record["training"].get(kind) if kind in ("network", "optimizer") else record[kind]
    info = registry.plugins(kind).get(str(name).partition(":")[0])
    recorded = (record["provenance"].get("paths") or {}).get(kind)
    path = info.path if info is not None else Path(recorded) if recorded else None
    return path if path is not None and path.is_file() else None
