"""What a folder of images holds, listed before anything is decoded, in layouts that fit any dataset."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from spurbench.bench.core.errors import BadData, unknown
from spurbench.bench.images.decode import Pixels
from spurbench.bench.images.tables import Integers, columns, integers

SPLITS = ("train", "validation", "test")  # in the order of the numbers 0, 1, 2 that split columns hold
FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # characters that a name in a table may not contain
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class Alteration(Protocol):
    """What is done to decoded images, in processes that import no torch; its `repr` identifies it."""

    def __call__(self, pixels: Pixels, a: Integers, start: int) -> Pixels:
        """The altered images of a part [n, 3, side, side] with these attributes; it begins at row `start`."""


@dataclass
class Rows:
    """The images of one split: the file or pixels of each, its class and its attribute."""

    ids: list[str]
    y: Integers  # [n]
    a: Integers | None = None  # [n]
    files: list[str] | None = None
    pixels: Pixels | None = None  # [n, 3, side, side]
    alter: Alteration | None = None

    @cached_property
    def stamps(self) -> list[str]:
        """Size and time of each file when it was first looked at; none for pixels already in memory."""
        return [] if self.files is None else [file_stamp(file) for file in self.files]

    def counts(self, classes: int, attributes: int) -> list[int]:
        """The number of images in each group y * attributes + a."""
        group = self.y if self.a is None else self.y * attributes + self.a
        found: list[int] = np.bincount(group, minlength=classes * attributes).tolist()
        return found


@dataclass
class Listing:
    """All splits of a folder, with a description of where they come from."""

    layout: str
    folder: Path
    splits: dict[str, Rows]
    classes: Sequence[str]
    attributes: Sequence[str] = ()
    origin: str = "original"  # what the files are at best: the published ones, or a version of them
    doubts: list[str] = field(default_factory=list)  # why they may not be what `origin` says
    unused: Sequence[str] = ()  # files of the folder that are in no split

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever images with other names or paths would be prepared, or the same ones with other labels."""
        found = hashlib.sha256(encode(f"{self.layout} {self.folder} {list(self.classes)} {list(self.attributes)}"))
        for name, rows in self.splits.items():
            found.update(encode("\n".join([name, *rows.ids, *(rows.files or ())])))
            found.update(b"" if rows.alter is None else encode(repr(rows.alter)))
            for array in (rows.y, rows.a, rows.pixels):
                found.update(b"" if array is None else np.ascontiguousarray(array).data)
        return found.hexdigest()

    @cached_property
    def stamp(self) -> str:
        """Changes whenever one of the files is written."""
        every = [f"{name} {one}" for name, rows in self.splits.items() for one in rows.stamps]
        return hashlib.sha256("\n".join(every).encode()).hexdigest()

    def content(self, digests: Mapping[str, Sequence[str]]) -> str:
        """Identifies images, names, labels and splits, wherever they lie; `digests` are the images', by split."""
        found = hashlib.sha256(encode(f"{list(self.classes)} {list(self.attributes)}"))
        for name, rows in self.splits.items():
            found.update(encode("\n".join([name, *rows.ids, *digests[name]])))
            found.update(b"" if rows.alter is None else encode(repr(rows.alter)))
            for array in (rows.y, rows.a):
                found.update(b"" if array is None else np.ascontiguousarray(array).data)
        return found.hexdigest()

    def check(self, published: Mapping[str, Sequence[int]], other: str, checksums: bool = True) -> None:
        """Raise BadData unless counts (of each group, by split) and checksums are those of the published data.

        `other` says how to declare the images to be something else.
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
                f"{self.folder}: {sum(got):,} {name} images, {format_counts(got)} in each group; "
                f"expected {sum(expected):,}, {format_counts(expected)} ({self.layout}). Is it complete? {other}"
            )
        if self.doubts and checksums:
            more = f" (and {len(self.doubts) - 1} more)" if len(self.doubts) > 1 else ""
            raise BadData(f"{self.folder}: {self.doubts[0]}{more}. {other}")

    def trainable(self) -> None:
        """Raise BadData unless there are images to train on and images to test on."""
        for split in ("train", "test"):
            if not len(self.splits[split].y if split in self.splits else ()):
                raise BadData(f"{self.folder}: no images in the {split} split ({self.layout})")
        present = set(self.splits["train"].y.tolist())
        if len(present) < 2:
            raise BadData(f"{self.folder}: all training images are of one class ({self.layout})")
        for label, name in enumerate(self.classes):
            if label not in present:
                raise BadData(f"{self.folder}: no training images of the class '{name}' ({self.layout})")


def format_counts(counts: Sequence[int]) -> str:
    """Counts of groups in short form."""
    if len(set(counts)) == 1 and len(counts) > 4:
        return f"{counts[0]:,}"
    text = ", ".join(f"{count:,}" for count in counts[:8])
    return f"{text}, …" if len(counts) > 8 else text or "none"


def encode(text: str) -> bytes:
    """Text in UTF-8; file names that are not valid text keep their bytes."""
    return text.encode("utf-8", "surrogateescape")


def make_printable(text: str) -> str:
    """Text that can be written to any file, whatever bytes a file system made it from."""
    return text.encode("utf-8", "backslashreplace").decode()


def file_stamp(file: str) -> str:
    """Size and time of a file; empty if there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


