"""CIFAR-2: two classes of CIFAR-10, for the margin that a small network leaves around its training images.

Source: Pezeshki et al., "Gradient Starvation", NeurIPS 2021, Figure 2, after Nar et al., arXiv 1901.08360: a small
network, batch size 1, 40 epochs. The released code takes airplane (y = 0) against horse (y = 1), the text says cats
and dogs.
Licence: that of CIFAR-10, whose prepared images are used.
Groups: none; 5,000 training and 1,000 test images of each class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from spurbench.bench.plugins.dataset import Attack, Data, Margins, Split, Training
from spurbench.datasets.cifar10 import CIFAR10, CLASSES


@dataclass(frozen=True)
class CIFAR2(CIFAR10):
    training: ClassVar[Training] = Training(
        network="small_conv", optimizer="sgd", lr=0.001, momentum=0.9, steps=400_000, batch=1, logits=2)  # fmt: skip
    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)  # pixels from −1 to 1
    std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)

    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "accuracy"), ("train", "accuracy"), ("train", "margin"))  # fmt: skip

    pair: Literal["airplane/horse", "cat/dog"] = "airplane/horse"  # the classes y = 0 and 1
    gradient: Literal["logits"] | None = None  # that the search for margins follows; None: the loss's, as released

    @property
    def home(self) -> str:
        return "cifar10"

    @property
    def classes(self) -> int:
        return 2

    def data(self, seed: int) -> Data:
        whole = super().data(seed)
        return replace(whole, train=self.two(whole.train), tests={k: self.two(v) for k, v in whole.tests.items()})

    def attacks(self) -> dict[str, Attack]:
        return {"margin": Margins(gradient=self.gradient or "loss")} | self.further()

    def two(self, split: Split) -> Split:
        """The images of the two classes, in their order."""
        first, second = (CLASSES.index(name) for name in self.pair.split("/"))
        rows = ((split.y == first) | (split.y == second)).nonzero()[:, 0]
        return Split(torch.index_select(split.x, 0, rows), (split.y[rows] == second).long())
