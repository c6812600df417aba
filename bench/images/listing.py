"""What a folder of pictures holds before anything is decoded, in layouts that need no knowledge of the dataset."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from spurbench.bench.core.errors import BadData, unknown
from spurbench.bench.images.decode import Bytes
from spurbench.bench.images.tables import Integers, columns, integers

SPLITS = ("train", "validation", "test")  # in the order of the numbers 0, 1, 2 that split columns hold
FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # characters that a name in a table may not hold
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass
class Rows:
    """The pictures of one split: where each is, or its pixels, its class and its attribute."""

    ids: list[str]
    y: Integers  # [n]
    a: Integers | None = None  # [n]
    files: list[str] | None = None
    pixels: Bytes | None = None  # [n, 3, side, side]

    @cached_property
    def stamps(self) -> list[str]:
        """Size and time of each file as it was first looked at; none for pixels that are here already."""
        return [] if self.files is None else [stamp(file) for file in self.files]

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
    unused: Sequence[str] = ()  # files of the folder that none of the splits holds

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever pictures of other names or places would be prepared, or the same ones with other labels."""
        found = hashlib.sha256(as_bytes(f"{self.layout} {self.folder} {list(self.classes)} {list(self.attributes)}"))
        for name, rows in self.splits.items():
            found.update(as_bytes("\n".join([name, *rows.ids, *(rows.files or ())])))
            for array in (rows.y, rows.a, rows.pixels):
                found.update(b"" if array is None else np.ascontiguousarray(array).data)
        return found.hexdigest()

    @cached_property
    def stamp(self) -> str:
        """Changes whenever one of the files is written."""
        every = [f"{name} {one}" for name, rows in self.splits.items() for one in rows.stamps]
        return hashlib.sha256("\n".join(every).encode()).hexdigest()

    def content(self, digests: Mapping[str, Sequence[str]]) -> str:
        """Tells pictures, names, labels and splits, wherever they lie; `digests` are those of each split's pictures."""
        found = hashlib.sha256(as_bytes(f"{list(self.classes)} {list(self.attributes)}"))
        for name, rows in self.splits.items():
            found.update(as_bytes("\n".join([name, *rows.ids, *digests[name]])))
            for array in (rows.y, rows.a):
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


def as_bytes(text: str) -> bytes:
    """A text in UTF-8; names of files that are no text at all keep their bytes."""
    return text.encode("utf-8", "surrogateescape")


def plainly(text: str) -> str:
    """A text that any file can hold, whatever bytes a file system made it from."""
    return text.encode("utf-8", "backslashreplace").decode()


def stamp(file: str) -> str:
    """Size and time of a file; empty if it is not there."""
    try:
        found = os.stat(file)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


# ---- folders of classes ---------------------------------------------------------------------------------------------


def image_folder(folder: Path, classes: Sequence[str], origin: str) -> Listing | None:
    """The layout `{train,validation,test}/<class>/<picture>`; None if there is no folder `train`."""
    if not (folder / "train").is_dir():
        return None
    if odd := [name for name in classes if CONTROL.search(name)]:
        raise BadData(f"{folder}: {odd[0]!r} cannot name a class: it holds a character that cannot be shown")
    places = {split: split_folder(folder, names) for split, names in FOLDERS.items()}
    splits = {split: class_folders(folder, place, classes) for split, place in places.items() if place}
    used = {file for rows in splits.values() for file in rows.files or ()}
    unused = [os.path.relpath(file, folder) for file in files_below(folder) if file not in used]
    return Listing("image folder", folder, splits, classes, origin=origin, unused=sorted(unused))


def split_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """The folder of a split, under one of its names."""
    there = [name for name in names if (folder / name).is_dir()]
    if len(there) > 1:
        raise BadData(f"{folder}: {' and '.join(there)} are names of one split; keep the folder that is meant")
    return folder / there[0] if there else None


def class_folders(folder: Path, place: Path, classes: Sequence[str]) -> Rows:
    """The pictures of one split, class after class, in the order of their names."""
    for entry in sorted(place.iterdir()):
        if entry.is_dir() and entry.name not in classes and not entry.name.startswith("."):
            raise BadData(f"{entry}: {unknown('class', entry.name, classes)}")
    files, y = [], []
    for label, name in enumerate(classes):
        if not (place / name).is_dir():
            raise BadData(f"{place}: no folder for the class '{name}'")
        found = sorted(p for p in (place / name).iterdir() if pictured(p.name) and not p.is_dir())
        files += [str(path) for path in found]
        y += [label] * len(found)
    if not files:
        raise BadData(f"{place}: no pictures ({', '.join(SUFFIXES)}) in its folders")
    ids = [str(Path(file).relative_to(folder)) for file in files]
    return Rows(ids, np.array(y, np.int64), files=files)


