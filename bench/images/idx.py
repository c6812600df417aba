"""MNIST's idx files, as they were published or as torchvision keeps them."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from spurbench.bench.core.errors import BadData
from spurbench.bench.images.decode import Pixels
from spurbench.bench.images.listing import first, other_than
from spurbench.bench.images.tables import Integers

MOST_BYTES = 1 << 30
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
PARTS = {"train": "train", "test": "t10k"}
SUBFOLDERS = ("", "MNIST/raw", "raw", "mnist")


def read_idx(folder: Path, name: str) -> bytes | None:
    """The content of an idx file, gzipped or not; None if there is none."""
    file = first(folder / home / (name + end) for home in SUBFOLDERS for end in ("", ".gz"))
    if file is None:
        return None
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"{file} is incomplete ({error}): download it again") from None
    if len(content) > MOST_BYTES:
        raise BadData(f"{file} holds more than {MOST_BYTES:,} bytes; the published ones have at most 47,040,016")
    return content


def read_splits(folder: Path) -> tuple[dict[str, tuple[Pixels, Integers]], list[str]] | None:
    """Images [n, 28, 28] and digits [n] of each split, and which files are not the published ones; None without any."""
    splits, doubts = {}, []
    for split, part in PARTS.items():
        found = labelled(folder, part)
        if found is None:
            return None
        pixels, y, changed = found
        splits[split] = pixels, y
        doubts += changed
    return splits, doubts


def labelled(folder: Path, part: str) -> tuple[Pixels, Integers, list[str]] | None:
    """Images [n, 28, 28] and digits [n] of `train` or `t10k`, and which files are not the published ones."""
    names = {"images": f"{part}-images-idx3-ubyte", "labels": f"{part}-labels-idx1-ubyte"}
    content = {kind: read_idx(folder, name) for kind, name in names.items()}
    images, labels = content["images"], content["labels"]
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        raise BadData(f"{folder}: no {names['labels' if labels is None else 'images']}")
    if len(labels) < 8 or len(images) < 16:
        raise BadData(f"{folder}: {names['labels' if len(labels) < 8 else 'images']} is truncated: no header")
    y = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    pixels = np.frombuffer(images, np.uint8, offset=16)
    if len(pixels) != len(y) * 28 * 28:
        raise BadData(f"{folder}: {names['images']} is truncated: {len(pixels)} bytes for {len(y)} labels")
    for name, file, header in (
        (names["images"], images, [2051, len(y), 28, 28]),
        (names["labels"], labels, [2049, len(y)]),
    ):
        if (has := np.frombuffer(file, ">i4", len(header)).tolist()) != header:
            raise BadData(f"{folder}: {name} begins with {has}, expected {header}")
    doubts = other_than(MD5, {names[kind]: hashlib.md5(content[kind] or b"").hexdigest() for kind in names})
    return pixels.reshape(-1, 28, 28), y, doubts
