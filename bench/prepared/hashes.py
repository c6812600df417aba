"""Checksums of prepared arrays, in parts, so that one that differs can be named and a beginning be checked alone."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np

PART_BYTES = 64 << 20  # arrays are written and hashed in parts of at most about this size
MOST_ROWS = 2048  # and at most this many examples

Array = np.ndarray[Any, np.dtype[Any]]


def row_bytes(array: Array) -> int:
    """The bytes of one example."""
    return int(prod(array.shape[1:])) * array.itemsize


def split_rows(n: int, bytes_each: int) -> list[slice]:
    """The parts of `n` examples of so many bytes each, as slices."""
    rows = max(1, min(MOST_ROWS, PART_BYTES // max(1, bytes_each)))
    return [slice(at, min(at + rows, n)) for at in range(0, n, rows)]


def part_hash(part: Array) -> str:
    return sha256(np.ascontiguousarray(part).data).hexdigest()


def part_hashes(array: Array) -> list[str]:
    """SHA-256 of each part of an array [n, ...]."""
    return [part_hash(array[part]) for part in split_rows(len(array), row_bytes(array))]


def labels_hash(labels: Mapping[str, Any]) -> str:
    """SHA-256 of the content of arrays of labels and ids, however they are stored."""
    found = sha256()
    for name in sorted(labels):
        values = labels[name]
        if values.dtype.kind in "ib":
            content = values.tobytes()
        else:
            content = "\n".join(values.tolist()).encode("utf-8", "surrogateescape")
        found.update(f"{name} {len(values)} ".encode() + content)
    return found.hexdigest()


def combined_checksum(splits: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    """One checksum for the arrays and labels of all splits, and for what is in none, from their facts."""
    words = []
    for name, split in sorted(splits.items()):
        parts = [hashed for _, array in sorted(split["arrays"].items()) for hashed in array["parts"]]
        words.append(f"{name} {split['labels_sha256']} {' '.join(parts)}")
    words += [f"{name} {' '.join(array['parts'])}" for name, array in sorted(shared.items())]
    return sha256("\n".join(words).encode()).hexdigest()


def hash_rows(values: Array, before: Array) -> Array:
    """A number for each row [b] that equal rows share, and different ones only by an unlikely chance.

    `before` are such numbers of what else the same examples have, [b] of uint64; 0 if there is nothing.
    """
    flat = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4))).view(np.uint32)
    odd = np.random.default_rng(flat.shape[1]).integers(0, 2**63, flat.shape[1], dtype=np.uint64) * 2 + 1
    found: Array = flat.astype(np.uint64) @ odd
    mixed: Array = before * np.uint64(3) + (found ^ (found >> np.uint64(29)))
    return mixed
