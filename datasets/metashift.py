"""MetaShift's cats and dogs: is it a cat (y = 1)? The attribute a is whether it is indoors.

Most cats were photographed indoors and most dogs outdoors.

Source: Liang and Zou, "MetaShift", ICLR 2022, arXiv 2202.06523 (images of Visual Genome); splits and protocol of Yang
et al., "Change is Hard", ICML 2023, arXiv 2302.12254, and its code SubpopBench: all four folders are pooled, a quarter
is the test and a tenth the validation; ResNet-50 with ImageNet's weights, SGD, batches of 108, 5,001 steps; images
resized to 256, middle square of 224.
Differs: SubpopBench draws its splits in the order in which the file system lists the files, which differs between
machines; here that is the order of their names.
Licence: MIT for MetaShift's annotations; the images are Visual Genome's, CC BY 4.0.
Groups: LISA's archive has 1,127 cats indoors, 446 outdoors, 899 dogs indoors, 1,109 outdoors, that of SubpopBench 3,499
images (not verified); one of the totals is asserted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, first, images_in, labelled_files, other_number
from spurbench.bench.plugins.dataset import Training

ARCHIVE = "MetaShift-Cat-Dog-indoor-outdoor"
PLACES = {  # folder → y, a; in SubpopBench's order
    "train/cat/cat(indoor)": (1, 1),
    "train/dog/dog(outdoor)": (0, 0),
    "test/cat/cat(outdoor)": (1, 0),
    "test/dog/dog(indoor)": (0, 1),
}
SEED, TEST, VALIDATION = 42, 0.25, 0.1
TOTALS = (3_499, 3_581)  # images of the archives in use


@dataclass(frozen=True)
class MetaShift(Pictures):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    conflicting: ClassVar[tuple[int, ...]] = (1, 2)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    training: ClassVar[Training] = Training(
        network="timm:resnet50", pretrained="timm", logits=2, optimizer="sgd", lr=0.001, momentum=0.9,
        weight_decay=1e-4, steps=5_001, batch=108, evaluate=300)  # fmt: skip
    layouts: ClassVar[str] = f"{ARCHIVE}/{{train,test}}/{{cat,dog}}/ with folders such as cat(indoor)"
    link: ClassVar[str] = "https://www.dropbox.com/s/a7k65rlj4ownyr2/metashift.tar.gz"

    size: int = 224  # side of the prepared images

    @property
    def crop(self) -> Crop:
        return Crop(self.size, square=True, margin=256 / 224)

    def listing(self, folder: Path) -> Listing | None:
        home = first(folder / name for name in (ARCHIVE, f"metashift/{ARCHIVE}"))
        home = home or (folder if (folder / "train/cat/cat(indoor)").is_dir() else None)
        if home is None:
            return None
        every = [(file, *labels) for place, labels in PLACES.items() for file in images_in(home / place)]
        random = np.random.RandomState(SEED)
        test = random.choice(len(every), int(len(every) * TEST), replace=False)
        left = np.setdiff1d(np.arange(len(every)), test)
        validation = random.choice(left, int(len(every) * VALIDATION), replace=False)
        rows = {"train": np.setdiff1d(left, validation), "validation": np.sort(validation), "test": np.sort(test)}
        splits = {name: labelled_files(folder, (every[row] for row in chosen)) for name, chosen in rows.items()}
        doubts = other_number(len(every), TOTALS)
        return Listing("MetaShift's folders", folder, splits, ("dog", "cat"), ("outdoors", "indoors"), doubts=doubts)
