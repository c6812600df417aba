"""bFFHQ: portraits of young and old people; in training nearly all young ones are women and nearly all old ones men.

y is the age and a the gender, numbered 0 and 1 as the file names do it; which number is which is not documented. The
authors report the accuracy of the test images where a ≠ y: `bias_conflicting_accuracy`.

Source: Kim et al., "BiaSwap", ICCV 2021, as distributed and trained by Lee et al., "Learning Debiased Representation
via Disentangled Feature Augmentation", NeurIPS 2021, arXiv 2107.01372: ResNet-18 from scratch, Adam, batches of 64,
crops and flips, images resized to 224.
Licence: that of FFHQ: CC BY-NC-SA 4.0 for the dataset, the photographs have licences of their own.
Groups (y, a): no source with the counts of every group was found. Asserted are the share of the training images with
a ≠ y, 0.5, 1, 2 or 5 %, and with 0.5 % their number, 19,200 (not verified).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from spurbench.bench.core.errors import BadData
from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, Rows, first, images_in, labelled_files, other_number
from spurbench.bench.plugins.dataset import Training

NAME = re.compile(r".*_([01])_([01])")  # number, age, gender
TOTAL = 19_200  # training images of 0.5pct
ROOMS = {"align": True, "conflict": False}  # of the training images, and whether a = y there


@dataclass(frozen=True)
class BFFHQ(Pictures):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    conflicting: ClassVar[tuple[int, ...]] = (1, 2)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "bias_conflicting_accuracy"), ("test", "unbiased_accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    training: ClassVar[Training] = Training(
        network="timm:resnet18", logits=2, optimizer="adam", lr=1e-4, steps=50_000, batch=64, augment="crop,flip",
        evaluate=500)  # fmt: skip
    layouts: ClassVar[str] = "bffhq/ with 0.5pct/{align,conflict}/{0,1}/, valid/ and test/"
    link: ClassVar[str] = "https://github.com/kakaoenterprise/Learning-Debiased-Disentangled"
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2023, 0.1994, 0.2010)

    percent: Literal["0.5pct", "1pct", "2pct", "5pct"] = "0.5pct"  # of the training images, those with a ≠ y
    size: int = 224  # side of the prepared images

    @property
    def crop(self) -> Crop:
        return Crop(self.size)

    @property
    def chosen(self) -> Mapping[str, str]:
        return {"percent": self.percent}

    def version(self, origin: str) -> str:
        return f"{super().version(origin)}-{self.percent}"

    def listing(self, folder: Path) -> Listing | None:
        train = first(folder / home / self.percent for home in ("", "bffhq"))
        if train is None:
            return None
        places = {"validation": train.parent / "valid", "test": train.parent / "test"}
        splits = {"train": labelled_files(folder, training_images(train))}
        splits |= {name: labelled_files(folder, map(named, images_in(place))) for name, place in places.items()}
        labels = ("age 0", "age 1"), ("gender 0", "gender 1")
        return Listing("bFFHQ's folders", folder, splits, *labels, doubts=self.doubts(splits["train"]))

    def doubts(self, train: Rows) -> list[str]:
        """Complaints about the number of training images and the share with a ≠ y."""
        share = 100 * float((train.y != train.a).mean()) if len(train.y) else 0.0
        wanted = float(self.percent.removesuffix("pct"))
        right = abs(share - wanted) < wanted / 20
        said = [] if right else [f"{share:.2f} % of the images in {self.percent} are in conflict/, expected {wanted} %"]
        return said + (other_number(len(train.y), (TOTAL,)) if self.percent == "0.5pct" else [])


def training_images(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """The images in align/ and conflict/; raises BadData for one whose name contradicts its folder."""
    for room, same in ROOMS.items():
        for label in (0, 1):
            for file, y, a in map(named, images_in(folder / room / str(label))):
                if y != label or (a == y) != same:
                    raise BadData(f"{file}: its name says age {y} and gender {a}, unlike its folder")
                yield file, y, a


def named(file: Path) -> tuple[Path, int, int]:
    """A file with the age and the gender that its name says."""
    found = NAME.fullmatch(file.stem)
    if not found:
        raise BadData(f"{file}: expected a name such as 123_0_1.png, which ends in age and gender")
    return file, int(found[1]), int(found[2])
