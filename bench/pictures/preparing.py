"""Decode a listing once: in parts, by several processes; killed at any moment it goes on with what was finished.

A part's pixels are on disk before its mark is, the facts are written when every part is, and the folder gets its name
last. Processes that decode import no torch.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np

from spurbench.bench.errors import BadData, UserError
from spurbench.bench.files import write_atomically
from spurbench.bench.layout import cores
from spurbench.bench.pictures.decode import UNREADABLE, Bytes, Crop, decode
from spurbench.bench.pictures.listing import Listing, Rows
from spurbench.bench.pictures.prepared import (
    FACTS,
    SCHEMA,
    Facts,
    Prepared,
    labels_hash,
    overall,
    part_hashes,
    parts,
    root,
)
from spurbench.bench.processes import side_by_side

Bad = list[tuple[int, str]]  # row, reason


@dataclass(frozen=True)
class Part:
    """What one process decodes at a time: rows of one split, from files or from pixels already there."""

    target: str  # the array's file
    offset: int  # bytes before its pixels
    start: int  # row
    mark: str
    crop: Crop
    files: list[str] | None
    pixels: Bytes | None

    @property
    def rows(self) -> int:
        return len(self.files if self.files is not None else self.pixels if self.pixels is not None else ())


@dataclass(frozen=True)
class Order:
    """What is to be prepared: the dataset's name, how its versions are named by their origin, and how."""

    name: str
    naming: Callable[[str], str]
    crop: Crop
    allow_bad: bool = False
    processes: int | None = None


def prepare(listing: Listing, order: Order, origin: str) -> Prepared:
    """Prepare the pictures of a listing, or go on with it.

    Raises BadData, naming and counting them, if some cannot be decoded and that is not allowed; with them left
    out the origin ends in `-incomplete`.
    """
    work = root() / order.name / f".{order.naming(origin)}.preparing"
    work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        if complete(work, listing):
            return named(work, root() / order.name)
        begin(work, listing, order.crop)
        todo = {name: split_parts(work, name, rows, order.crop) for name, rows in listing.splits.items()}
        decode_all([part for each in todo.values() for part in each], order.processes or cores())
        bad = {name: unreadable(each) for name, each in todo.items()}
        if any(bad.values()):
            refuse_or_allow(listing, bad, todo, order.allow_bad)
            origin += "-incomplete"
        finish(work, listing, order, origin, bad, todo)
        return named(work, root() / order.name)


def complete(work: Path, listing: Listing) -> bool:
    """Whether all that is left is to give the folder its name."""
    return (work / FACTS).exists() and json.loads((work / FACTS).read_bytes())["listing"] == listing.fingerprint


