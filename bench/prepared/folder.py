"""Prepared data: memory-mapped inputs, labels and their origin, in one folder for each version of a dataset.

A folder is completed elsewhere and appears by a rename, so whatever can be opened is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.files import data_folder
from spurbench.bench.core.terminal import plural
from spurbench.bench.prepared.facts import ArrayFacts, Facts, SplitFacts, read_facts
from spurbench.bench.prepared.hashes import Array, combined_checksum, labels_hash, part_hash, part_hashes, row_bytes
from spurbench.bench.prepared.hashes import split_rows as split_rows

LONGEST_PATH = 4096


@dataclass(frozen=True)
class Labels:
    """What is known of the examples of a split beside their inputs."""

    y: Array  # [n] int64
    ids: Array  # [n], their names or their places in the file they come from
    attributes: Mapping[str, Array]  # name → [n] int64
    subsets: Mapping[str, Array] = field(default_factory=dict)  # name → [n] bool

    def stored(self) -> dict[str, Array]:
        """The arrays as they are kept in a file."""
        own = {"y": self.y, "ids": self.ids}
        for letter, arrays in (("a", self.attributes), ("s", self.subsets)):
            own |= dict(zip(keys_of(letter, len(arrays)), arrays.values(), strict=True))
        return own

    def counts(self, classes: int, attributes: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
        """How often each label is, and each group of each attribute."""
        each = {"": (None, 1)} | {name: (self.attributes[name], len(values)) for name, values in attributes.items()}
        return {
            name: np.bincount(group_of(self.y, a, values), minlength=classes * values).tolist()
            for name, (a, values) in each.items()
        }


@dataclass(frozen=True)
class Prepared:
    """One prepared version of a dataset, as its facts describe it."""

    folder: Path
    facts: Facts

    @classmethod
    def find(cls, name: str, version: str) -> Prepared | None:
        """The prepared version of a dataset, or None. Raises BadData for one that is damaged."""
        folder = data_folder() / name / version
        if os.path.lexists(folder) and not folder.is_dir():
            raise BadData(f"{folder} should be a folder of prepared data: delete it and prepare it again")
        return cls.open(folder) if folder.is_dir() else None

    @classmethod
    def open(cls, folder: Path, called: str | None = None) -> Prepared:
        """The data in a folder, which will be `called` so; sizes are checked here, content by `damage`.

        Errors: BadData if it is damaged, foreign or incomplete; UserError if a newer version has prepared it.
        """
        facts = read_facts(folder, called or folder.name)
        for file, size in expected_files(facts):
            if problem := find_file_problem(folder / file, size):
                raise BadData(f"{folder / file} {problem}: delete {folder} and prepare it again")
        if facts["checksum"] != combined_checksum(facts["splits"], facts.get("shared", {})):
            raise BadData(f"the checksum of {folder} is not that of its parts: delete it and prepare it again")
        return cls(folder, facts)

    @classmethod
    def versions(cls, name: str) -> Iterator[Prepared | UserError]:
        """Every version of a dataset that is prepared here; for one that cannot be used, the reason."""
        for folder in sorted((data_folder() / name).glob("[!.]*/")):
            try:
                yield cls.open(folder)
            except UserError as error:
                yield error

    @property
    def checksum(self) -> str:
        """SHA-256 of all inputs and labels."""
        return self.facts["checksum"]

    def arrays(self, split: str) -> dict[str, Array]:
        """The inputs of a split by name, each [n, ...] and memory-mapped; changes to them stay in this process.

        Raises BadData if one's shape is not as the facts say, or if its beginning or end differs.
        """
        return {name: self.array(split, name) for name in self.facts["splits"][split]["arrays"]}

    def array(self, split: str, name: str) -> Array:
        """One of them."""
        facts = self.facts["splits"][split]
        own = facts["arrays"][name]
        found = self.opened(own, (facts["n"], *own["shape"]))
        if found is None:
            raise BadData(self.damaged(split, self.kind))
        return found

    def shared(self) -> dict[str, Array]:
        """The arrays that are in no split, by name; raises BadData likewise."""
        found = {}
        for name, own in self.facts.get("shared", {}).items():
            array = self.opened(own, tuple(own["shape"]))
            if array is None:
                raise BadData(self.damaged(name, "numbers"))
            found[name] = array
        return found

    def opened(self, own: ArrayFacts, shape: tuple[int, ...]) -> Array | None:
        """The array in a file; None if it is damaged."""
        file = self.folder / own["file"]
        try:
            state = file.stat()
            found: Array = np.load(file, mmap_mode="c", allow_pickle=False)
            right = found.shape == shape and found.dtype == own["dtype"] and found.flags.c_contiguous
            right = right and ends_as_prepared(file, state.st_mtime_ns, state.st_ino, tuple(own["parts"]))
        except Exception:  # a damaged array raises anything at all
            right = False
        return found if right else None

    def labels(self, split: str) -> Labels:
        """Labels, attributes and ids; raises BadData if they are not as prepared."""
        facts = self.facts["splits"][split]
        attributes, subsets = self.facts["attributes"], self.facts.get("subsets", [])
        found = load_arrays(self.folder / facts["labels"], facts["n"], len(attributes) + len(subsets))
        if not match_facts(found, facts, attributes, len(subsets)) or labels_hash(found) != facts["labels_sha256"]:
            raise BadData(self.damaged(split, "labels"))
        return Labels(
            found["y"],
            found["ids"],
            {name: found[key] for name, key in zip(attributes, keys_of("a", len(attributes)), strict=True)},
            {name: found[key] for name, key in zip(subsets, keys_of("s", len(subsets)), strict=True)},
        )

    def damage(self) -> Iterator[str]:
        """Read everything and compare it with the checksums; yields a line for each file that differs."""
        for split, facts in self.facts["splits"].items():
            try:
                self.labels(split)
            except BadData as error:
                yield str(error)
            for name, own in facts["arrays"].items():
                try:
                    if part_hashes(self.array(split, name)) != own["parts"]:
                        yield self.damaged(split, self.kind)
                except BadData as error:
                    yield str(error)

    @property
    def kind(self) -> str:
        """What its examples are: images, rows, texts."""
        return self.facts["examples"].partition(" ")[0]

    def damaged(self, split: str, what: str) -> str:
        return f"the {split} {what} in {self.folder} are damaged: delete it and prepare it again"

    def __str__(self) -> str:
        facts = self.facts
        total = sum(part["n"] for part in facts["splits"].values())
        gone, unused, several = len(facts.get("left_out", ())), facts.get("unused", 0), facts.get("contradicting", 0)
        said = [f"{facts['version']}: {total:,} {facts['examples']}", facts["layout"]]
        said += [f"{plural(gone, 'unreadable image')} left out"] if gone else []
        said += [f"{plural(unused, 'file')} of the folder not used"] if unused else []
        said += [
            f"{count:,} of {split} also in {earlier}"
            for split, counts in facts.get("copies", {}).items()
            for earlier, count in counts.items()
        ]
        said += [f"{several:,} with another label too"] if several else []
        return ", ".join(said + facts.get("notes", []))


def expected_files(facts: Facts) -> Iterator[tuple[str, int | None]]:
    """The names of all files beside the facts, with their size where it is known."""
    for part in facts["splits"].values():
        yield from ((array["file"], array["bytes"]) for array in part["arrays"].values())
        yield part["labels"], None
    yield from ((array["file"], array["bytes"]) for array in facts.get("shared", {}).values())


def keys_of(letter: str, count: int) -> list[str]:
    """What attributes or subsets are called among the labels in a file, in their order."""
    return [letter, *(f"{letter}{i}" for i in range(1, count))][:count]


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
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    every = split_rows(len(array), row_bytes(array))
    if len(every) != len(hashes):
        return False
    return all(part_hash(array[every[at]]) == hashes[at] for at in {0, len(every) - 1} if every)


def load_arrays(file: Path, n: int, further: int) -> dict[str, Any]:
    """Labels and ids of `n` examples from a file; empty if it cannot be such a file."""
    most = 1024 * (2 + further) + n * (8 + 8 * further + 4 * LONGEST_PATH)
    try:
        with ZipFile(file) as packed:
            if sum(one.file_size for one in packed.infolist()) > most:
                return {}
        with np.load(file, allow_pickle=False) as opened:
            return dict(opened)
    except Exception:  # a damaged archive raises anything at all
        return {}


def match_facts(
    labels: Mapping[str, Any], facts: SplitFacts, attributes: Mapping[str, list[str]], subsets: int
) -> bool:
    """Whether arrays of labels and ids have the shape and the group counts that the facts say."""
    keys, members = keys_of("a", len(attributes)), keys_of("s", subsets)
    if set(labels) != {"y", "ids", *keys, *members} or any(array.shape != (facts["n"],) for array in labels.values()):
        return False
    if any(labels[key].dtype != np.int64 for key in ("y", *keys)):
        return False
    if any(labels[key].dtype != np.bool_ for key in members):
        return False
    if labels["ids"].dtype.kind != "U" and labels["ids"].dtype != np.int64:
        return False
    each = {"": (None, 1)} | {
        name: (labels[k], len(attributes[name])) for name, k in zip(attributes, keys, strict=True)
    }
    return all(matches_counts(labels["y"], a, values, facts["counts"][name]) for name, (a, values) in each.items())


def matches_counts(y: Array, a: Array | None, values: int, counts: list[int]) -> bool:
    """Whether groups of y and an attribute with so many values are as often as counted."""
    group = group_of(y, a, values)
    inside = group.min(initial=0) >= 0 and group.max(initial=0) < len(counts)
    inside = inside and (a is None or ((a >= 0) & (a < values)).all())
    return bool(inside) and np.bincount(group, minlength=len(counts)).tolist() == counts


def group_of(y: Array, a: Array | None, values: int) -> Array:
    """y * values + a, or y without an attribute, [n]."""
    found: Array = y if a is None else y * values + a
    return found
