"""Corrupted CIFAR-10: photographs of ten kinds of objects, each kind mostly corrupted in its own way.

An image has 32 × 32 pixels. The attribute a is its corruption, number y for the share `agreement` of the training
images of class y and each of the others equally often; in the test every corruption is equally frequent. Type 0: snow,
frost, fog, brightness, contrast, spatter, elastic, JPEG, pixelate, saturate. Type 1: Gaussian, shot, impulse and
speckle noise, Gaussian, defocus, glass, motion and zoom blur, none. Severities 1 to 4 are levels 2 to 5 of CIFAR-10-C.

Source: Nam et al., "Learning from Failure", NeurIPS 2020, arXiv 2007.02561, and its released code: which image is
corrupted how, agreement 0.95, 0.98, 0.99 or 0.995. Network and training: Lee et al., "Learning Debiased Representation
via Disentangled Feature Augmentation", NeurIPS 2021, arXiv 2107.01372, and its released code: ResNet-18, Adam, batches
of 256, crops and flips; Nam et al. train a ResNet-20 for 39,200 steps.
Differs: the random numbers of a corruption are those of the image's place in its split, the same for all seeds, and
not the authors', which nobody seeded.
Licence: that of CIFAR-10 (none stated by its authors); the photographs of ice: Apache 2.0.
Groups (y, a): with agreement 0.95, training 4,750 of each class where y = a, else 27 or 28; test 100 of each group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from spurbench.bench.core.errors import UserError
from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing
from spurbench.bench.plugins.dataset import Training
from spurbench.datasets.cifar10 import CIFAR10
from spurbench.datasets.data.corruptions import TYPES, Corruptions, check_installed
from spurbench.datasets.data.shortcuts import assign, assigned_counts, check_share, off_diagonal

EVEN = 0.1  # agreement in the test split: that of chance


@dataclass(frozen=True)
class CorruptedCIFAR10(Pictures):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    conflicting: ClassVar[tuple[int, ...]] = off_diagonal(10)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "unbiased_accuracy"), ("test", "bias_conflicting_accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("test",)
    training: ClassVar[Training] = Training(
        network="timm:resnet18", optimizer="adam", lr=0.001, steps=50_000, batch=256, augment="crop,flip")  # fmt: skip
    layouts: ClassVar[str] = CIFAR10.layouts
    link: ClassVar[str] = CIFAR10.link
    fetch: ClassVar[str] = CIFAR10.fetch
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2023, 0.1994, 0.2010)

    agreement: float = 0.95  # share of the training images of each class whose corruption is the class's
    severity: int = 4  # 1 to 4
    type: int = 0  # 0 or 1

    def __post_init__(self) -> None:
        check_share(self.called, agreement=self.agreement)
        if self.severity not in range(1, 5) or self.type not in range(2):
            given = f"severity {self.severity} and type {self.type}"
            raise UserError(f"{self.called}: there is no {given}; expected a severity from 1 to 4, type 0 or 1")

    @property
    def crop(self) -> Crop:
        return Crop(32, exact=True)

    @property
    def chosen(self) -> Mapping[str, str]:
        return {"type": f"{self.type}", "severity": f"{self.severity}", "agreement": f"{self.agreement}"}

    def version(self, origin: str) -> str:
        return f"{origin}-type{self.type}-severity{self.severity}-{self.agreement}"

    @property
    def shares(self) -> Mapping[str, float]:
        """The agreement of each split."""
        return {"train": self.agreement, "test": EVEN}

    @property
    def expected(self) -> Mapping[str, tuple[int, ...]]:
        return {name: assigned_counts(CIFAR10.published[name], share) for name, share in self.shares.items()}

    def listing(self, folder: Path) -> Listing | None:
        """CIFAR-10's images, each with its corruption."""
        found = CIFAR10().listing(folder)
        if found is None:
            return None
        names = TYPES[self.type]
        check_installed(names)
        splits = {
            name: replace(
                found.splits[name], a=assign(found.splits[name].y, 10, share),
                alter=Corruptions(names, self.severity + 1, (place,)),
            )
            for place, (name, share) in enumerate(self.shares.items())
        }  # fmt: skip
        return replace(found, splits=splits, attributes=names)
