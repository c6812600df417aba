"""CelebA: faces of celebrities; is the hair blond (y = 1)? The attribute a is whether the person is called male.

Of the blond training faces 6 % are male: a network that assumes dark hair in men is seldom wrong on average.

Source: Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015; task, splits and images (middle square of
178 pixels, resized to 224) of Sagawa et al., arXiv 1911.08731; protocol of Pezeshki et al., "Gradient Starvation",
NeurIPS 2021, Section 4.4: ResNet-50, one logit, Adam, batches of 128, as long as its released code trains (3 epochs).
Its text has a learning rate of 1e-4 (as here), its scripts 1e-5.
Licence: for non-commercial research only, by agreement with its authors.
Groups (y, a): training 71,629, 66,874, 22,880, 1,387; validation 8,535, 8,276, 2,874, 182; test 9,767, 7,535, 2,480,
180.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from spurbench.bench.core.errors import BadData
from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, file_md5, first, other_than, parted
from spurbench.bench.images.tables import columns, integers, picked, readable
from spurbench.bench.plugins.dataset import Training

HOMES = ("", "celeba", "celebA", "CelebA", "celebA_v1.0", "celebA/data", "data")
MD5 = {
    "list_attr_celeba.txt": "75e246fa4810816ffd6ee81facbd244c",
    "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
}


@dataclass(frozen=True)
class CelebA(Pictures):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    conflicting: ClassVar[tuple[int, ...]] = (0, 3)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "accuracy"), ("train", "accuracy"))  # fmt: skip
    training: ClassVar[Training] = Training(
        network="timm:resnet50", pretrained="timm", optimizer="adam", lr=1e-4, steps=3813, batch=128,
        evaluate=1271)  # fmt: skip
    published: ClassVar[dict[str, tuple[int, ...]]] = {
        "train": (71_629, 66_874, 22_880, 1_387),
        "validation": (8_535, 8_276, 2_874, 182),
        "test": (9_767, 7_535, 2_480, 180),
    }
    layouts: ClassVar[str] = "list_attr_celeba and list_eval_partition (.txt or .csv) beside img_align_celeba/"
    link: ClassVar[str] = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    fetch: ClassVar[str] = "wilds:celebA"

    size: int = 224  # side of the prepared images

    @property
    def crop(self) -> Crop:
        return Crop(self.size, square=True)

    def listing(self, folder: Path) -> Listing | None:
        lists = found(folder)
        if lists is None:
            return None
        attributes, partition = lists
        names, y, a = faces(attributes)
        at = {name: i for i, name in enumerate(names)}
        if len(at) < len(names):
            raise BadData(f"{attributes} lists {len(names) - len(at):,} of the pictures more than once")
        where = table(partition, "image_id", "partition")
        lacking = at.keys() ^ set(where["image_id"])
        if lacking:
            raise BadData(f"{partition} and {attributes.name} differ in {len(lacking):,} pictures")
        order = np.array([at[name] for name in where["image_id"]])
        split = integers(partition, "partition", where["partition"], (0, 1, 2))
        splits, unused = parted(pictures(folder), where["image_id"], y[order], a[order], split)
        kind, doubts = f"CelebA's {attributes.suffix} lists", other_than(MD5, {f.name: file_md5(f) for f in lists})
        return Listing(kind, folder, splits, ("dark", "blond"), ("female", "male"), doubts=doubts, unused=unused)


def found(folder: Path) -> tuple[Path, Path] | None:
    """The list of attributes and that of splits; None if there is neither."""
    for home in (folder / name for name in HOMES):
        attributes, partition = (
            first(home / room / (stem + end) for end in (".csv", ".txt") for room in ("", "Anno", "Eval"))
            for stem in ("list_attr_celeba", "list_eval_partition")
        )
        if attributes and partition:
            return attributes, partition
        if attributes or partition:
            raise BadData(f"{home}: no {'list_eval_partition' if attributes else 'list_attr_celeba'} (.txt or .csv)")
    return None


def table(file: Path, *wanted: str) -> dict[str, list[str]]:
    """Columns of a list: comma-separated, or the authors' text whose first line may count the rows."""
    if file.suffix == ".csv":
        return columns(file, wanted)
    lines = list(enumerate(readable(file).splitlines(), 1))
    header = ["image_id", "partition"]
    if "partition" not in wanted:
        header, lines = ["image_id", *(lines[1][1].split() if len(lines) > 1 else [])], lines[2:]
    return picked(file, header, ((number, line.split()) for number, line in lines), wanted)


def faces(file: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the images, blond [n] and male [n] as 0 and 1."""
    found = table(file, "image_id", "Blond_Hair", "Male")
    y, a = (integers(file, name, found[name], (-1, 0, 1)) > 0 for name in ("Blond_Hair", "Male"))
    return found["image_id"], y.astype(np.int64), a.astype(np.int64)


def pictures(folder: Path) -> Path:
    """The folder of the images; raises BadData if it is still packed or not there."""
    inside = ("img_align_celeba/img_align_celeba", "Img/img_align_celeba", "img_align_celeba")
    there = first(folder / home / room for home in HOMES for room in inside)
    if there:
        return there
    packed = first(folder / home / room / "img_align_celeba.zip" for home in HOMES for room in ("", "Img"))
    if packed and not zipfile.is_zipfile(packed):
        raise BadData(f"{packed} is not whole ({packed.stat().st_size:,} bytes): download it again")
    raise BadData(f"{packed}: unpack it first" if packed else f"{folder}: no folder img_align_celeba")
