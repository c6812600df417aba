"""Rows written as prepared splits: arrays, labels and facts, in a folder that appears once it is complete."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from spurbench.bench.core.errors import BadData
from spurbench.bench.core.files import write_atomically
from spurbench.bench.core.terminal import plural
from spurbench.bench.prepared.facts import FACTS, SCHEMA, ArrayFacts, Facts, SplitFacts
from spurbench.bench.prepared.folder import Labels, Prepared
from spurbench.bench.prepared.hashes import combined_checksum, hash_rows, labels_hash, part_hashes
from spurbench.bench.prepared.workplace import (
    check_space,
    delete_abandoned,
    delete_all_but,
    locked,
    move_into_place,
    workplace,
)
from spurbench.bench.tabular.codes import SPLITS, Codes, Integers

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK_BYTES = 32 << 20  # of the arrays of rows made at a time


@dataclass
class Rows:
    """Examples that are rows: what is known of them, and what makes their arrays."""

    file: Path
    label: Codes
    attributes: Mapping[str, Codes]
    split: Integers  # [n], places in `splits`
    shapes: Mapping[str, tuple[tuple[int, ...], str]]  # array → shape and dtype of an example
    make: Callable[[Integers], Mapping[str, Array]]  # row numbers [b] → arrays [b, ...]
    examples: str  # what they are: "rows of 104 numbers"
    layout: str = ""
    columns: list[str] = field(default_factory=list)  # what each number of an example is
    notes: list[str] = field(default_factory=list)
    subsets: Mapping[str, Array] = field(default_factory=dict)  # name → [n] bool
    shared: Mapping[str, Array] = field(default_factory=dict)  # arrays of no split, by name
    files: list[Path] = field(default_factory=list)  # all that were read, the first of them `file`
    splits: Sequence[str] = tuple(SPLITS)


def prepare_rows(name: str, called: str, rows: Rows, options: Mapping[str, str], keep_duplicates: bool) -> Prepared:
    """Write rows as the version `called` of a dataset. Nothing of it is left if that fails.

    Raises BadData for rows that are in several splits, unless these are kept.
    """
    work = workplace(name, called)
    with locked(work), deleted_on_failure(work):
        delete_abandoned(work)
        delete_all_but(work, {"lock"})
        each = sum(prod(shape) * np.dtype(kind).itemsize for shape, kind in rows.shapes.values())
        check_space(work, each * len(rows.split))
        splits, prints = {}, {}
        for place, split in enumerate(rows.splits):
            chosen = np.flatnonzero(rows.split == place)
            if len(chosen):
                prints[split] = (chosen, write_arrays(work, split, rows, chosen))
                splits[split] = split_facts(work, split, rows, chosen)
        copies = find_copies(rows.file, prints, None if keep_duplicates else f"--set {name}.duplicates=keep")
        shared = {each: write_shared(work / array_file("shared", each), array) for each, array in rows.shared.items()}
        facts = collect_facts(name, called, rows, options, splits, shared)
        facts["copies"] = copies
        write_atomically(work / FACTS, json.dumps(facts, indent=1).encode())
        return move_into_place(Prepared.open(work, called))


@contextmanager
def deleted_on_failure(work: Path) -> Iterator[None]:
    """The folder is deleted if what is done inside fails: it takes no longer to do it all again."""
    try:
        yield
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def write_arrays(work: Path, split: str, rows: Rows, chosen: Integers) -> Array:
    """Write the arrays of a split, and return a hash [n] of each of its examples."""
    targets = {
        name: np.lib.format.open_memmap(work / array_file(split, name), "w+", np.dtype(kind), (len(chosen), *shape))
        for name, (shape, kind) in rows.shapes.items()
    }
    each = max(1, sum(target[:1].nbytes for target in targets.values()))
    size = max(1, CHUNK_BYTES // each)
    prints = np.zeros(len(chosen), np.uint64)
    for at in (slice(start, start + size) for start in range(0, len(chosen), size)):
        for name, values in rows.make(chosen[at]).items():
            targets[name][at] = values
            prints[at] = hash_rows(targets[name][at], prints[at])
    for target in targets.values():
        target.flush()
    return prints


def array_file(split: str, name: str) -> str:
    return f"{split}-{name}.npy"


def find_copies(
    file: Path, prints: Mapping[str, tuple[Integers, Array]], otherwise: str | None
) -> dict[str, dict[str, int]]:
    """How many examples of each split are also in an earlier one.

    Raises BadData for any, with what keeps them, unless that is None.
    """
    copies: dict[str, dict[str, int]] = {}
    earlier: dict[str, tuple[Integers, Array]] = {}
    for split, (rows, own) in prints.items():
        for before, (others, known) in earlier.items():
            same = np.isin(own, known)
            if same.any() and otherwise:
                at = int(np.argmax(same))
                other = int(others[np.argmax(known == own[at])])
                raise BadData(
                    f"{file}: {plural(int(same.sum()), 'row')} of {split} also in {before}, the first is row "
                    f"{rows[at] + 1:,}, whose inputs are those of row {other + 1:,}: delete them, or keep them with "
                    f"{otherwise}"
                )
            if same.any():
                copies.setdefault(split, {})[before] = int(same.sum())
        earlier[split] = rows, own
    return copies


def split_facts(work: Path, split: str, rows: Rows, chosen: Integers) -> SplitFacts:
    """Write the labels of a split; the facts about it."""
    attributes = {name: codes.of_row[chosen] for name, codes in rows.attributes.items()}
    subsets = {name: member[chosen] for name, member in rows.subsets.items()}
    labels = Labels(rows.label.of_row[chosen], chosen + 1, attributes, subsets)
    buffer = io.BytesIO()
    np.savez(buffer, **labels.stored())  # type: ignore[arg-type]
    write_atomically(work / f"{split}-labels.npz", buffer.getvalue())
    names = {name: codes.names for name, codes in rows.attributes.items()}
    arrays = {name: array_facts(work / array_file(split, name)) for name in rows.shapes}
    return {
        "n": len(chosen), "counts": labels.counts(len(rows.label.names), names), "arrays": arrays,
        "labels": f"{split}-labels.npz", "labels_sha256": labels_hash(labels.stored()),
    }  # fmt: skip


def write_shared(file: Path, array: Array) -> ArrayFacts:
    np.save(file, array)
    facts = array_facts(file)
    facts["shape"] = list(array.shape)
    return facts


def array_facts(file: Path) -> ArrayFacts:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    kind: Any = str(array.dtype)
    size, parts = file.stat().st_size, part_hashes(array)
    return {"file": file.name, "bytes": size, "shape": list(array.shape[1:]), "dtype": kind, "parts": parts}


def collect_facts(
    name: str, called: str, rows: Rows, options: Mapping[str, str], splits: Mapping[str, SplitFacts],
    shared: Mapping[str, ArrayFacts],
) -> Facts:  # fmt: skip
    return {
        "schema": SCHEMA, "name": name, "version": called, "examples": rows.examples,
        "options": {key: printable(value) for key, value in options.items()},
        "layout": rows.layout or f"{rows.file.suffix[1:]} file", "from": printable(str(rows.file)),
        "content": content_of(*rows.files), "classes": [*map(printable, rows.label.names)],
        "attributes": {printable(key): [*map(printable, codes.names)] for key, codes in rows.attributes.items()},
        "subsets": list(rows.subsets), "columns": [*map(printable, rows.columns)],
        "splits": dict(splits), "shared": dict(shared), "notes": rows.notes,
        "checksum": combined_checksum(splits, shared),
        "prepared": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {each: version(each) for each in ("numpy", "pyarrow", "scikit-learn")},
    }  # fmt: skip


def printable(text: str) -> str:
    """A name as facts can hold it."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "?", text)[:500]


def content_of(*files: Path) -> str:
    """SHA-256 of files one after another."""
    found = sha256()
    for file in files:
        with open(file, "rb") as opened:
            file_digest(opened, lambda: found)
    return found.hexdigest()
