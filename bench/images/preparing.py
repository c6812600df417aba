"""Decode a listing once, in parts and several processes; if killed at any moment, it continues from what was finished.

The facts are written after every part, and the folder gets its name last.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.files import write_atomically
from spurbench.bench.core.machine import cores
from spurbench.bench.core.terminal import plural
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.decode_parts import Mark, Part, Unreadable, decode_all, read_mark, split_parts
from spurbench.bench.images.listing import Listing, Rows, make_printable
from spurbench.bench.images.tables import Integers
from spurbench.bench.prepared.facts import FACTS, SCHEMA, ArrayFacts, Facts, SplitFacts
from spurbench.bench.prepared.folder import Labels, Prepared
from spurbench.bench.prepared.hashes import combined_checksum, labels_hash, part_hashes, row_bytes, split_rows
from spurbench.bench.prepared.workplace import (
    check_space,
    delete_abandoned,
    delete_all_but,
    locked,
    move_into_place,
    workplace,
)

MARKS_VERSION = 2  # version of the marks; work with others is not continued


@dataclass(frozen=True)
class PreparationRequest:
    """What to prepare and how: the dataset's name, and how its versions are named by origin."""

    name: str
    naming: Callable[[str], str]
    crop: Crop
    allow_bad: bool = False
    processes: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)  # of the dataset, that chose the images and labels


def prepare(listing: Listing, request: PreparationRequest, origin: str) -> Prepared:
    """Prepare the images of a listing, or continue that.

    Raises BadData, with their number and names, if some cannot be decoded and that is not allowed; if they are left
    out, the origin ends in `-incomplete`.
    """
    work = workplace(request.name, request.naming(origin))
    with locked(work):
        delete_abandoned(work)
        here = find_complete(work, listing, request, origin)
        if here is None:
            begin_work(work, listing, request.crop)
            todo = {name: split_parts(work, name, rows, request.crop) for name, rows in listing.splits.items()}
            decode_all([part for each in todo.values() for part in each], request.processes or cores())
            here = finish(work, listing, request, origin, todo)
        return move_into_place(here)


def find_complete(work: Path, listing: Listing, request: PreparationRequest, origin: str) -> Prepared | None:
    """The prepared folder, if only its name is still to be given."""
    for called in (origin, f"{origin}-incomplete") if request.allow_bad else (origin,):
        with suppress(UserError):
            here = Prepared.open(work, request.naming(called))
            if (here.facts.get("listing"), here.facts.get("stamp")) == (listing.fingerprint, listing.stamp):
                return here
    return None


def begin_work(work: Path, listing: Listing, crop: Crop) -> None:
    """Discard what was prepared before from another source, with other sizes or by another Pillow."""
    plan = {"listing": listing.fingerprint, "crop": asdict(crop), "pillow": version("pillow"), "schema": SCHEMA}
    plan |= {"marks": MARKS_VERSION}
    file = work / "plan.json"
    try:
        same = json.loads(file.read_bytes()) == plan
    except (OSError, ValueError):
        same = False
    if not same:
        delete_all_but(work, {"lock"})
        write_atomically(file, json.dumps(plan).encode())
    check_space(work, sum(len(rows.ids) for rows in listing.splits.values()) * 3 * crop.side**2)


# ---- the end --------------------------------------------------------------------------------------------------------


def finish(
    work: Path, listing: Listing, request: PreparationRequest, origin: str, todo: Mapping[str, list[Part]]
) -> Prepared:
    """Write labels and facts, the facts last."""
    marks = {name: [require_mark(part) for part in every] for name, every in todo.items()}
    if any(one["bad"] for every in marks.values() for one in every):
        check_unreadable(listing, marks, todo, request.allow_bad)
        origin += "-incomplete"
    splits = {name: split_facts(work, name, listing, marks[name]) for name in listing.splits}
    facts: Facts = collect_facts(listing, marks, splits) | {  # type: ignore[assignment]
        "name": request.name, "version": request.naming(origin), "origin": origin, "options": dict(request.options),
        "side": request.crop.side, "crop": asdict(request.crop),
        "examples": f"images of {request.crop.side} × {request.crop.side}",
    }  # fmt: skip
    write_atomically(work / FACTS, json.dumps(facts, indent=1).encode())
    return Prepared.open(work, facts["version"])


def require_mark(part: Part) -> Mark:
    """The mark of a decoded part; raises UserError if its files were deleted or changed in the meantime."""
    found = read_mark(part)
    if found is None:
        raise UserError(f"{part.mark} is gone: something else is writing there; run the same command again")
    return found