def named(work: Path, home: Path) -> Prepared:
    """The folder under its own name, without what only served on the way."""
    facts = json.loads((work / FACTS).read_bytes())
    kept = {FACTS} | {part[key] for part in facts["splits"].values() for key in ("pictures", "labels")}
    for file in work.iterdir():
        if file.name not in kept:
            file.unlink()
    target = home / facts["version"]
    if target.exists():
        raise UserError(f"{target} is there already: delete it to prepare it anew")
    os.rename(work, target)
    return Prepared.open(target)


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Only one command prepares a folder at a time; the lock goes with its process, however that ends."""
    with open(work / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another command is preparing {work}: wait for it, or end it") from None
        yield


def begin(work: Path, listing: Listing, crop: Crop) -> None:
    """Forget what was prepared before from another source, with other sizes or by another Pillow."""
    plan = {"listing": listing.fingerprint, "crop": asdict(crop), "pillow": version("pillow"), "schema": SCHEMA}
    file = work / "plan.json"
    if not file.exists() or json.loads(file.read_bytes()) != plan:
        for old in [*work.glob("*.npy"), *work.glob("*.npz"), *work.glob("*.json")]:
            old.unlink()
        write_atomically(file, json.dumps(plan).encode())
    needed = sum(len(rows.ids) for rows in listing.splits.values()) * 3 * crop.side**2
    needed -= sum(old.stat().st_blocks * 512 for old in work.glob("*.npy"))
    free = shutil.disk_usage(work).free
    if needed > free:
        raise UserError(
            f"{work} needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free; SPURBENCH_DATA may name another"
        )


def split_parts(work: Path, name: str, rows: Rows, crop: Crop) -> list[Part]:
    """The parts of one split, with room for all of its pictures on disk."""
    target, shape = work / f"{name}.npy", (len(rows.ids), 3, crop.side, crop.side)
    try:
        array = np.load(target, mmap_mode="r", allow_pickle=False)
        whole = array.shape == shape
    except (OSError, ValueError):
        whole = False
    if not whole:
        array = np.lib.format.open_memmap(target, "w+", np.uint8, shape)
    return [
        Part(
            str(target), array.offset, at.start, str(work / f"{name}-{at.start:09}.json"), crop,
            None if rows.files is None else rows.files[at], None if rows.pixels is None else rows.pixels[at],
        )
        for at in parts(len(rows.ids), crop.side)
    ]  # fmt: skip


# ---- in several processes -------------------------------------------------------------------------------------------


def decode_all(every: list[Part], processes: int) -> None:
    """Decode the parts that have no mark yet, and show how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    todo = [part for part in every if not Path(part.mark).exists()]
    console, total = Console(stderr=True), sum(part.rows for part in every)
    shown = (TextColumn("preparing pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, completed=total - sum(part.rows for part in todo))
        for part in done(todo, min(processes, len(todo))):
            progress.advance(task, part.rows)


def done(todo: list[Part], processes: int) -> Iterator[Part]:
    """Each part once it is decoded; a single one, or pixels that are here already, without further processes."""
    if processes <= 1 or todo[0].files is None:
        for part in todo:
            decode_part(part)
            yield part
        return
    for part, _ in side_by_side(decode_part, todo, processes):
        yield part


def decode_part(part: Part) -> None:
    """Write the pixels of a part, then its mark: their SHA-256 and what could not be read (black in the array)."""
    pixels, bad = decoded(part.files, part.crop) if part.files is not None else (part.pixels, [])
    assert pixels is not None and pixels.shape[1:] == (3, part.crop.side, part.crop.side)
    content = np.ascontiguousarray(pixels).data
    with open(part.target, "r+b") as file:
        file.seek(part.offset + part.start * pixels[0].nbytes)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    mark = {"sha256": sha256(content).hexdigest(), "bad": [(part.start + row, why) for row, why in bad]}
    write_atomically(Path(part.mark), json.dumps(mark).encode())


def decoded(files: list[str], crop: Crop) -> tuple[Bytes, Bad]:
    """Pixels of the files, and which of them could not be read."""
    pixels, bad = np.zeros((len(files), 3, crop.side, crop.side), np.uint8), []
    for row, file in enumerate(files):
        try:
            pixels[row] = decode(file, crop)
        except UNREADABLE as error:
            bad.append((row, str(error).splitlines()[0] if str(error) else type(error).__name__))
    return pixels, bad


# ---- the end --------------------------------------------------------------------------------------------------------


def unreadable(every: list[Part]) -> Bad:
    return [(row, why) for part in every for row, why in json.loads(Path(part.mark).read_bytes())["bad"]]


def refuse_or_allow(listing: Listing, bad: dict[str, Bad], every: dict[str, list[Part]], allow: bool) -> None:
    """Raise BadData about unreadable pictures unless allowed; their parts will be decoded again."""
    if allow:
        return
    named = [f"{listing.splits[name].ids[row]} ({why})" for name, rows in bad.items() for row, why in rows]
    for name, rows in bad.items():
        for part in every[name]:
            if any(part.start <= row < part.start + part.rows for row, _ in rows):
                Path(part.mark).unlink()
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    raise BadData(
        f"{len(named)} pictures cannot be read: {', '.join(named[:3])}{more}; mend them and prepare again, "
        "or leave them out with --allow-bad"
    )


def finish(
    work: Path, listing: Listing, order: Order, origin: str, bad: dict[str, Bad], every: dict[str, list[Part]]
) -> None:
    """Write labels and facts, the facts last."""
    splits = {
        name: split_facts(work, name, rows, len(listing.classes), len(listing.attributes), bad[name], every[name])
        for name, rows in listing.splits.items()
    }
    facts = {
        "schema": SCHEMA, "name": order.name, "version": order.naming(origin), "origin": origin,
        "side": order.crop.side, "crop": asdict(order.crop), "layout": listing.layout, "from": str(listing.folder),
        "listing": listing.fingerprint,
        "classes": list(listing.classes), "attributes": list(listing.attributes), "splits": splits,
        "left_out": [[listing.splits[name].ids[row], why] for name, rows in bad.items() for row, why in rows],
        "checksum": overall(splits), "prepared": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("pillow", "numpy")},
    }  # fmt: skip
    write_atomically(work / FACTS, json.dumps(facts, indent=1).encode())


def split_facts(work: Path, name: str, rows: Rows, classes: int, attributes: int, bad: Bad, every: list[Part]) -> Facts:
    """Write a split's labels, and its pictures once more if some are left out; what there is to know of it."""
    keep = np.setdiff1d(np.arange(len(rows.ids)), [row for row, _ in bad])
    kept = Rows([rows.ids[i] for i in keep], rows.y[keep], None if rows.a is None else rows.a[keep])
    labels = {"y": kept.y, "ids": np.array(kept.ids)} | ({} if kept.a is None else {"a": kept.a})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **labels)  # type: ignore[arg-type]
    write_atomically(work / f"{name}-labels.npz", buffer.getvalue())
    pictures = work / f"{name}.npy"
    hashes = [json.loads(Path(part.mark).read_bytes())["sha256"] for part in every]
    if bad:
        pictures = without(pictures, keep)
        hashes = part_hashes(np.load(pictures, mmap_mode="r", allow_pickle=False))
    return {
        "n": len(keep), "counts": kept.counts(classes, max(1, attributes)), "pictures": pictures.name,
        "bytes": pictures.stat().st_size, "parts": hashes, "labels": f"{name}-labels.npz",
        "labels_sha256": labels_hash(labels),
    }  # fmt: skip


def without(pictures: Path, keep: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Path:
    """The rows of an array that are kept, in a file of their own beside it."""
    source, target = np.load(pictures, mmap_mode="r", allow_pickle=False), pictures.with_stem(f"{pictures.stem}-kept")
    copy = np.lib.format.open_memmap(target, "w+", np.uint8, (len(keep), *source.shape[1:]))
    for at in parts(len(keep), source.shape[-1]):
        copy[at] = source[keep[at]]
    copy.flush()
    return target
