"""Prepared images: memory-mapped pixels, labels and their origin, in one folder for each version of a dataset.

A folder is completed elsewhere and appears by a rename, so whatever can be opened is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.terminal import plural
from spurbench.bench.images.decode import Pixels
from spurbench.bench.images.facts import Facts, SplitFacts, read_facts

PART_BYTES = 64 << 20  # images are decoded and hashed in parts of about this size
LONGEST_PATH = 4096


def root() -> Path:
    """Where prepared images lie: $SPURBENCH_DATA, else the user's cache."""
    named = os.environ.get("SPURBENCH_DATA")
    try:
        return Path(named).expanduser() if named else Path.home() / ".cache" / "spurbench" / "data"
    except RuntimeError:
        raise UserError("there is no home folder here: set SPURBENCH_DATA to a folder for prepared images") from None


@dataclass(frozen=True)
class Prepared:
    """One prepared version of a dataset, as its facts describe it."""

    folder: Path
    facts: Facts

    @classmethod
    def find(cls, name: str, version: str) -> Prepared | None:
        """The prepared version of a dataset, or None. Raises BadData for one that is damaged."""
        folder = root() / name / version
        if os.path.lexists(folder) and not folder.is_dir():
            raise BadData(f"{folder} should be a folder of prepared images: delete it and prepare it again")
        return cls.open(folder) if folder.is_dir() else None

    @classmethod
    def open(cls, folder: Path, called: str | None = None) -> Prepared:
        """The images in a folder, which will be `called` so; sizes are checked here, content by `damage`.

        Errors: BadData if it is damaged, foreign or incomplete; UserError if a newer version has prepared it.
        """
        facts = read_facts(folder, called or folder.name)
        for part in facts["splits"].values():
            for file, size in ((part["pictures"], part["bytes"]), (part["labels"], None)):
                if problem := find_file_problem(folder / file, size):
                    raise BadData(f"{folder / file} {problem}: delete {folder} and prepare it again")
        if facts["checksum"] != combined_checksum(facts["splits"]):
            raise BadData(f"the checksum of {folder} is not that of its parts: delete it and prepare it again")
        return cls(folder, facts)

    @classmethod
    def versions(cls, name: str) -> Iterator[Prepared | UserError]:
        """Every version of a dataset that is prepared here; for one that cannot be used, the reason."""
        for folder in sorted((root() / name).glob("[!.]*/")):
            try:
                yield cls.open(folder)
            except UserError as error:
                yield error

    @property
    def checksum(self) -> str:
        """SHA-256 of all images and labels."""
        return self.facts["checksum"]

    def images(self, split: str) -> Pixels:
        """Pixels [n, 3, side, side], memory-mapped; changes to them stay in this process.

        Raises BadData if their shape is not as the facts say, or if their beginning or end differs.
        """
        facts = self.facts["splits"][split]
        file = self.folder / facts["pictures"]
        try:
            state = file.stat()
            found = np.load(file, mmap_mode="c", allow_pickle=False)
            shape = (facts["n"], 3, self.facts["side"], self.facts["side"])
            right = found.shape == shape and found.dtype == np.uint8 and found.flags.c_contiguous
            right = right and ends_as_prepared(file, state.st_mtime_ns, state.st_ino, tuple(facts["parts"]))
        except Exception:  # a damaged array raises anything at all
            right = False
        if not right:
            raise BadData(self.damaged(split, "images"))
        return found  # type: ignore[no-any-return]

    def labels(self, split: str) -> dict[str, Any]:
        """`y` [n], `a` [n] where there is an attribute, `ids` [n]; raises BadData if they are not as prepared."""
        facts = self.facts["splits"][split]
        found = load_arrays(self.folder / facts["labels"], facts["n"])
        if not match_facts(found, facts, len(self.facts["attributes"])) or labels_hash(found) != facts["labels_sha256"]:
            raise BadData(self.damaged(split, "labels"))
        return found

    def damage(self) -> Iterator[str]:
        """Read everything and compare it with the checksums; yields a line for each file that differs."""
        for split, facts in self.facts["splits"].items():
            try:
                self.labels(split)
            except BadData as error:
                yield str(error)
            try:
                if part_hashes(self.images(split)) != facts["parts"]:
                    yield self.damaged(split, "images")
            except BadData as error:
                yield str(error)

    def damaged(self, split: str, what: str) -> str:
        return f"the {split} {what} in {self.folder} are damaged: delete it and prepare it again"

    def __str__(self) -> str:
        facts = self.facts
        total = sum(part["n"] for part in facts["splits"].values())
        gone, unused, several = len(facts["left_out"]), facts.get("unused", 0), facts.get("contradicting", 0)
        said = [f"{facts['version']}: {total:,} images of {facts['side']} × {facts['side']}", facts["layout"]]
        said += [f"{plural(gone, 'unreadable image')} left out"] if gone else []
        said += [f"{plural(unused, 'file')} of the folder not used"] if unused else []
        said += [
            f"{count:,} of {split} also in {earlier}"
            for split, counts in facts.get("copies", {}).items()
            for earlier, count in counts.items()
        ]
        return ", ".join(said + ([f"{several:,} with another label too"] if several else []))


