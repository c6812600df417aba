"""Prepared pictures: memory-mapped bytes, labels and where they come from, in one folder for each version of a dataset.

A folder is made elsewhere, whole, and appears by a rename: what can be opened is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from spurbench.bench.errors import BadData, UserError
from spurbench.bench.pictures.decode import Bytes

SCHEMA = 1
FACTS = "prepared.json"
PART_BYTES = 64 << 20  # pictures are decoded and hashed in parts of about this size
Facts = dict[str, Any]


def root() -> Path:
    """Where prepared pictures lie: $SPURBENCH_DATA, else the user's cache."""
    named = os.environ.get("SPURBENCH_DATA")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "spurbench" / "data"


@dataclass(frozen=True)
class Prepared:
    """One prepared version of a dataset, as its facts describe it."""

    folder: Path
    facts: Facts

    @classmethod
    def find(cls, name: str, version: str) -> Prepared | None:
        """The prepared version of a dataset, or None. Raises BadData for one that is damaged."""
        folder = root() / name / version
        return cls.open(folder) if folder.is_dir() else None

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """The pictures in a folder; their sizes are checked, their content is by `verify`."""
        again = f"delete {folder} and prepare it again"
        try:
            facts = json.loads((folder / FACTS).read_bytes())
            schema, splits = int(facts["schema"]), facts["splits"]
            sizes = {part["pictures"]: int(part["bytes"]) for part in splits.values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadData(f"{folder / FACTS} cannot be used ({type(error).__name__}): {again}") from None
        if schema > SCHEMA:
            raise UserError(f"{folder} was prepared by a newer spurbench (layout {schema}, this one reads {SCHEMA})")
        for name, size in sizes.items():
            has = (folder / name).stat().st_size if (folder / name).is_file() else 0
            if has != size:
                raise BadData(f"{folder / name} has {has:,} bytes, expected {size:,}: {again}")
        return cls(folder, facts)

    @classmethod
    def versions(cls, name: str) -> Iterator[Prepared | UserError]:
        """Every version of a dataset that is prepared here; of one that cannot be used, the reason."""
        for facts in sorted((root() / name).glob(f"*/{FACTS}")):
            if not facts.parent.name.startswith("."):
                try:
                    yield cls.open(facts.parent)
                except UserError as error:
                    yield error

    @property
    def checksum(self) -> str:
        """SHA-256 of all pictures and labels."""
        return str(self.facts["checksum"])

    def pictures(self, split: str) -> Bytes:
        """Pixels [n, 3, side, side], memory-mapped; what is written to them stays in this process."""
        file = self.folder / self.facts["splits"][split]["pictures"]
        return np.load(file, mmap_mode="c", allow_pickle=False)  # type: ignore[no-any-return]

    def labels(self, split: str) -> dict[str, Any]:
        """`y` [n], `a` [n] where there is an attribute, and `ids` [n]."""
        facts = self.facts["splits"][split]
        try:
            with np.load(self.folder / facts["labels"], allow_pickle=False) as file:
                found = dict(file)
        except (OSError, ValueError, BadZipFile):
            found = {}
        if labels_hash(found) != facts["labels_sha256"]:
            raise BadData(f"the {split} labels in {self.folder} are damaged: delete it and prepare it again")
        return found

    def damage(self) -> Iterator[str]:
        """Read everything and compare it with the checksums; a line for each file that differs."""
        for split, facts in self.facts["splits"].items():
            try:
                self.labels(split)
            except BadData as error:
                yield str(error)
            if part_hashes(self.pictures(split)) != facts["parts"]:
                yield f"the {split} pictures in {self.folder} are damaged: delete it and prepare it again"

    def __str__(self) -> str:
        facts = self.facts
        total = sum(part["n"] for part in facts["splits"].values())
        gone = len(facts["left_out"])
        left = f", {gone} unreadable left out" if gone else ""
        return f"{facts['version']}: {total:,} pictures of {facts['side']} × {facts['side']}, {facts['layout']}{left}"


def rows_of_a_part(side: int) -> int:
    """Pictures in one part."""
    return max(1, min(2048, PART_BYTES // (3 * side * side)))


def parts(n: int, side: int) -> list[slice]:
    """The parts of `n` pictures."""
    rows = rows_of_a_part(side)
    return [slice(at, min(at + rows, n)) for at in range(0, n, rows)]


def part_hashes(pictures: Bytes) -> list[str]:
    """SHA-256 of each part of pictures [n, 3, side, side]."""
    each = parts(len(pictures), pictures.shape[-1])
    return [sha256(np.ascontiguousarray(pictures[part]).data).hexdigest() for part in each]


def labels_hash(labels: Mapping[str, Any]) -> str:
    """SHA-256 of the content of arrays of labels and ids, however they are stored."""
    found = sha256()
    for name in sorted(labels):
        values = labels[name]
        content = values.tobytes() if values.dtype.kind == "i" else "\n".join(values.tolist()).encode()
        found.update(f"{name} {len(values)} ".encode() + content)
    return found.hexdigest()


def overall(splits: Mapping[str, Facts]) -> str:
    """One checksum for the pictures and labels of all splits."""
    words = [f"{name} {part['labels_sha256']} {' '.join(part['parts'])}" for name, part in sorted(splits.items())]
    return sha256("\n".join(words).encode()).hexdigest()
