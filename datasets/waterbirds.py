"""Waterbirds: birds cut out and pasted onto another background; is it a waterbird (y = 1)? a = 1: on water.

In training 95 % of the birds are where one expects them; in validation and test, half of each class are.

Source: Sagawa et al., "Distributionally Robust Neural Networks", arXiv 1911.08731 (CUB-200-2011 before Places):
images resized to 256 × 256, cropped to the middle 224; protocol of its sample command, without its sampler: ResNet-50,
SGD, batches of 128, 300 epochs.
Licence: for non-commercial research and education.
Groups (y, a): training 3,498, 184, 56, 1,057; validation 467, 466, 133, 133; test 2,255, 2,255, 642, 642.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, table
from spurbench.bench.plugins.dataset import Training

HOMES = ("", "waterbirds_v1.0", "waterbird_complete95_forest2water2", "data/waterbird_complete95_forest2water2")


@dataclass(frozen=True)
class Waterbirds(Pictures):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    conflicting: ClassVar[tuple[int, ...]] = (1, 2)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "adjusted_accuracy"), ("train", "accuracy"))  # fmt: skip
    training: ClassVar[Training] = Training(
        network="timm:resnet50", pretrained="timm", logits=2, optimizer="sgd", lr=0.001, momentum=0.9,
        weight_decay=1e-4, steps=11_100, batch=128, evaluate=37)  # fmt: skip
    published: ClassVar[dict[str, tuple[int, ...]]] = {
        "train": (3_498, 184, 56, 1_057),
        "validation": (467, 466, 133, 133),
        "test": (2_255, 2_255, 642, 642),
    }
    layouts: ClassVar[str] = "waterbird_complete95_forest2water2/ or waterbirds_v1.0/ with metadata.csv"
    link: ClassVar[str] = "https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz"
    fetch: ClassVar[str] = "wilds:waterbirds"

    size: int = 224  # side of the prepared images

    @property
    def crop(self) -> Crop:
        return Crop(self.size, margin=256 / 224)

    def listing(self, folder: Path) -> Listing | None:
        found = (table(folder / home, "place", ("landbird", "waterbird"), ("land", "water")) for home in HOMES)
        return next((listing for listing in found if listing), None)