def find_file_problem(file: Path, size: int | None) -> str:
    """Why a file does not have this many bytes (or any number of them); empty if it does."""
    try:
        if not file.is_file():
            return "is not a file" if os.path.lexists(file) else "is missing"
        has = file.stat().st_size
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if size in (None, has) else f"has {has:,} bytes, expected {size:,}"


@cache
def ends_as_prepared(file: Path, time: int, number: int, hashes: tuple[str, ...]) -> bool:
    """Whether the first and the last part have these checksums; checked again when the file has changed."""
    images = np.load(file, mmap_mode="r", allow_pickle=False)
    every = split_rows(len(images), images.shape[-1])
    if len(every) != len(hashes):
        return False
    return all(part_hash(images[every[at]]) == hashes[at] for at in {0, len(every) - 1} if every)


def load_arrays(file: Path, n: int) -> dict[str, Any]:
    """Labels and ids of `n` images from a file; empty if it cannot be such a file."""
    most = 1024 + n * (2 * 8 + 4 * LONGEST_PATH)
    try:
        with ZipFile(file) as packed:
            if sum(one.file_size for one in packed.infolist()) > most:
                return {}
        with np.load(file, allow_pickle=False) as opened:
            return dict(opened)
    except Exception:  # a damaged archive raises anything at all
        return {}


def match_facts(labels: Mapping[str, Any], facts: SplitFacts, attributes: int) -> bool:
    """Whether arrays of labels and ids have the shape and the group counts that the facts say."""
    if set(labels) != {"y", "ids"} | ({"a"} if attributes else set()):
        return False
    if any(array.shape != (facts["n"],) for array in labels.values()) or labels["ids"].dtype.kind != "U":
        return False
    if any(labels[name].dtype != np.int64 for name in labels if name != "ids"):
        return False
    if attributes and not ((labels["a"] >= 0) & (labels["a"] < attributes)).all():
        return False
    group = labels["y"] * attributes + labels["a"] if attributes else labels["y"]
    inside = group.min(initial=0) >= 0 and group.max(initial=0) < len(facts["counts"])
    return bool(inside) and np.bincount(group, minlength=len(facts["counts"])).tolist() == facts["counts"]


def rows_per_part(side: int) -> int:
    """The number of images in one part."""
    return max(1, min(2048, PART_BYTES // (3 * side * side)))


def split_rows(n: int, side: int) -> list[slice]:
    """The parts of `n` images, as slices."""
    rows = rows_per_part(side)
    return [slice(at, min(at + rows, n)) for at in range(0, n, rows)]


def part_hash(images: Pixels) -> str:
    return sha256(np.ascontiguousarray(images).data).hexdigest()


def part_hashes(images: Pixels) -> list[str]:
    """SHA-256 of each part of images [n, 3, side, side]."""
    return [part_hash(images[part]) for part in split_rows(len(images), images.shape[-1])]


def labels_hash(labels: Mapping[str, Any]) -> str:
    """SHA-256 of the content of arrays of labels and ids, however they are stored."""
    found = sha256()
    for name in sorted(labels):
        values = labels[name]
        if values.dtype.kind == "i":
            content = values.tobytes()
        else:
            content = "\n".join(values.tolist()).encode("utf-8", "surrogateescape")
        found.update(f"{name} {len(values)} ".encode() + content)
    return found.hexdigest()


def combined_checksum(splits: Mapping[str, SplitFacts]) -> str:
    """One checksum for the images and labels of all splits."""
    words = [f"{name} {part['labels_sha256']} {' '.join(part['parts'])}" for name, part in sorted(splits.items())]
    return sha256("\n".join(words).encode()).hexdigest()
