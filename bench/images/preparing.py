"""Decode a listing once: in parts, by several processes; killed at any moment it goes on with what was finished.

The facts are written when every part is, and the folder gets its name last. What a killed preparation leaves goes away
with a later one if it was not taken up for WEEKS.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.files import write_atomically
from spurbench.bench.core.machine import cores
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.decoding import Mark, Part, decode_all, mark, split_parts
from spurbench.bench.images.facts import FACTS, SCHEMA, Facts
from spurbench.bench.images.finishing import facts_of, split_facts
from spurbench.bench.images.listing import Listing
from spurbench.bench.images.prepared import Prepared, root

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
