"""The record files of a store, read once: from its index or, if a file is not in that, from the file."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from spurbench.bench.records.parsing import Unusable, parse_record
from spurbench.bench.records.record import Record, Summary
from spurbench.bench.store import index
from spurbench.bench.store.index import Mark, Templates, mark_of

GROUP = re.compile(r"[0-9a-f]{2}")
NAME = re.compile(r"[0-9a-f]{16}\.json")  # of a record's file, in the folder of its first two digits
T = TypeVar("T")


class Folder(Protocol):
    """The store whose records these are."""

    root: Path

    def entries(self, folder: str, foreign: list[Unusable]) -> list[os.DirEntry[str]]: ...
    def read_file(self, path: str | Path, read: Callable[[bytes, str], T]) -> T | Unusable | None: ...
    def unusable(self, path: str | Path, reason: str, ours: bool = True, newer: bool = False) -> Unusable: ...


class RecordFiles:
    """What is known of record files, by their names without the ending."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Mark, Summary]] | None = None  # None: nothing has been looked at yet
        self.unusable: dict[str, tuple[Mark, Unusable]] = {}
        self.templates = Templates()

    def read(self, store: Folder) -> tuple[list[Summary], list[Unusable], dict[str, str]]:
        """All usable records in order of id, the unusable files, and by id the files that have another name."""
        usable, unusable, moved = dict[str, Summary](), list[Unusable](), dict[str, str]()
        with without_collection():
            before = index.read(store.root) if self.known is None else self.known
            self.known, new = {}, 0
            for entry in files(store, unusable):
                name = entry.name.removesuffix(".json")
                found, is_new = self.read_entry(store, entry, name, before)
                new += is_new
                if isinstance(found, Unusable):
                    unusable.append(found)
                elif found is not None and found.id == name:
                    usable[name] = found
                elif found is not None:  # of an older schema, in which it had another id
                    moved[found.id] = name
                    usable.setdefault(found.id, found)
            if index.is_worth_writing(before, self.known, new):
                index.write(store.root, self.known)
        return [usable[id] for id in sorted(usable)], unusable, moved

    def read_entry(
        self, store: Folder, entry: os.DirEntry[str], name: str, before: dict[str, tuple[Mark, Summary]]
    ) -> tuple[Summary | Unusable | None, bool]:
        """What a file holds, and whether it had to be read."""
        assert self.known is not None
        try:
            mark = mark_of(entry.stat())
        except OSError:
            mark = (0, 0, 0)
        if name in before and before[name][0] == mark:
            self.known[name] = before[name]
            return before[name][1], False
        if entry.path in self.unusable and self.unusable[entry.path][0] == mark:
            return self.unusable[entry.path][1], False
        found = store.read_file(entry.path, parse_record)
        if isinstance(found, Record):
            self.known[name] = mark, self.templates.share(found.summary)
            return self.known[name][1], True
        if isinstance(found, Unusable):
            self.unusable[entry.path] = mark, found
        return found, False


def files(store: Folder, foreign: list[Unusable]) -> Iterator[os.DirEntry[str]]:
    """The record files in order; anything else among them is added to `foreign`."""
    for group in store.entries("records", foreign):
        if not GROUP.fullmatch(group.name) or not os.path.isdir(group.path):
            foreign.append(store.unusable(group.path, "not a folder of records", ours=False))
            continue
        for entry in store.entries(f"records/{group.name}", foreign):
            if NAME.fullmatch(entry.name) and entry.name.startswith(group.name):
                yield entry
            else:
                foreign.append(store.unusable(entry.path, "its name is not a record's (a copy?)", ours=False))


@contextmanager
def without_collection() -> Iterator[None]:
    """Pause garbage collection, and exempt what is made inside from it: with many records it takes half the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()