# ---- folders of classes ---------------------------------------------------------------------------------------------


def image_folder(folder: Path, classes: Sequence[str], origin: str) -> Listing | None:
    """The layout `{train,validation,test}/<class>/<image>`; None if there is no folder `train`."""
    if not (folder / "train").is_dir():
        return None
    if odd := [name for name in classes if CONTROL.search(name)]:
        raise BadData(f"{folder}: {odd[0]!r} cannot name a class: it contains a character that cannot be shown")
    places = {split: split_folder(folder, names) for split, names in FOLDERS.items()}
    splits = {split: class_folders(folder, place, classes) for split, place in places.items() if place}
    used = {file for rows in splits.values() for file in rows.files or ()}
    unused = [os.path.relpath(file, folder) for file in files_below(folder) if file not in used]
    return Listing("image folder", folder, splits, classes, origin=origin, unused=sorted(unused))


def split_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """The folder of a split, under one of its names."""
    there = [name for name in names if (folder / name).is_dir()]
    if len(there) > 1:
        raise BadData(f"{folder}: {' and '.join(there)} are names of the same split; keep only the intended folder")
    return folder / there[0] if there else None


def class_folders(folder: Path, place: Path, classes: Sequence[str]) -> Rows:
    """The images of one split, class by class, in the order of their names."""
    for entry in sorted(place.iterdir()):
        if entry.is_dir() and entry.name not in classes and not entry.name.startswith("."):
            raise BadData(f"{entry}: {unknown('class', entry.name, classes)}")
    files, y = [], []
    for label, name in enumerate(classes):
        if not (place / name).is_dir():
            raise BadData(f"{place}: no folder for the class '{name}'")
        found = images_in(place / name)
        files += [str(path) for path in found]
        y += [label] * len(found)
    if not files:
        raise BadData(f"{place}: no images ({', '.join(SUFFIXES)}) in its folders")
    ids = [str(Path(file).relative_to(folder)) for file in files]
    return Rows(ids, np.array(y, np.int64), files=files)


def images_in(place: Path) -> list[Path]:
    """The images in a folder, in the order of their names; raises BadData if there is no such folder."""
    if not place.is_dir():
        raise BadData(f"no folder {place} (a partly unpacked archive?)")
    return sorted(path for path in place.iterdir() if is_image(path.name) and not path.is_dir())


def labelled_files(folder: Path, images: Iterable[tuple[Path, int, int]]) -> Rows:
    """The rows of a split from its images below `folder`, each with its class and its attribute."""
    files, y, a = zip(*images, strict=True) if (images := list(images)) else ((), (), ())
    ids = [str(file.relative_to(folder)) for file in files]
    return Rows(ids, np.array(y, np.int64), np.array(a, np.int64), list(map(str, files)))


