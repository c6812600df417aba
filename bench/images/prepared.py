"""Prepared pictures: memory-mapped bytes, labels and where they come from, in one folder for each version of a dataset.

A folder is made elsewhere, whole, and appears by a rename: what can be opened is complete.
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
from spurbench.bench.images.decode import Bytes
from spurbench.bench.images.facts import Facts, SplitFacts, read_facts

PART_BYTES = 64 << 20  # pictures are decoded and hashed in parts of about this size
LONGEST_PATH = 4096


def root() -> Path:
    """Where prepared pictures lie: $SPURBENCH_DATA, else the user's cache."""
    named = os.environ.get("SPURBENCH_DATA")
    try:
        return Path(named).expanduser() if named else Path.home() / ".cache" / "spurbench" / "data"
    except RuntimeError:
        raise UserError("there is no home folder here: let SPURBENCH_DATA name one for prepared pictures") from None


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
            raise BadData(f"{folder} should be a folder of prepared pictures: delete it and prepare it again")
        return cls.open(folder) if folder.is_dir() else None

    @classmethod
    def open(cls, folder: Path, called: str | None = None) -> Prepared:
        """The pictures in a folder, which is to be `called` so; their sizes are checked, their content is by `damage`.

        Errors: BadData if it is damaged, foreign or not whole; UserError if a newer version has prepared it.
        """
        facts = read_facts(folder, called or folder.name)
        for part in facts["splits"].values():
            for file, size in ((part["pictures"], part["bytes"]), (part["labels"], None)):
                if problem := unlike(folder / file, size):
                    raise BadData(f"{folder / file} {problem}: delete {folder} and prepare it again")
        if facts["checksum"] != overall(facts["splits"]):
            raise BadData(f"the checksum of {folder} is not that of its parts: delete it and prepare it again")
        return cls(folder, facts)

    @classmethod
    def versions(cls, name: str) -> Iterator[Prepared | UserError]:
        """Every version of a dataset that is prepared here; of one that cannot be used, the reason."""
        for folder in sorted((root() / name).glob("[!.]*/")):
            try:
                yield cls.open(folder)
            except UserError as error:
                yield error

    @property
    def checksum(self) -> str:
        """SHA-256 of all pictures and labels."""
        return self.facts["checksum"]

    def pictures(self, split: str) -> Bytes:
        """Pixels [n, 3, side, side], memory-mapped; what is written to them stays in this process.

        Raises BadData if they have another form than the facts say, or are others where they begin and end.
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
            raise BadData(self.damaged(split, "pictures"))
        return found  # type: ignore[no-any-return]

    def labels(self, split: str) -> dict[str, Any]:
        """`y` [n], `a` [n] where there is an attribute, `ids` [n]; raises BadData if they are not those prepared."""
        facts = self.facts["splits"][split]
        found = arrays(self.folder / facts["labels"], facts["n"])
        if not fits(found, facts, len(self.facts["attributes"])) or labels_hash(found) != facts["labels_sha256"]:
            raise BadData(self.damaged(split, "labels"))
        return found

    def damage(self) -> Iterator[str]:
        """Read everything and compare it with the checksums; a line for each file that differs."""
        for split, facts in self.facts["splits"].items():
            try:
                self.labels(split)
            except BadData as error:
                yield str(error)
            try:
                if part_hashes(self.pictures(split)) != facts["parts"]:
                    yield self.damaged(split, "pictures")
            except BadData as error:
                yield str(error)

    def damaged(self, split: str, what: str) -> str:
        return f"the {split} {what} in {self.folder} are damaged: delete it and prepare it again"

    def __str__(self) -> str:
        facts = self.facts
        total = sum(part["n"] for part in facts["splits"].values())
        gone, unused, several = len(facts["left_out"]), facts.get("unused", 0), facts.get("contradicting", 0)
        said = [f"{facts['version']}: {total:,} pictures of {facts['side']} × {facts['side']}", facts["layout"]]
        said += [f"{gone} unreadable left out"] if gone else []
        said += [f"{unused:,} files of the folder not used"] if unused else []
        said += [
            f"{count:,} of {split} also in {earlier}"
            for split, counts in facts.get("copies", {}).items()
            for earlier, count in counts.items()
        ]
        return ", ".join(said + ([f"{several:,} with another label too"] if several else []))


def unlike(file: Path, size: int | None) -> str:
    """Why a file is not one of so many bytes, or of any number; empty if it is."""
    try:
        if not file.is_file():
            return "is no file" if os.path.lexists(file) else "is missing"
        has = file.stat().st_size
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if size in (None, has) else f"has {has:,} bytes, expected {size:,}"


@cache
def ends_as_prepared(file: Path, time: int, number: int, hashes: tuple[str, ...]) -> bool:
    """Whether the first and the last part have these checksums; asked again when the file is another by now."""
    pictures = np.load(file, mmap_mode="r", allow_pickle=False)
    every = parts(len(pictures), pictures.shape[-1])
    if len(every) != len(hashes):
        return False
    return all(part_hash(pictures[every[at]]) == hashes[at] for at in {0, len(every) - 1} if every)


def arrays(file: Path, n: int) -> dict[str, Any]:
    """Labels and ids of `n` pictures from a file; none if it cannot be one."""
    most = 1024 + n * (2 * 8 + 4 * LONGEST_PATH)
    try:
        with ZipFile(file) as packed:
            if sum(one.file_size for one in packed.infolist()) > most:
                return {}
        with np.load(file, allow_pickle=False) as opened:
            return dict(opened)
    except Exception:  # a damaged archive raises anything at all
        return {}


def fits(labels: Mapping[str, Any], facts: SplitFacts, attributes: int) -> bool:
    """Whether arrays of labels and ids have the form and the counts of groups that the facts say."""
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


def rows_of_a_part(side: int) -> int:
    """Pictures in one part."""
    return max(1, min(2048, PART_BYTES // (3 * side * side)))


def parts(n: int, side: int) -> list[slice]:
    """The parts of `n` pictures."""
    rows = rows_of_a_part(side)
    return [slice(at, min(at + rows, n)) for at in range(0, n, rows)]


def part_hash(pictures: Bytes) -> str:
    return sha256(np.ascontiguousarray(pictures).data).hexdigest()


def part_hashes(pictures: Bytes) -> list[str]:
    """SHA-256 of each part of pictures [n, 3, side, side]."""
    return [part_hash(pictures[part]) for part in parts(len(pictures), pictures.shape[-1])]


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


def overall(splits: Mapping[str, SplitFacts]) -> str:
    """One checksum for the pictures and labels of all splits."""
    words = [f"{name} {part['labels_sha256']} {' '.join(part['parts'])}" for name, part in sorted(splits.items())]
    return sha256("\n".join(words).encode()).hexdigest()
