"""Dominoes: a handwritten digit above a photograph; the digit predicts the class more easily than the photograph does.

An image has 64 × 32 pixels: above a 0 or a 1 of MNIST, grey, with two black pixels all around, below a car (y = 0) or
a truck (y = 1) of CIFAR-10. Every photograph of the two classes is used once. The digit a is y with probability
`agreement`, else 1 − y, and drawn with replacement from the digits of that kind, training ones above training
photographs. A share `validation` of the training photographs is held out, below digits drawn evenly and independently
of y. Test splits: `test` made like training; `random_digit` with such digits, too (how much of the accuracy rests on
the photograph); `random_photo` with the photographs shuffled, so that only digits predict y.

Source: Shah et al., "The Pitfalls of Simplicity Bias in Neural Networks", NeurIPS 2020, Section 3.3 (MNIST-CIFAR):
blocks, classes and the two randomised tests, with agreement 1. There each block is shuffled within its class; the split
for validation, network and training are ours.
Licence: MNIST: Y. LeCun, C. Cortes and C. Burges, CC BY-SA 3.0; CIFAR-10: none stated by its authors.
Groups (y, a): with agreement 1 none with a ≠ y in training and test, which have 9,000 and 2,000 images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from spurbench.bench.core.errors import UserError
from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.idx import read_splits
from spurbench.bench.images.listing import Listing, Rows
from spurbench.bench.plugins.dataset import Data, Split, Training
from spurbench.datasets.cifar10 import CIFAR10, CLASSES


@dataclass(frozen=True)
class Dominoes(Pictures):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("random_digit", "accuracy"), ("test", "accuracy"), ("random_photo", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test", "random_digit", "random_photo")
    conflicting: ClassVar[tuple[int, ...]] = (1, 2)
    protocol_version: ClassVar[int] = 2
    training: ClassVar[Training] = Training(
        network="small_conv", optimizer="sgd", lr=0.01, momentum=0.9, steps=780, batch=256
    )
    published: ClassVar[dict[str, tuple[int, ...]]] = {"train": (5_923, 6_742), "test": (980, 1_135)}
    layouts: ClassVar[str] = "MNIST's four idx files, gzipped or not, or torchvision's MNIST/raw/"
    link: ClassVar[str] = "http://yann.lecun.com/exdb/mnist"
    fetch: ClassVar[str] = "torchvision:MNIST"
    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)

    photos: str = "original"  # the origin of CIFAR-10's prepared images; `origin` is that of the digits
    agreement: float = 1.0  # share of the images whose digit is the class
    validation: float = 0.1  # share of the training photographs that is held out

    @property
    def crop(self) -> Crop:
        return Crop(32, exact=True)

    def listing(self, folder: Path) -> Listing | None:
        """The digits 0 and 1."""
        found = read_splits(folder)
        if found is None:
            return None
        splits = {}
        for name, (pixels, y) in found[0].items():
            rows = np.flatnonzero(y < 2)
            grey = np.pad(pixels[rows], ((0, 0), (2, 2), (2, 2)))
            splits[name] = Rows([f"{name}/{row:05}" for row in rows], y[rows], pixels=np.stack([grey] * 3, 1))
        return Listing("MNIST's idx files", folder, splits, ("0", "1"), doubts=found[1])

    def data(self, seed: int) -> Data:
        if not 0 <= self.agreement <= 1:
            raise UserError(f"{self.called}: agreement must lie in 0..1, not {self.agreement}")
        if not 0 < self.validation < 1:
            raise UserError(f"{self.called}: validation must lie between 0 and 1, not {self.validation}")
        random = torch.Generator().manual_seed(seed)
        photos = CIFAR10(self.photos).data(seed)
        (train, y), (test, held_out) = (vehicles(split) for split in (photos.train, photos.tests["test"]))
        digits, test_digits = self.split("train"), self.split("test")
        held, kept = torch.randperm(len(y), generator=random).tensor_split([max(1, int(self.validation * len(y)))])
        mixed = test[torch.randperm(len(test), generator=random)]
        ways = {"test": (test, self.agreement), "random_digit": (test, 0.5), "random_photo": (mixed, self.agreement)}
        tests = {name: domino(test_digits, below, held_out, share, random) for name, (below, share) in ways.items()}
        tests["validation"] = domino(digits, train[held], y[held], 0.5, random)
        own = domino(digits, train[kept], y[kept], self.agreement, random)
        return Data(own, tests, 2, 2, mean=self.mean, std=self.std)

    def files(self) -> str:
        return f"digits: {super().files()}; photographs: those of cifar10"

    def checksum(self) -> str:
        return f"{super().checksum()} {CIFAR10(self.photos).checksum()}"


def vehicles(split: Split) -> tuple[Tensor, Tensor]:
    """Photographs of cars and trucks [n, 3, 32, 32], and which are trucks [n]."""
    car, truck = CLASSES.index("automobile"), CLASSES.index("truck")
    rows = ((split.y == car) | (split.y == truck)).nonzero()[:, 0]
    return torch.index_select(split.x, 0, rows), (split.y[rows] == truck).long()


def domino(digits: Split, photos: Tensor, y: Tensor, share: float, random: torch.Generator) -> Split:
    """A digit above each photograph, [n, 3, 64, 32]; it is y with probability `share`."""
    a = y ^ (torch.rand(len(y), generator=random) >= share).long()
    above = torch.empty_like(photos)
    for digit in (0, 1):
        kind = (digits.y == digit).nonzero()[:, 0]
        wanted = (a == digit).nonzero()[:, 0]
        above[wanted] = digits.x[kind[torch.randint(len(kind), (len(wanted),), generator=random)]]
    return Split(torch.cat([above, photos], 2), y, a)
