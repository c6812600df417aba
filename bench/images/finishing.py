"""What is written of a listing once its pictures are decoded: labels, and facts about each split and about all."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from spurbench.bench.core.errors import BadData
from spurbench.bench.core.files import write_atomically
from spurbench.bench.images.decoding import Bad, Mark
from spurbench.bench.images.facts import SCHEMA, SplitFacts
from spurbench.bench.images.listing import Listing, Rows, plainly
from spurbench.bench.images.prepared import labels_hash, overall, part_hashes, parts
from spurbench.bench.images.tables import Integers


def facts_of(listing: Listing, marks: Mapping[str, list[Mark]], splits: Mapping[str, SplitFacts]) -> dict[str, Any]:
    """All facts that follow from the listing and its decoded parts."""
    digests = {name: [each for one in every for each in one["digests"]] for name, every in marks.items()}
    copies, contradicting = repeated(dict(kept_digests(listing, marks, digests)))
    return {
        "schema": SCHEMA, "layout": listing.layout, "from": plainly(str(listing.folder)),
        "listing": listing.fingerprint, "stamp": listing.stamp, "content": listing.content(digests),
        "classes": list(listing.classes), "attributes": list(listing.attributes), "splits": splits,
        "left_out": [
            [plainly(listing.splits[name].ids[row]), plainly(why)]
            for name, every in marks.items() for row, why in unreadable(every)
        ],
        "unused": len(listing.unused), "copies": copies, "contradicting": contradicting,
        "checksum": overall(splits), "prepared": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("pillow", "numpy")},
    }  # fmt: skip


def unreadable(every: list[Mark]) -> Bad:
    return [(row, why) for one in every for row, why in one["bad"]]


def kept_rows(rows: Rows, every: list[Mark]) -> Integers:
    """The rows of a split whose pictures could be read."""
    return np.setdiff1d(np.arange(len(rows.ids)), [row for row, _ in unreadable(every)])


def kept_digests(
    listing: Listing, marks: Mapping[str, list[Mark]], digests: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, tuple[list[str], list[int]]]]:
    """Digests and labels of the pictures of each split that could be read."""
    for name, rows in listing.splits.items():
        keep = kept_rows(rows, marks[name]).tolist()
        yield name, ([digests[name][row] for row in keep], rows.y[keep].tolist())


def repeated(splits: Mapping[str, tuple[list[str], list[int]]]) -> tuple[dict[str, dict[str, int]], int]:
    """How many pictures of each split are, byte for byte, in an earlier one too, and how many have several labels."""
    copies: dict[str, dict[str, int]] = {}
    earlier: dict[str, set[str]] = {}
    labels: dict[str, set[int]] = {}
    for name, (digests, y) in splits.items():
        shared = {before: sum(one in known for one in digests) for before, known in earlier.items()}
        if any(shared.values()):
            copies[name] = {before: count for before, count in shared.items() if count}
        earlier[name] = set(digests)
        for one, label in zip(digests, y, strict=True):
            labels.setdefault(one, set()).add(label)
    return copies, sum(len(labels[one]) > 1 for digests, _ in splits.values() for one in digests)


def split_facts(work: Path, name: str, listing: Listing, every: list[Mark]) -> SplitFacts:
    """Write a split's labels, and its pictures once more if some are left out; what there is to know of it."""
    rows = listing.splits[name]
    keep = kept_rows(rows, every)
    kept = Rows([rows.ids[i] for i in keep], rows.y[keep], None if rows.a is None else rows.a[keep])
    lacking = len(listing.classes) - len(set(kept.y.tolist())) if name == "train" else not len(keep)
    if lacking:
        raise BadData(f"{listing.folder}: without the pictures that cannot be read, {name} lacks a class or is empty")
    labels = {"y": kept.y, "ids": np.array(kept.ids)} | ({} if kept.a is None else {"a": kept.a})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **labels)  # type: ignore[arg-type]
    write_atomically(work / f"{name}-labels.npz", buffer.getvalue())
    pictures, hashes = work / f"{name}.npy", [one["sha256"] for one in every]
    if len(keep) < len(rows.ids):
        pictures = without(pictures, keep)
        hashes = part_hashes(np.load(pictures, mmap_mode="r", allow_pickle=False))
    return {
        "n": len(keep), "counts": kept.counts(len(listing.classes), max(1, len(listing.attributes))),
        "pictures": pictures.name, "bytes": pictures.stat().st_size, "parts": hashes,
        "labels": f"{name}-labels.npz", "labels_sha256": labels_hash(labels),
    }  # fmt: skip


def without(pictures: Path, keep: Integers) -> Path:
    """The rows of an array that are kept, in a file of their own beside it."""
    source, target = np.load(pictures, mmap_mode="r", allow_pickle=False), pictures.with_stem(f"{pictures.stem}-kept")
    copy = np.lib.format.open_memmap(target, "w+", np.uint8, (len(keep), *source.shape[1:]))
    for at in parts(len(keep), source.shape[-1]):
        copy[at] = source[keep[at]]
    copy.flush()
    return target
