"""What a folder of pictures holds before anything is decoded, in layouts that need no knowledge of the dataset."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spurbench.bench.errors import BadData, unknown
from spurbench.bench.pictures.decode import Bytes

Integers = np.ndarray[Any, np.dtype[np.int64]]
SPLITS = ("train", "validation", "test")  # in the order of the numbers 0, 1, 2 that split columns hold
FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
NUMBER = re.compile(r"-?[0-9]{1,6}")  # of a class, an attribute or a split
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass
class Rows:
    """The pictures of one split: where each is, or its pixels, its class and its attribute."""

    ids: list[str]
    y: Integers  # [n]
    a: Integers | None = None  # [n]
    files: list[str] | None = None
    pixels: Bytes | None = None  # [n, 3, side, side]

    def counts(self, classes: int, attributes: int) -> list[int]:
        """Pictures of each group y * attributes + a."""
        group = self.y if self.a is None else self.y * attributes + self.a
        found: list[int] = np.bincount(group, minlength=classes * attributes).tolist()
        return found


@dataclass
class Listing:
    """All splits of a folder, with what to say of where they come from."""

    layout: str
    folder: Path
    splits: dict[str, Rows]
    classes: Sequence[str]
    attributes: Sequence[str] = ()
    origin: str = "original"  # what the files can at best be: the published ones, or a version of them
    doubts: list[str] = field(default_factory=list)  # why they are not what `origin` says

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever other pictures would be prepared, or the same ones with other labels."""
        found = hashlib.sha256(f"{self.layout} {self.folder} {list(self.classes)} {list(self.attributes)}".encode())
        for name, rows in self.splits.items():
            found.update("\n".join([name, *rows.ids, *(rows.files or ())]).encode())
            for array in (rows.y, rows.a, rows.pixels):
                found.update(b"" if array is None else np.ascontiguousarray(array).data)
        return found.hexdigest()

    def check(self, published: Mapping[str, Sequence[int]], other: str, checksums: bool = True) -> None:
        """Raise BadData unless counts (of each group, by split) and checksums are those of the published data.

        `other` says how to have the pictures taken for something else.
        """
        self.trainable()
        attributes = max(1, len(self.attributes))
        found = {name: rows.counts(len(self.classes), attributes) for name, rows in self.splits.items()}
        for name, expected in published.items():
            got = found.get(name, [])
            if tuple(got) == tuple(expected):
                continue
            swapped = next((split for split, counts in published.items() if tuple(got) == tuple(counts)), None)
            if swapped:
                raise BadData(f"{self.folder}: the {name} split holds what {swapped} should (swapped?). {other}")
            raise BadData(
                f"{self.folder}: {sum(got):,} {name} pictures, {shown(got)} in each group; "
                f"expected {sum(expected):,}, {shown(expected)} ({self.layout}). Is it complete? {other}"
            )
        if self.doubts and checksums:
            more = f" (and {len(self.doubts) - 1} more)" if len(self.doubts) > 1 else ""
            raise BadData(f"{self.folder}: {self.doubts[0]}{more}. {other}")

    def trainable(self) -> None:
        """Raise BadData unless there is something to train on and something to score."""
        for split in ("train", "test"):
            if not len(self.splits[split].y if split in self.splits else ()):
                raise BadData(f"{self.folder}: no pictures in the {split} split ({self.layout})")
        present = set(self.splits["train"].y.tolist())
        if len(present) < 2:
            raise BadData(f"{self.folder}: all training pictures are of one class ({self.layout})")
        for label, name in enumerate(self.classes):
            if label not in present:
                raise BadData(f"{self.folder}: no training pictures of the class '{name}' ({self.layout})")


def shown(counts: Sequence[int]) -> str:
    """Counts of groups in few words."""
    if len(set(counts)) == 1 and len(counts) > 4:
        return f"{counts[0]:,}"
    text = ", ".join(f"{count:,}" for count in counts[:8])
    return f"{text}, …" if len(counts) > 8 else text or "none"


def image_folder(folder: Path, classes: Sequence[str], origin: str) -> Listing | None:
    """The layout `{train,validation,test}/<class>/<picture>`; None if there is no folder `train`."""
    if not (folder / "train").is_dir():
        return None
    places = {split: first(folder / name for name in names) for split, names in FOLDERS.items()}
    splits = {split: class_folders(folder, place, classes) for split, place in places.items() if place}
    return Listing("image folder", folder, splits, classes, origin=origin)


def class_folders(folder: Path, place: Path, classes: Sequence[str]) -> Rows:
    """The pictures of one split, class after class, in the order of their names."""
    for entry in sorted(place.iterdir()):
        if entry.is_dir() and entry.name not in classes and not entry.name.startswith("."):
            raise BadData(f"{entry}: {unknown('class', entry.name, classes)}")
    files, y = [], []
    for label, name in enumerate(classes):
        if not (place / name).is_dir():
            raise BadData(f"{place}: no folder for the class '{name}'")
        found = sorted(p for p in (place / name).iterdir() if p.suffix.lower() in SUFFIXES)
        files += [str(path) for path in found]
        y += [label] * len(found)
    if not files:
        raise BadData(f"{place}: no pictures ({', '.join(SUFFIXES)}) in its folders")
    ids = [str(Path(file).relative_to(folder)) for file in files]
    return Rows(ids, np.array(y, np.int64), files=files)


