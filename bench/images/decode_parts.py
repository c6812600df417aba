"""Images of a listing decoded in parts, by several processes that import no torch; a part's mark says it is done.

A part's pixels are on disk before its mark is. A mark is valid while its files keep their sizes and times.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b, file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np

from spurbench.bench.core.files import write_atomically
from spurbench.bench.core.machine import cores
from spurbench.bench.core.processes import run_in_processes
from spurbench.bench.core.terminal import show_progress
from spurbench.bench.images.decode import UNREADABLE, Crop, Pixels, decode
from spurbench.bench.images.listing import Alteration, Listing, Rows
from spurbench.bench.images.tables import Integers
from spurbench.bench.prepared.hashes import split_rows

Unreadable = list[tuple[int, str]]  # row, reason
MIN_PARALLEL = 100  # images; starting processes takes longer than decoding fewer than this
Mark = dict[str, Any]  # `sha256` of the pixels, `bad`, `digests` of the images, `stamp` of their files


@dataclass(frozen=True)
class Part:
    """What one process decodes at a time: rows of one split, from files or from pixels already in memory."""

    target: str  # the array's file
    offset: int  # bytes before its pixels
    start: int  # row
    mark: str
    crop: Crop
    files: list[str] | None
    pixels: Pixels | None
    stamp: str  # sizes and times of the files
    alter: Alteration | None = None
    a: Integers | None = None  # attributes of the rows, for `alter`

    @property
    def rows(self) -> int:
        return len(self.files if self.files is not None else self.pixels if self.pixels is not None else ())


def split_parts(work: Path, name: str, rows: Rows, crop: Crop) -> list[Part]:
    """The parts of one split, with space on disk for all of its images."""
    target, shape = work / f"{name}.npy", (len(rows.ids), 3, crop.side, crop.side)
    try:
        array = np.load(target, mmap_mode="r", allow_pickle=False)
        whole = array.shape == shape
    except (OSError, ValueError):
        whole = False
    if not whole:
        for old in work.glob(f"{name}-*.json"):  # marks of an array that is gone
            old.unlink()
        array = np.lib.format.open_memmap(target, "w+", np.uint8, shape)
    return [
        Part(
            str(target), array.offset, at.start, str(work / f"{name}-{at.start:09}.json"), crop,
            None if rows.files is None else rows.files[at], None if rows.pixels is None else rows.pixels[at],
            digest("\n".join(rows.stamps[at]).encode()), rows.alter, None if rows.a is None else rows.a[at],
        )
        for at in split_rows(len(rows.ids), 3 * crop.side**2)
    ]  # fmt: skip


def digest(content: Any) -> str:
    """Identifies a content; short, since there is one per image."""
    return blake2b(content, digest_size=16).hexdigest()


def read_mark(part: Part) -> Mark | None:
    """The mark of a part; None unless it is finished and its files are unchanged."""
    try:
        found: Mark = json.loads(Path(part.mark).read_bytes())
        right = found["stamp"] == part.stamp and len(found["digests"]) == part.rows and len(found["sha256"]) == 64
        return found if right and isinstance(found["bad"], list) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def decode_all(every: list[Part], processes: int) -> None:
    """Decode the parts that have no mark yet, and show the progress."""
    todo = [part for part in every if read_mark(part) is None]
    total = sum(part.rows for part in every)
    decoded = (part.rows for part in decode_each(todo, min(processes, len(todo))))
    show_progress("preparing images", total, total - sum(part.rows for part in todo), decoded)


def decode_each(todo: list[Part], processes: int) -> Iterator[Part]:
    """Each part once it is decoded; few images, or pixels only to be copied, are done without further processes."""
    copied = all(part.files is None and part.alter is None for part in todo)
    if processes <= 1 or copied or sum(part.rows for part in todo) < MIN_PARALLEL:
        for part in todo:
            decode_part(part)
            yield part
        return
    for part, _ in run_in_processes(decode_part, todo, processes):
        yield part


def decode_part(part: Part) -> None:
    """Write the pixels of a part, then its mark; images that cannot be read become black."""
    pixels, digests, bad = decode_files(part.files, part.crop) if part.files is not None else hash_pixels(part.pixels)
    if part.alter and part.a is not None:
        pixels = part.alter(pixels, part.a, part.start)
    assert pixels.shape[1:] == (3, part.crop.side, part.crop.side)
    content = np.ascontiguousarray(pixels).data
    with open(part.target, "r+b") as file:
        file.seek(part.offset + part.start * pixels[0].nbytes)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    made = {"sha256": sha256(content).hexdigest(), "bad": [(part.start + row, why) for row, why in bad]}
    write_atomically(Path(part.mark), json.dumps(made | {"digests": digests, "stamp": part.stamp}).encode())


def decode_files(files: list[str], crop: Crop) -> tuple[Pixels, list[str], Unreadable]:
    """Pixels and digests of the files, and which of them could not be read."""
    pixels, bad = np.zeros((len(files), 3, crop.side, crop.side), np.uint8), []
    digests = [""] * len(files)
    for row, file in enumerate(files):
        try:
            with open(file, "rb") as opened:
                digests[row] = file_digest(opened, new_digest).hexdigest()
                opened.seek(0)
                pixels[row] = decode(opened, crop)
        except UNREADABLE as error:
            bad.append((row, describe_cause(error)))
    return pixels, digests, bad


def hash_pixels(pixels: Pixels | None) -> tuple[Pixels, list[str], Unreadable]:
    """Pixels that are already in memory, with the digest of each image."""
    assert pixels is not None
    return pixels, [digest(np.ascontiguousarray(one).data) for one in pixels], []


def new_digest() -> Any:
    return blake2b(digest_size=16)


def describe_cause(error: BaseException) -> str:
    """The reason in one line, without the file's path, which is printed anyway."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def digest_all(listing: Listing) -> dict[str, list[str]]:
    """The digest of every image of a listing, by split; that of an unreadable file is empty."""
    with ThreadPoolExecutor(cores()) as threads:  # which read and hash in parallel
        return {
            name: hash_pixels(rows.pixels)[1] if rows.files is None else list(threads.map(digest_file, rows.files))
            for name, rows in listing.splits.items()
        }


def digest_file(file: str) -> str:
    try:
        with open(file, "rb") as opened:
            return file_digest(opened, new_digest).hexdigest()
    except OSError:
        return ""
