"""Colored MNIST of LfF: ten digits, each mostly in its own colour; not the task of two colours that IRM is known for.

An image is a digit of 28 × 28 pixels, y, in a colour. The attribute a is the colour, number y for the share `agreement`
of the training digits of each class and each of the others equally often; in the test every colour is equally
frequent. Colours vary around ten means, by 0.05, 0.02, 0.01 or 0.005 at severities 1 to 4.

Source: Nam et al., "Learning from Failure", NeurIPS 2020, arXiv 2007.02561, and its released code: which digit has
which colour, agreement 0.95, 0.98, 0.99 or 0.995; three layers of 100, Adam, batches of 256, 100 epochs, pixels
divided by 255 twice.
Differs: the ten means are evenly spaced hues, since the authors' are in a file of theirs; variations follow the seed.
Licence: MNIST: Y. LeCun, C. Cortes and C. Burges, CC BY-SA 3.0.
Groups (y, a): with agreement 0.95, 5,150 to 6,405 training images of each class where y = a, else 30 to 38; test 89
to 114 of each group.
"""

from __future__ import annotations

from colorsys import hsv_to_rgb
from dataclasses import dataclass
from typing import ClassVar

import torch

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.dataset import Data, Split, Training
from spurbench.datasets.data.mnist import Digits
from spurbench.datasets.data.shortcuts import assign, check_share, off_diagonal

COLOURS = torch.tensor([hsv_to_rgb(hue / 10, 1, 1) for hue in range(10)])
DEVIATIONS = (0.05, 0.02, 0.01, 0.005)  # of each channel, by severity
EVEN = 0.1  # agreement in the test split: that of chance


@dataclass(frozen=True)
class ColoredMNISTLfF(Digits):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    conflicting: ClassVar[tuple[int, ...]] = off_diagonal(10)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "unbiased_accuracy"), ("test", "bias_conflicting_accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("test",)
    training: ClassVar[Training] = Training(
        width=100, hidden_layers=3, optimizer="adam", lr=0.001, steps=23_500, batch=256)  # fmt: skip
    mean: ClassVar[tuple[float, ...]] = (0.0, 0.0, 0.0)
    std: ClassVar[tuple[float, ...]] = (255.0, 255.0, 255.0)

    agreement: float = 0.95  # share of the training digits of each class whose colour is the class's
    severity: int = 4  # 1 to 4

    def __post_init__(self) -> None:
        check_share(self.called, agreement=self.agreement)
        if self.severity not in range(1, 5):
            raise UserError(f"{self.called}: there is no severity {self.severity}; expected 1 to 4")

    def data(self, seed: int) -> Data:
        random = torch.Generator().manual_seed(seed)
        train, test = (
            self.coloured(self.split(name), share, random)
            for name, share in (("train", self.agreement), ("test", EVEN))
        )
        return Data(train, {"test": test}, 10, 10, mean=self.mean, std=self.std)

    def coloured(self, digits: Split, agreement: float, random: torch.Generator) -> Split:
        """The digits in their colours."""
        a = torch.from_numpy(assign(digits.y.numpy(), 10, agreement))
        deviation = DEVIATIONS[self.severity - 1]
        colour = (COLOURS[a] + deviation * torch.randn(len(a), 3, generator=random)).clamp(0, 1)
        x = torch.empty_like(digits.x)
        for channel in range(3):
            x[:, channel] = (digits.x[:, 0] * colour[:, channel, None, None]).byte()
        return Split(x, digits.y, a)
