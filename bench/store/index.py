"""The index of a store: what its record files say, in one file that is read in a second instead of 100,000 files.

A record's file is the record; the index is made from the files, and remade by whoever finds many new ones. A file is
recognised by its inode, time and size. A file that is not an index of this version is replaced.

msgspec, because it decodes typed objects from MessagePack at the speed of C, and checks their types on the way; a
database would need locks, which shared file systems do not keep.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from spurbench.bench.core.files import write_atomically
from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.records.record import SCHEMA, Cause, Cost, Counts, Look, Number, Provenance, Summary

NAME = "index.msgpack"
LAYOUT = fingerprint([1, SCHEMA, Summary.__struct_fields__])
NO_COUNTS = Counts(n=[], correct=[], loss_sum=0, entropy_sum=0)
NO_COST = Cost(seconds=0, peak_memory_mb=0, replicas=1, threads=1)
Mark = tuple[int, int, int]
"""What changes when a file does: inode, time of its last change in nanoseconds, size."""


class Row(Struct, array_like=True, gc=False):
    """What is particular to a record; the rest is in its template."""

    name: str  # of its file, without the ending
    mark: Mark
    template: int
    id: str
    seed: int
    done: bool
    cause: Cause | None
    splits: list[tuple[list[Number], list[Number], Number, Number]]  # in the order of the template's
    measures: dict[str, dict[str, Number]]
    looks: list[Look]
    predictions: str | None
    cost: tuple[Number, Number, int, int, Number | None, bool | None, int | None]
    started: str
    finished: str


class Content(Struct, array_like=True):
    """The content of the file."""

    layout: str
    templates: list[Summary]
    rows: list[Row]


class Templates:
    """What many records have in common, kept once, which saves two thirds of the memory."""

    def __init__(self) -> None:
        self.found: dict[bytes, int] = {}
        self.each: list[Summary] = []

    def place(self, one: Summary) -> int:
        """The number of a record's template, which is added if it is new."""
        bare = replace(
            one, id="0" * 16, seed=0, status="done", cause=None, splits=dict.fromkeys(one.splits, NO_COUNTS),
            measures={},
            looks=[], predictions=None, cost=NO_COST, provenance=replace(one.provenance, started="", finished=""),
        )  # fmt: skip
        key = msgspec.msgpack.encode(bare)
        if key not in self.found:
            self.found[key] = len(self.each)
            self.each.append(bare)
        return self.found[key]

    def share(self, one: Summary) -> Summary:
        """The same record, sharing its common parts with its template."""
        bare = self.each[self.place(one)]
        return replace(
            bare, id=one.id, seed=one.seed, status=one.status, cause=one.cause, splits=one.splits,
            measures=one.measures,
            looks=one.looks, predictions=one.predictions, cost=one.cost,
            provenance=replace(bare.provenance, started=one.provenance.started, finished=one.provenance.finished),
        )  # fmt: skip


def write(folder: Path, found: Mapping[str, tuple[Mark, Summary]]) -> None:
    """Write an index of these records, by file name, into a folder, unless nothing can be written there."""
    templates = Templates()
    rows = [row_of(name, mark, one, templates) for name, (mark, one) in found.items()]
    body = msgspec.msgpack.encode(Content(LAYOUT, templates.each, rows))
    with suppress(OSError):
        write_atomically(folder / NAME, hashlib.sha256(body).digest() + body)


def row_of(name: str, mark: Mark, one: Summary, templates: Templates) -> Row:
    cost, source = one.cost, one.provenance
    return Row(
        name, mark, templates.place(one), one.id, one.seed, one.done, one.cause,
        [(counts.n, counts.correct, counts.loss_sum, counts.entropy_sum) for counts in one.splits.values()],
        one.measures, one.looks, one.predictions,
        (cost.seconds, cost.peak_memory_mb, cost.replicas, cost.threads, cost.seconds_per_step, cost.compiled,
         cost.resumed),
        source.started, source.finished,
    )  # fmt: skip


def read(folder: Path) -> dict[str, tuple[Mark, Summary]]:
    """The records in a folder's index, by file name; none if there is no usable index."""
    try:
        text = (folder / NAME).read_bytes()
        if hashlib.sha256(memoryview(text)[32:]).digest() != text[:32]:
            return {}
        content = msgspec.msgpack.decode(memoryview(text)[32:], type=Content)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return {}
    if content.layout != LAYOUT:
        return {}
    return {row.name: (row.mark, summary_of(row, content.templates[row.template])) for row in content.rows}


def summary_of(row: Row, template: Summary) -> Summary:
    splits = {
        split: Counts(n=n, correct=correct, loss_sum=loss, entropy_sum=entropy)
        for split, (n, correct, loss, entropy) in zip(template.splits, row.splits, strict=True)
    }
    provenance: Provenance = replace(template.provenance, started=row.started, finished=row.finished)
    return replace(
        template, id=row.id, seed=row.seed, status="done" if row.done else "failed", cause=row.cause, splits=splits,
        measures=row.measures, looks=row.looks, predictions=row.predictions, cost=Cost(*row.cost),
        provenance=provenance,
    )  # fmt: skip


def mark_of(stat: os.stat_result) -> Mark:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def is_worth_writing(known: Iterable[str], now: Iterable[str], new: int) -> bool:
    """Whether to remake an index of the `known` files, if `new` of the files there are `now` are not in it."""
    there = len(set(now))
    return new > max(200, there // 20) or (new == 0 and len(set(known)) > 2 * there + 200)
