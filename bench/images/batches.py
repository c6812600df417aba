"""CIFAR's pickled batches, as torchvision unpacks them, read without letting a pickle run code."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spurbench.bench.core.errors import BadData
from spurbench.bench.images.listing import Listing, Rows, other_than

HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
}  # fmt: skip
"""All that a pickled dictionary of lists and arrays may refer to."""
MOST_BYTES = 1 << 30  # of a batch; the published ones have at most 155 MB


@dataclass(frozen=True)
class Archive:
    """A published archive of pickled batches: its files by split, with the MD5 of each."""

    folder: str
    archive: str
    files: Mapping[str, Mapping[str, str]]  # split → file → MD5
    labels: str = "labels"


class Harmless(pickle.Unpickler):
    """Reads lists, dictionaries, strings, numbers and arrays; refuses everything else a pickle can name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def batches(folder: Path, archive: Archive, classes: Sequence[str]) -> Listing | None:
    """The images in `folder`, in its sub-folder of batches, or in the archive itself; None if there is none."""
    contents = find_contents(folder, archive)
    if contents is None:
        return None
    splits: dict[str, Rows] = {}
    doubts: list[str] = []
    for split, files in archive.files.items():
        doubts += other_than(files, {name: hashlib.md5(contents[name]).hexdigest() for name in files})
        parts = [parse_batch(folder / name, contents[name], archive.labels, len(classes)) for name in files]
        y = np.concatenate([labels for _, labels in parts])
        ids = [f"{split}/{i:05}" for i in range(len(y))]
        splits[split] = Rows(ids, y, pixels=np.concatenate([pixels for pixels, _ in parts]))
    return Listing("pickled batches", folder, splits, classes, doubts=doubts)


def find_contents(folder: Path, archive: Archive) -> dict[str, bytes] | None:
    """The content of every batch file by name, or None if there are none."""
    names = [name for files in archive.files.values() for name in files]
    packed = folder / archive.archive
    for place in (folder / archive.folder, folder):
        here = [name for name in names if (place / name).is_file()]
        if here and len(here) < len(names):
            missing = ", ".join(name for name in names if name not in here)
            raise BadData(f"{place}: {missing} missing (a partly unpacked archive?)")
        if here:
            return {name: check_size(place / name).read_bytes() for name in names}
    if not packed.is_file():
        return None
    try:
        with tarfile.open(packed) as opened:
            return {name: read_member(opened, f"{archive.folder}/{name}") for name in names}
    except (tarfile.TarError, EOFError, OSError, KeyError, zlib.error) as error:
        size = packed.stat().st_size
        raise BadData(f"{packed} is incomplete, {size:,} bytes ({error}): download it again") from None


def check_size(file: Path) -> Path:
    if (size := file.stat().st_size) > MOST_BYTES:
        raise BadData(f"{file} has {size:,} bytes; a batch has at most {MOST_BYTES:,}")
    return file


def read_member(archive: tarfile.TarFile, name: str) -> bytes:
    opened = archive.extractfile(name)
    if opened is None or archive.getmember(name).size > MOST_BYTES:
        raise KeyError(f"{name} is not a file of at most {MOST_BYTES:,} bytes")
    return opened.read()


def parse_batch(file: Path, content: bytes, labels: str, classes: int) -> tuple[Any, Any]:
    """Pixels [n, 3, 32, 32] and labels [n] of one pickled batch."""
    try:
        entry = Harmless(io.BytesIO(content), encoding="latin1").load()
        pixels, y = np.asarray(entry["data"]), np.asarray(entry[labels])
        if pixels.dtype != np.uint8 or y.dtype.kind not in "iu":  # which would be truncated to whole numbers
            raise ValueError(f"pixels are {pixels.dtype}, labels {y.dtype}; expected bytes and whole numbers")
        pixels, y = pixels.reshape(-1, 3, 32, 32), y.reshape(-1).astype(np.int64)
    except KeyError as error:
        raise BadData(f"{file}: no entry {error}; there are: {', '.join(map(str, entry))}") from None
    except Exception as error:  # a damaged pickle raises anything at all
        raise BadData(f"{file} cannot be read as a batch: {error or type(error).__name__}") from None
    if len(y) != len(pixels) or not ((y >= 0) & (y < classes)).all():
        raise BadData(
            f"{file}: {len(pixels)} images, {len(y)} labels; expected one label each, from 0 to {classes - 1}"
        )
    return pixels, y
