"""UrbanCars: is it a city car (y = 0) or a country car (y = 1)? Background and a further object go along with it.

In the middle is a car, before a place of the city or the country, below it an object seen there. In training 95 % of
the cars are before the place that suits them, and independently 95 % beside the object that does; in validation and
test, half of them. Attributes: `background` and `cooccurring`, the object, each `urban` or `country`.

Source: Li et al., "A Whac-A-Mole Dilemma", CVPR 2023, arXiv 2212.04825, and its released code: ResNet-50 with
ImageNet's weights, SGD, batches of 128, 300 epochs, images of 224 × 224. The set can no longer be built: the Stanford
Cars are not distributed any more; `two_shortcuts` is a set that can.
Differs: training images are flipped and not altered otherwise.
Licence: CC BY-NC 4.0 for the code; the images are of Stanford Cars, Places and LVIS.
Groups (y, background, cooccurring): training 3,610, 190, 190, 10, 10, 190, 190, 3,610; validation and test 125 of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import ClassVar

from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, first, images_in, labelled_files
from spurbench.bench.plugins.dataset import Data, Split, Training

WORDS = ("urban", "country")
CONTENTS = tuple(product((0, 1), (0, 1), (0, 1)))  # car, background and object of each group
SPLITS = {  # folder, agreement and number of images
    "train": ("bg-0.95_co_occur_obj-0.95/train", 0.95, 8_000),
    "validation": ("bg-0.5_co_occur_obj-0.5/val", 0.5, 1_000),
    "test": ("bg-0.5_co_occur_obj-0.5/test", 0.5, 1_000),
}
Contents = tuple[int, int, int]


@dataclass(frozen=True)
class UrbanCars(Pictures):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    conflicting: ClassVar[tuple[int, ...]] = (3, 4)  # neither background nor object suits the car
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "unbiased_accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    named: ClassVar[tuple[str, ...]] = ("background", "cooccurring")
    training: ClassVar[Training] = Training(
        network="timm:resnet50", pretrained="timm", logits=2, optimizer="sgd", lr=0.001, momentum=0.9,
        weight_decay=1e-4, steps=18_900, batch=128, augment="flip", evaluate=63)  # fmt: skip
    published: ClassVar[dict[str, tuple[int, ...]]] = {
        "train": (3_610, 190, 190, 10, 10, 190, 190, 3_610),
        "validation": (125,) * 8,
        "test": (125,) * 8,
    }
    layouts: ClassVar[str] = "urbancars/ with bg-0.95_co_occur_obj-0.95/train/ and bg-0.5_co_occur_obj-0.5/{val,test}/"
    link: ClassVar[str] = "https://github.com/facebookresearch/Whac-A-Mole"

    size: int = 224  # side of the prepared images

    @property
    def crop(self) -> Crop:
        return Crop(self.size)

    def listing(self, folder: Path) -> Listing | None:
        train = SPLITS["train"][0]
        home = first(folder / name / train for name in ("", "urbancars", "data/urbancars"))
        if home is None:
            return None
        top = home.parents[1]
        splits = {name: labelled_files(folder, images(top / place)) for name, (place, _, _) in SPLITS.items()}
        attributes = [f"{background} background, {other} object" for background, other in product(WORDS, repeat=2)]
        return Listing("UrbanCars' folders", folder, splits, WORDS, attributes)

    def split(self, name: str) -> Split:
        """One split with its two attributes, which are prepared as one."""
        found = super().split(name)
        assert found.attribute is not None
        named = {"background": found.attribute // 2, "cooccurring": found.attribute % 2}
        return replace(found, attribute=None, named=named)

    def data(self, seed: int) -> Data:
        found = super().data(seed)
        return replace(found, attributes=1, named=dict.fromkeys(self.named, WORDS))


def images(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """The images of a split with their labels, without the masks beside them."""
    for car, background, other in CONTENTS:
        for file in images_in(folder / folder_name((car, background, other))):
            if not file.stem.endswith("_mask"):
                yield file, car, 2 * background + other


def folder_name(contents: Contents) -> str:
    car, background, other = (WORDS[part] for part in contents)
    return f"obj-{car}_bg-{background}_co_occur_obj-{other}"


def share(contents: Contents, split: str) -> float:
    """The share of a split's images with these contents."""
    car, *others = contents
    agreement = SPLITS[split][1]
    agrees = [agreement if other == car else 1 - agreement for other in others]
    return agrees[0] * agrees[1] / 2