def check_unreadable(
    listing: Listing, marks: Mapping[str, list[Mark]], todo: Mapping[str, list[Part]], allow: bool
) -> None:
    """Raise BadData about unreadable images unless they are allowed; their parts will be decoded again."""
    if allow:
        return
    said = []
    for name, every in marks.items():
        for part, one in zip(todo[name], every, strict=True):
            said += [f"{listing.splits[name].ids[row]} ({why})" for row, why in one["bad"]]
            if one["bad"]:
                Path(part.mark).unlink()
    more = f" and {len(said) - 3} more" if len(said) > 3 else ""
    raise BadData(
        f"{plural(len(said), 'image')} cannot be read: {', '.join(said[:3])}{more}; repair them and prepare again, "
        "or leave them out with --allow-bad"
    )


def collect_facts(
    listing: Listing, marks: Mapping[str, list[Mark]], splits: Mapping[str, SplitFacts]
) -> dict[str, Any]:
    """All facts that follow from the listing and its decoded parts."""
    digests = {name: [each for one in every for each in one["digests"]] for name, every in marks.items()}
    copies, contradicting = count_repeated(dict(kept_digests(listing, marks, digests)))
    return {
        "schema": SCHEMA, "layout": listing.layout, "from": make_printable(str(listing.folder)),
        "listing": listing.fingerprint, "stamp": listing.stamp, "content": listing.content(digests),
        "classes": list(listing.classes), "attributes": attributes_of(listing), "splits": splits,
        "left_out": [
            [make_printable(listing.splits[name].ids[row]), make_printable(why)]
            for name, every in marks.items() for row, why in list_unreadable(every)
        ],
        "unused": len(listing.unused), "copies": copies, "contradicting": contradicting,
        "checksum": combined_checksum(splits, {}), "prepared": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("pillow", "numpy")},
    }  # fmt: skip


def attributes_of(listing: Listing) -> dict[str, list[str]]:
    """The names of the attribute's values, by its name; empty if there is none."""
    return {"a": list(listing.attributes)} if listing.attributes else {}


def list_unreadable(every: list[Mark]) -> Unreadable:
    return [(row, why) for one in every for row, why in one["bad"]]


def kept_rows(rows: Rows, every: list[Mark]) -> Integers:
    """The rows of a split whose images could be read."""
    return np.setdiff1d(np.arange(len(rows.ids)), [row for row, _ in list_unreadable(every)])


def kept_digests(
    listing: Listing, marks: Mapping[str, list[Mark]], digests: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, tuple[list[str], list[int]]]]:
    """Digests and labels of the images of each split that could be read."""
    for name, rows in listing.splits.items():
        keep = kept_rows(rows, marks[name]).tolist()
        yield name, ([digests[name][row] for row in keep], rows.y[keep].tolist())


def count_repeated(splits: Mapping[str, tuple[list[str], list[int]]]) -> tuple[dict[str, dict[str, int]], int]:
    """How many images of each split also occur, byte for byte, in an earlier one, and how many have several labels."""
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
    """Write a split's labels, and its images again if some are left out; returns the facts about it."""
    rows = listing.splits[name]
    keep = kept_rows(rows, every)
    kept = Rows([rows.ids[i] for i in keep], rows.y[keep], None if rows.a is None else rows.a[keep])
    lacking = len(listing.classes) - len(set(kept.y.tolist())) if name == "train" else not len(keep)
    if lacking:
        raise BadData(f"{listing.folder}: without the images that cannot be read, {name} lacks a class or is empty")
    attributes = attributes_of(listing)
    labels = Labels(kept.y, np.array(kept.ids), {} if kept.a is None else dict.fromkeys(attributes, kept.a))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **labels.stored())  # type: ignore[arg-type]
    write_atomically(work / f"{name}-labels.npz", buffer.getvalue())
    images, hashes = work / f"{name}.npy", [one["sha256"] for one in every]
    if len(keep) < len(rows.ids):
        images = write_kept_rows(images, keep)
        hashes = part_hashes(np.load(images, mmap_mode="r", allow_pickle=False))
    shape = list(np.load(images, mmap_mode="r", allow_pickle=False).shape[1:])
    x: ArrayFacts = {
        "file": images.name, "bytes": images.stat().st_size, "shape": shape, "dtype": "uint8", "parts": hashes
    }  # fmt: skip
    return {
        "n": len(keep), "counts": labels.counts(len(listing.classes), attributes), "arrays": {"x": x},
        "labels": f"{name}-labels.npz", "labels_sha256": labels_hash(labels.stored()),
    }  # fmt: skip


def write_kept_rows(images: Path, keep: Integers) -> Path:
    """Write the kept rows of an array to a file of their own beside it."""
    source, target = np.load(images, mmap_mode="r", allow_pickle=False), images.with_stem(f"{images.stem}-kept")
    copy = np.lib.format.open_memmap(target, "w+", np.uint8, (len(keep), *source.shape[1:]))
    for at in split_rows(len(keep), row_bytes(source)):
        copy[at] = source[keep[at]]
    copy.flush()
    return target