def is_image(name: str) -> bool:
    """Whether a file counts as an image; hidden files are left behind by operating systems."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def files_below(folder: Path) -> Iterator[str]:
    """Every file of a folder and its sub-folders, except hidden ones that are not images."""
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
            raise BadData(f"{file}: column '{name}' has no {gaps[0]}; its values must count from 0 without gaps")
    splits, unused = parted(folder, found["img_filename"], y, a, split)
    return Listing("metadata.csv", folder, splits, classes, attributes, unused=unused)


def parted(
    folder: Path, names: Sequence[str], y: Integers, a: Integers, split: Integers
) -> tuple[dict[str, Rows], list[str]]:
    """The rows of each split that has any, each file of which must exist once; and the images in no split."""
    unused = check_files(folder, names)
    splits = {}
    for number, name in enumerate(SPLITS):
        chosen = np.flatnonzero(split == number).tolist()
        if chosen:
            ids = [names[i] for i in chosen]
            splits[name] = Rows(ids, y[chosen], a[chosen], [str(folder / each) for each in ids])
    return splits, unused


def other_than(published: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """A complaint about each file whose MD5 is not the published one."""
    return [
        f"{name} is not the published file (MD5 {md5})"
        for name, md5 in found.items()
        if published.get(name, md5) != md5
    ]


def other_number(images: int, published: Sequence[int]) -> list[str]:
    """A complaint if there are not as many images as in one of the published versions."""
    expected = " or ".join(f"{count:,}" for count in published)
    return [] if images in published else [f"{images:,} images, expected {expected} (is it complete?)"]


def file_md5(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def first(places: Iterable[Path]) -> Path | None:
    """The first of several paths that exists."""
    return next((place for place in places if place.exists()), None)


@dataclass(frozen=True)
class ImageDirectory:
    """A folder that holds images: what identifies it, and the names of its files."""

    identity: tuple[int, int]
    files: frozenset[str]

    @classmethod
    def at(cls, folder: Path) -> ImageDirectory:
        """The folder, or an empty one if there is none."""
        try:
            found = folder.stat()
            return cls((found.st_dev, found.st_ino), frozenset(os.listdir(folder)))
        except OSError:
            return cls((0, 0), frozenset())


def check_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Images that lie beside those of a table, but are not in it.

    Raises BadData for names that lead elsewhere, and, with their number, for missing files and for files listed twice,
    however their paths are spelt. Folders are listed once instead of testing each file.
    """
    parts = [os.path.split(name) for name in names]
    for name in names:
        if os.path.isabs(name) or os.path.normpath(name).split("/")[0] == ".." or CONTROL.search(name):
            raise BadData(f"{folder}: {name[:200]!r} is not the path of an image below it, such as img/1.jpg")
    places = {parent: ImageDirectory.at(folder / parent) for parent in {parent for parent, _ in parts}}
    if missing := [name for name, (parent, file) in zip(names, parts, strict=True) if file not in places[parent].files]:
        why = "write '/' for '\\'" if "\\" in missing[0] else "a partly unpacked archive?"
        raise BadData(
            f"{folder}: {len(missing):,} of {len(names):,} images are missing, the first is {missing[0]!r} ({why})"
        )
    keys = [(places[parent].identity, file) for parent, file in parts]
    check_listed_once(folder, names, keys)
    return find_unlisted(places, set(keys))


def check_listed_once(folder: Path, names: Sequence[str], keys: Sequence[tuple[tuple[int, int], str]]) -> None:
    """Raise BadData if two names have the same key, which identifies a file whatever path leads to it."""
    at = {key: row for row, key in reversed(list(enumerate(keys)))}
    if again := [row for row, key in enumerate(keys) if at[key] != row]:
        first, other = names[at[keys[again[0]]]], names[again[0]]
        what = repr(first) if first == other else f"{first!r}, also as {other!r}"
        raise BadData(f"{folder}: {len(again):,} of the images are listed more than once, the first is {what}")


def find_unlisted(places: Mapping[str, ImageDirectory], keys: set[tuple[tuple[int, int], str]]) -> list[str]:
    """Images in these folders that have none of the keys."""
    every = ((parent, place, file) for parent, place in places.items() for file in place.files if is_image(file))
    return sorted(os.path.join(parent, file) for parent, place, file in every if (place.identity, file) not in keys)
