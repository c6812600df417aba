"""Decode a listing once: in parts, by several processes; killed at any moment it goes on with what was finished.

The facts are written when every part is, and the folder gets its name last. What a killed preparation leaves goes away
with a later one if it was not taken up for WEEKS.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.files import write_atomically
from spurbench.bench.core.machine import cores
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.decoding import Bad, Mark, Part, decode_all, mark, split_parts
from spurbench.bench.images.facts import FACTS, SCHEMA, Facts, SplitFacts
from spurbench.bench.images.listing import Listing, Rows, plainly
from spurbench.bench.images.prepared import Prepared, labels_hash, overall, part_hashes, parts, root
from spurbench.bench.images.tables import Integers

WEEKS = 2
MARKS = 2  # the form of the marks; others are not gone on with


@dataclass(frozen=True)
class Order:
    """What is to be prepared: the dataset's name, how its versions are named by their origin, and how."""

    name: str
    naming: Callable[[str], str]
    crop: Crop
    allow_bad: bool = False
    processes: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)  # of the dataset, that chose the pictures and labels


def prepare(listing: Listing, order: Order, origin: str) -> Prepared:
    """Prepare the pictures of a listing, or go on with it.

    Raises BadData, naming and counting them, if some cannot be decoded and that is not allowed; with them left
    out the origin ends in `-incomplete`.
    """
    work = root() / order.name / f".{order.naming(origin)}.preparing"
    with locked(work):
        sweep(work)
        here = complete(work, listing, order, origin)
        if here is None:
            begin(work, listing, order.crop)
            todo = {name: split_parts(work, name, rows, order.crop) for name, rows in listing.splits.items()}
            decode_all([part for each in todo.values() for part in each], order.processes or cores())
            here = finish(work, listing, order, origin, todo)
        return named(here)


def complete(work: Path, listing: Listing, order: Order, origin: str) -> Prepared | None:
    """The prepared folder if all that is left is to give it its name."""
    for called in (origin, f"{origin}-incomplete") if order.allow_bad else (origin,):
        with suppress(UserError):
            here = Prepared.open(work, order.naming(called))
            if (here.facts.get("listing"), here.facts.get("stamp")) == (listing.fingerprint, listing.stamp):
                return here
    return None


def named(here: Prepared) -> Prepared:
    """The folder under its own name, without what only served on the way."""
    kept = {FACTS} | {file for part in here.facts["splits"].values() for file in (part["pictures"], part["labels"])}
    target = here.folder.parent / here.facts["version"]
    if os.path.lexists(target):
        raise UserError(f"{target} is there already: delete it to prepare it anew")
    clear(here.folder, kept)
    os.rename(here.folder, target)
    return Prepared.open(target)


def begin(work: Path, listing: Listing, crop: Crop) -> None:
    """Forget what was prepared before from another source, with other sizes or by another Pillow."""
    plan = {"listing": listing.fingerprint, "crop": asdict(crop), "pillow": version("pillow"), "schema": SCHEMA}
    plan |= {"marks": MARKS}
    file = work / "plan.json"
    try:
        same = json.loads(file.read_bytes()) == plan
    except (OSError, ValueError):
        same = False
    if not same:
        clear(work, {"lock"})
        write_atomically(file, json.dumps(plan).encode())
    needed = sum(len(rows.ids) for rows in listing.splits.values()) * 3 * crop.side**2
    needed -= sum(old.stat().st_blocks * 512 for old in work.glob("*.npy"))
    free = shutil.disk_usage(work).free
    if needed > free:
        raise UserError(
            f"{work} needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free; SPURBENCH_DATA may name another"
        )


def clear(work: Path, kept: set[str]) -> None:
    """Delete all that is in a folder but what is kept."""
    for entry in work.iterdir():
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


# ---- who is at work -------------------------------------------------------------------------------------------------


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Only one command prepares a folder at a time; the lock goes with its process, however that ends."""
    work.mkdir(parents=True, exist_ok=True)
    lock = work / "lock"
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):  # the latter: it has just finished, and its lock is gone
            raise UserError(f"another command is preparing {work}: wait for it, or end it") from None
        yield


def sweep(work: Path) -> None:
    """Delete what killed preparations and downloads have left, unless somebody is at it or was in the last weeks."""
    lock = work / "lock"
    os.utime(lock)
    now = lock.stat().st_mtime  # by the clock of the file system, as all these times are
    for left in half_made():
        with suppress(OSError, UserError):
            if left != work and now - last_written(left) > WEEKS * 7 * 86400:
                with locked(left):
                    shutil.rmtree(left)
                print(f"deleted {left}, which was not gone on with for {WEEKS} weeks", file=sys.stderr)


def half_made(name: str = "*") -> list[Path]:
    """The folders of preparations and downloads of a dataset that are under way, or were killed."""
    return sorted([*root().glob(f"{name}/.*.preparing/"), *root().glob(f"downloads/.{name}.downloading/")])


def last_written(folder: Path) -> float:
    return max(entry.stat().st_mtime for entry in (folder, *folder.rglob("*")))


# ---- the end --------------------------------------------------------------------------------------------------------


def finish(work: Path, listing: Listing, order: Order, origin: str, todo: Mapping[str, list[Part]]) -> Prepared:
    """Write labels and facts, the facts last."""
    marks = {name: [marked(part) for part in every] for name, every in todo.items()}
    if any(one["bad"] for every in marks.values() for one in every):
        refuse_or_allow(listing, marks, todo, order.allow_bad)
        origin += "-incomplete"
    splits = {name: split_facts(work, name, listing, marks[name]) for name in listing.splits}
    facts: Facts = facts_of(listing, marks, splits) | {  # type: ignore[assignment]
        "name": order.name, "version": order.naming(origin), "origin": origin, "options": dict(order.options),
        "side": order.crop.side, "crop": asdict(order.crop),
    }  # fmt: skip
    write_atomically(work / FACTS, json.dumps(facts, indent=1).encode())
    return Prepared.open(work, facts["version"])


def marked(part: Part) -> Mark:
    """The mark of a part that was decoded; raises UserError if its files were deleted or changed meanwhile."""
    found = mark(part)
    if found is None:
        raise UserError(f"{part.mark} is gone: something else writes there; run the same command again")
    return found


def refuse_or_allow(
    listing: Listing, marks: Mapping[str, list[Mark]], todo: Mapping[str, list[Part]], allow: bool
) -> None:
    """Raise BadData about unreadable pictures unless allowed; their parts will be decoded again."""
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
        f"{len(said)} pictures cannot be read: {', '.join(said[:3])}{more}; mend them and prepare again, "
        "or leave them out with --allow-bad"
    )


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
