"""SpuCoMNIST: five pairs of digits, each mostly on a background of its own colour.

An image has 28 × 28 pixels; y is the pair, 0 for the digits 0 and 1 up to 4 for 8 and 9. The attribute a is the
background's colour, number y for the share `agreement` of the training images of each class and each of the others
equally often; in validation and test every colour is equally frequent. By `difficulty` the colour covers the whole
background (magnitude_easy), its upper left corner of 4 × 4 (magnitude_medium), 2 × 2 (magnitude_hard) or 7 × 7 pixels
(variance_easy), or 49 pixels drawn for each image from the upper left quarter (variance_medium) or anywhere
(variance_hard).

Source: Joshi et al., "Towards Mitigating Spurious Correlations in the Wild", arXiv 2306.11957, and the package spuco:
classes, colours, difficulties, agreement 0.995; of its examples SGD with momentum, batches of 32, 20 epochs.
Differs: validation is 12,000 training digits drawn with the seed, where theirs are a list; the network is small_conv,
theirs a LeNet; noise is cut off at black and white.
Licence: MNIST: Y. LeCun, C. Cortes and C. Burges, CC BY-SA 3.0.
Groups (y, a): 48,000 training, 12,000 validation and 10,000 test images; with agreement 0.995 about 9,500 training
images of each class where y = a, else about 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from spurbench.bench.plugins.dataset import Data, Split, Training
from spurbench.datasets.data.mnist import Digits
from spurbench.datasets.data.shortcuts import check_share, off_diagonal, scatter

COLOURS = torch.tensor([[255, 0, 0], [209, 255, 0], [0, 255, 92], [0, 116, 255], [185, 0, 255]], dtype=torch.uint8)
CORNERS = {"magnitude_easy": 28, "magnitude_medium": 4, "magnitude_hard": 2, "variance_easy": 7}
AREAS = {"variance_medium": 14, "variance_hard": 28}
DRAWN = 49  # pixels of those areas
VALIDATION, EVEN = 12_000, 0.2


@dataclass(frozen=True)
class SpuCoMNIST(Digits):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    conflicting: ClassVar[tuple[int, ...]] = off_diagonal(5)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "bias_conflicting_accuracy"), ("test", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    training: ClassVar[Training] = Training(
        network="small_conv", optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, steps=30_000, batch=32,
        evaluate=1500)  # fmt: skip
    mean: ClassVar[tuple[float, ...]] = (0.0, 0.0, 0.0)
    std: ClassVar[tuple[float, ...]] = (1.0, 1.0, 1.0)

    agreement: float = 0.995  # share of the training images of each class whose colour is the class's
    difficulty: Literal["magnitude_easy", "magnitude_medium", "magnitude_hard", "variance_easy", "variance_medium",
                        "variance_hard"] = "magnitude_easy"  # fmt: skip
    label_noise: float = 0.0  # share of the training images that get the label of another class
    feature_noise: float = 0.0  # share of the training images whose pixels get standard normal noise

    def __post_init__(self) -> None:
        check_share(
            self.called, agreement=self.agreement, label_noise=self.label_noise, feature_noise=self.feature_noise
        )

    @property
    def classes(self) -> int:
        return 5

    def data(self, seed: int) -> Data:
        random = torch.Generator().manual_seed(seed)
        known, test = self.split("train"), self.split("test")
        order = torch.randperm(len(known.y), generator=random)
        size = VALIDATION * len(order) // 60_000
        validation, train = (
            self.on_colours(known.x[rows, 0], known.y[rows] // 2, share, random)
            for rows, share in ((order[:size], EVEN), (order[size:], self.agreement))
        )
        tests = {"validation": validation, "test": self.on_colours(test.x[:, 0], test.y // 2, EVEN, random)}
        return Data(self.noisy(train, random), tests, 5, 5, mean=self.mean, std=self.std)

    def on_colours(self, digits: Tensor, y: Tensor, agreement: float, random: torch.Generator) -> Split:
        """Digits [n, 28, 28] before their backgrounds."""
        a = scatter(y, 5, agreement, random)
        behind = self.background(len(y), random) & (digits == 0)
        x = torch.stack([torch.where(behind, COLOURS[a, channel, None, None], digits) for channel in range(3)], 1)
        return Split(x, y, a)

    def background(self, n: int, random: torch.Generator) -> Tensor:
        """Which pixels the colour covers where there is no digit, [n, 28, 28] or the same for all [28, 28]."""
        if side := CORNERS.get(self.difficulty):
            covered = torch.zeros(28, 28, dtype=torch.bool)
            covered[:side, :side] = True
            return covered
        side = AREAS[self.difficulty]
        places = torch.rand(n, side * side, generator=random).argsort(1)[:, :DRAWN]
        chosen = torch.zeros(n, side * side, dtype=torch.bool).scatter_(1, places, True)
        return torch.nn.functional.pad(chosen.view(n, side, side), (0, 28 - side, 0, 28 - side))

    def noisy(self, split: Split, random: torch.Generator) -> Split:
        """The training images with noise in labels and pixels."""
        n = len(split.y)
        relabelled = torch.randperm(n, generator=random)[: int(self.label_noise * n)]
        shift = torch.randint(1, 5, (len(relabelled),), generator=random)
        split.y[relabelled] = (split.y[relabelled] + shift) % 5
        rows = torch.randperm(n, generator=random)[: int(self.feature_noise * n)]
        noise = torch.randn(len(rows), *split.x.shape[1:], generator=random)
        split.x[rows] = (split.x[rows] + 255 * noise).clamp(0, 255).byte()
        return split