# ---- tables ---------------------------------------------------------------------------------------------------------


def columns(file: Path, wanted: Sequence[str]) -> dict[str, list[str]]:
    """Columns of a comma-separated file, by name. Raises BadData for one that is not there or a short row."""
    try:
        rows = csv.reader(readable(file).splitlines(keepends=True))
        return picked(file, next(rows, []), enumerate(rows, 2), wanted)
    except csv.Error as error:
        raise BadData(f"{file}: {error}") from None


def readable(file: Path) -> str:
    """A list's text; raises BadData if it is none."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"{file} is no UTF-8 text (byte {error.start}): save it as UTF-8, or fetch it again") from None


def picked(
    file: Path, header: Sequence[str], rows: Iterable[tuple[int, list[str]]], wanted: Sequence[str]
) -> dict[str, list[str]]:
    """The wanted columns of rows that come with their line numbers."""
    names = [name.strip() for name in header]
    for name in wanted:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"the nearest is '{near[0]}'" if near else f"there are: {', '.join(names[:12]) or 'none'}"
            raise BadData(f"{file}: no column '{name}'; {hint}")
    found: dict[str, list[str]] = {name: [] for name in wanted}
    at = [(names.index(name), values) for name, values in found.items()]
    for line, row in rows:
        if not row:
            continue
        if len(row) < len(names):
            raise BadData(f"{file}:{line}: {len(row)} columns, expected {len(names)} (cut short?)")
        for place, values in at:
            values.append(row[place])
    return found


def integers(file: Path, name: str, values: Sequence[str], allowed: Sequence[int] | None = None) -> Integers:
    """A column as numbers from 0 on, or among `allowed`."""
    for row, value in enumerate(values):
        text = value.strip()
        number = int(text) if NUMBER.fullmatch(text) else None
        right = number is not None and (number in allowed if allowed else number >= 0)
        if not right:
            expected = f"one of {', '.join(map(str, allowed))}" if allowed else "a whole number from 0 on"
            raise BadData(f"{file}: column '{name}' of picture {row + 1} holds '{value}', expected {expected}")
    return np.array([int(value) for value in values], np.int64)


def table(folder: Path, attribute: str, classes: Sequence[str] = (), attributes: Sequence[str] = ()) -> Listing | None:
    """The layout of a `metadata.csv` with columns img_filename, y, split (0, 1, 2) and one for the attribute.

    None if there is no such file. Names of classes and attributes are made up where none are given.
    """
    file = folder / "metadata.csv"
    if not file.is_file():
        return None
    found = columns(file, ("img_filename", "y", attribute, "split"))
    y, a = (integers(file, name, found[name]) for name in ("y", attribute))
    split = integers(file, "split", found["split"], (0, 1, 2))
    classes = classes or [f"y{i}" for i in range(int(y.max(initial=0)) + 1)]
    attributes = attributes or [f"a{i}" for i in range(int(a.max(initial=0)) + 1)]
    for name, values, names in (("y", y, classes), (attribute, a, attributes)):
        if values.max(initial=0) >= len(names):
            raise BadData(f"{file}: column '{name}' holds {values.max()}, expected 0 to {len(names) - 1}")
    for name, values in (("y", y), (attribute, a)):
        if gaps := sorted(set(range(values.max(initial=0))) - set(values.tolist())):
            raise BadData(f"{file}: column '{name}' holds no {gaps[0]}; its values count from 0 without gaps")
    splits = dict(parted(folder, found["img_filename"], y, a, split))
    return Listing("metadata.csv", folder, splits, classes, attributes)


def parted(folder: Path, names: Sequence[str], y: Integers, a: Integers, split: Integers) -> Iterator[tuple[str, Rows]]:
    """The rows of each split that has any; every file must be there."""
    require(folder, names)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadData(f"{folder}: {len(twice):,} of the pictures are listed more than once, the first is {twice[0]}")
    for number, name in enumerate(SPLITS):
        chosen = np.flatnonzero(split == number).tolist()
        if chosen:
            ids = [names[i] for i in chosen]
            yield name, Rows(ids, y[chosen], a[chosen], [str(folder / each) for each in ids])


def other_than(published: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What to say of files whose MD5 is not the published one; both by name."""
    return [
        f"{name} is not the published file (MD5 {md5})"
        for name, md5 in found.items()
        if published.get(name, md5) != md5
    ]


def file_md5(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def first(places: Iterable[Path]) -> Path | None:
    """The first of several places that exists."""
    return next((place for place in places if place.exists()), None)


def require(folder: Path, names: Sequence[str]) -> None:
    """Raise BadData, with their number, if files are missing; folders are listed, not asked file by file."""
    parents = {(folder / name).parent for name in names}
    there = {parent: {p.name for p in parent.iterdir()} if parent.is_dir() else set() for parent in parents}
    missing = [name for name in names if (folder / name).name not in there[(folder / name).parent]]
    if missing:
        raise BadData(
            f"{folder}: {len(missing):,} of {len(names):,} pictures are missing, the first is {missing[0]} "
            "(an archive half unpacked?)"
        )