def pictured(name: str) -> bool:
    """Whether a file is taken for a picture; hidden ones are what systems leave beside them."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def files_below(folder: Path) -> Iterator[str]:
    """Every file of a folder and of those in it but for hidden ones that are no pictures."""
    for home, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(".") or name.lower().endswith(SUFFIXES):
                yield os.path.join(home, name)


# ---- tables ---------------------------------------------------------------------------------------------------------


def table(folder: Path, attribute: str, classes: Sequence[str] = (), attributes: Sequence[str] = ()) -> Listing | None:
    """The layout of a `metadata.csv` with columns img_filename, y, split (0, 1, 2) and one for the attribute.

    None if there is no such file. Names of classes and attributes are made up where none are given.
    """
    file = folder / "metadata.csv"
    if not os.path.lexists(file):
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
    splits, unused = parted(folder, found["img_filename"], y, a, split)
    return Listing("metadata.csv", folder, splits, classes, attributes, unused=unused)


def parted(
    folder: Path, names: Sequence[str], y: Integers, a: Integers, split: Integers
) -> tuple[dict[str, Rows], list[str]]:
    """The rows of each split that has any, every file of which must be there, once; and pictures in none of them."""
    unused = located(folder, names)
    splits = {}
    for number, name in enumerate(SPLITS):
        chosen = np.flatnonzero(split == number).tolist()
        if chosen:
            ids = [names[i] for i in chosen]
            splits[name] = Rows(ids, y[chosen], a[chosen], [str(folder / each) for each in ids])
    return splits, unused


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


@dataclass(frozen=True)
class Place:
    """A folder that holds pictures: what tells it from others, and the names of its files."""

    identity: tuple[int, int]
    files: frozenset[str]

    @classmethod
    def at(cls, folder: Path) -> Place:
        """The folder, or an empty one where there is none."""
        try:
            found = folder.stat()
            return cls((found.st_dev, found.st_ino), frozenset(os.listdir(folder)))
        except OSError:
            return cls((0, 0), frozenset())


def located(folder: Path, names: Sequence[str]) -> list[str]:
    """Pictures that lie beside those of a table, and are not in it.

    Raises BadData, with their number, for names that lead elsewhere, files that are missing and files named twice,
    however their paths are spelt. Folders are listed, not asked file by file.
    """
    parts = [os.path.split(name) for name in names]
    for name in names:
        if os.path.isabs(name) or os.path.normpath(name).split("/")[0] == ".." or CONTROL.search(name):
            raise BadData(f"{folder}: {name[:200]!r} is no path of a picture below it, such as img/1.jpg")
    places = {parent: Place.at(folder / parent) for parent in {parent for parent, _ in parts}}
    if missing := [name for name, (parent, file) in zip(names, parts, strict=True) if file not in places[parent].files]:
        why = "write '/' for '\\'" if "\\" in missing[0] else "an archive half unpacked?"
        raise BadData(
            f"{folder}: {len(missing):,} of {len(names):,} pictures are missing, the first is {missing[0]!r} ({why})"
        )
    keys = [(places[parent].identity, file) for parent, file in parts]
    listed_once(folder, names, keys)
    return beside(places, set(keys))


def listed_once(folder: Path, names: Sequence[str], keys: Sequence[tuple[tuple[int, int], str]]) -> None:
    """Raise BadData if two names have one key, which tells files whatever path leads to them."""
    at = {key: row for row, key in reversed(list(enumerate(keys)))}
    if again := [row for row, key in enumerate(keys) if at[key] != row]:
        first, other = names[at[keys[again[0]]]], names[again[0]]
        what = repr(first) if first == other else f"{first!r}, also as {other!r}"
        raise BadData(f"{folder}: {len(again):,} of the pictures are listed more than once, the first is {what}")


def beside(places: Mapping[str, Place], keys: set[tuple[tuple[int, int], str]]) -> list[str]:
    """Pictures in these folders that have none of the keys."""
    every = ((parent, place, file) for parent, place in places.items() for file in place.files if pictured(file))
    return sorted(os.path.join(parent, file) for parent, place, file in every if (place.identity, file) not in keys)
