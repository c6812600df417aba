"""Pictures of a listing decoded in parts, by several processes that import no torch; a part's mark says it is done.

A part's pixels are on disk before its mark is. A mark counts as long as its files have the size and time that they had.
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
from spurbench.bench.images.decode import UNREADABLE, Bytes, Crop, decode
from spurbench.bench.images.listing import Listing, Rows
from spurbench.bench.images.prepared import parts

Bad = list[tuple[int, str]]  # row, reason
FEW = 100  # pictures; processes take longer to begin than these to be decoded
Mark = dict[str, Any]  # `sha256` of the pixels, `bad`, `digests` of the pictures, `stamp` of their files


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
    stamp: str  # sizes and times of the files

    @property
    def rows(self) -> int:
        return len(self.files if self.files is not None else self.pixels if self.pixels is not None else ())


def split_parts(work: Path, name: str, rows: Rows, crop: Crop) -> list[Part]:
    """The parts of one split, with room for all of its pictures on disk."""
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
            digest("\n".join(rows.stamps[at]).encode()),
        )
        for at in parts(len(rows.ids), crop.side)
    ]  # fmt: skip


def digest(content: Any) -> str:
    """Tells contents apart; short, since there are as many as pictures."""
    return blake2b(content, digest_size=16).hexdigest()


def mark(part: Part) -> Mark | None:
    """The mark of a part; None unless it is finished, with the files as they are."""
    try:
        found: Mark = json.loads(Path(part.mark).read_bytes())
        right = found["stamp"] == part.stamp and len(found["digests"]) == part.rows and len(found["sha256"]) == 64
        return found if right and isinstance(found["bad"], list) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def decode_all(every: list[Part], processes: int) -> None:
    """Decode the parts that have no mark yet, and show how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    todo = [part for part in every if mark(part) is None]
    console, total = Console(stderr=True), sum(part.rows for part in every)
    shown = (TextColumn("preparing pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, completed=total - sum(part.rows for part in todo))
        for part in done(todo, min(processes, len(todo))):
            progress.advance(task, part.rows)


def done(todo: list[Part], processes: int) -> Iterator[Part]:
    """Each part once it is decoded; few pictures, or pixels that are here already, without further processes."""
    if processes <= 1 or todo[0].files is None or sum(part.rows for part in todo) < FEW:
        for part in todo:
            decode_part(part)
            yield part
        return
    for part, _ in run_in_processes(decode_part, todo, processes):
        yield part


def decode_part(part: Part) -> None:
    """Write the pixels of a part, then its mark; what could not be read is black."""
    pixels, digests, bad = decoded(part.files, part.crop) if part.files is not None else given(part.pixels)
    assert pixels.shape[1:] == (3, part.crop.side, part.crop.side)
    content = np.ascontiguousarray(pixels).data
    with open(part.target, "r+b") as file:
        file.seek(part.offset + part.start * pixels[0].nbytes)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    made = {"sha256": sha256(content).hexdigest(), "bad": [(part.start + row, why) for row, why in bad]}
    write_atomically(Path(part.mark), json.dumps(made | {"digests": digests, "stamp": part.stamp}).encode())


def decoded(files: list[str], crop: Crop) -> tuple[Bytes, list[str], Bad]:
    """Pixels and digests of the files, and which of them could not be read."""
    pixels, bad = np.zeros((len(files), 3, crop.side, crop.side), np.uint8), []
    digests = [""] * len(files)
    for row, file in enumerate(files):
        try:
            with open(file, "rb") as opened:
                digests[row] = file_digest(opened, short).hexdigest()
                opened.seek(0)
                pixels[row] = decode(opened, crop)
        except UNREADABLE as error:
            bad.append((row, why(error)))
    return pixels, digests, bad


def given(pixels: Bytes | None) -> tuple[Bytes, list[str], Bad]:
    """Pixels that are here already, with the digest of each picture."""
    assert pixels is not None
    return pixels, [digest(np.ascontiguousarray(one).data) for one in pixels], []


def short() -> Any:
    return blake2b(digest_size=16)


def why(error: BaseException) -> str:
    """The reason in a line, without the file's path, which is said anyway."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def digests(listing: Listing) -> dict[str, list[str]]:
    """The digest of every picture of a listing, by split; that of a file that cannot be read is empty."""
    with ThreadPoolExecutor(cores()) as threads:  # which read and hash without holding each other up
        return {
            name: given(rows.pixels)[1] if rows.files is None else list(threads.map(digest_of, rows.files))
            for name, rows in listing.splits.items()
        }


def digest_of(file: str) -> str:
    try:
        with open(file, "rb") as opened:
            return file_digest(opened, short).hexdigest()
    except OSError:
        return ""
