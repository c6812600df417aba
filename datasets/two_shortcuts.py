"""Two shortcuts: is the thing in the middle a box (y = 0) or a diamond (y = 1)? Background and marker go along with it.

An image of 32 × 32 pixels is drawn as UrbanCars are composed, half its width for the thing in the middle and a quarter
for the marker below it. Background 0 is a wall, bluish with upright stripes, 1 a meadow, greenish with level ones;
marker 0 is reddish, 1 yellowish. Both are easier to see than the thing, whose size, proportions, angle and colour vary.
In training the share `background_agreement` of each class is before background y, and independently the share
`marker_agreement` has marker y; in validation and test, half. Attributes: `background` and `marker`.

Source: ours, with the numbers and the layout of Li et al., "A Whac-A-Mole Dilemma", CVPR 2023, arXiv 2212.04825, whose
UrbanCars cannot be built any more.
Licence: drawn from the seed.
Groups (y, background, marker): training 3,610, 190, 190, 10, 10, 190, 190, 3,610; validation and test 125 of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import ClassVar

import torch
from torch import Tensor, nn

from spurbench.bench.plugins.dataset import Build, Data, Dataset, Split, Training
from spurbench.datasets.data.shortcuts import check_share

SIDE = 32
TRAINING, HELD_OUT = 4_000, 500  # images of each class
BACKGROUNDS = torch.tensor([[0.42, 0.47, 0.60], [0.45, 0.58, 0.40]])
MARKERS = torch.tensor([[0.75, 0.30, 0.30], [0.72, 0.62, 0.25]])
POWERS = torch.tensor([5.0, 1.1])  # of the superellipses |u|^p + |v|^p < 1 that are a box and a diamond


@dataclass(frozen=True)
class TwoShortcuts(Dataset):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    conflicting: ClassVar[tuple[int, ...]] = (3, 4)  # neither background nor marker is the class's
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "unbiased_accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    named: ClassVar[tuple[str, ...]] = ("background", "marker")
    training: ClassVar[Training] = Training(
        network="small_conv", optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, steps=1260, batch=128,
        evaluate=63)  # fmt: skip

    background_agreement: float = 0.95
    marker_agreement: float = 0.95

    def __post_init__(self) -> None:
        check_share(self.called, background_agreement=self.background_agreement, marker_agreement=self.marker_agreement)

    def load(self, seed: int, build: Build) -> tuple[Data, nn.Module]:
        data = self.data(seed)
        torch.manual_seed(seed)
        return data, build(data.train.x[:2])

    def data(self, seed: int) -> Data:
        random = torch.Generator().manual_seed(seed)
        agreements = self.background_agreement, self.marker_agreement
        train, validation, test = (
            compose(size, shares, random)
            for size, shares in ((TRAINING, agreements), (HELD_OUT, (0.5, 0.5)), (HELD_OUT, (0.5, 0.5)))
        )
        half = (0.5, 0.5, 0.5)
        values = {"background": ("wall", "meadow"), "marker": ("red", "yellow")}
        return Data(train, {"validation": validation, "test": test}, mean=half, std=half, named=values)


def compose(size: int, agreements: tuple[float, float], random: torch.Generator) -> Split:
    """`size` images of each class, in a drawn order."""
    first, second = agreements
    shares = torch.tensor([first * second, first * (1 - second), (1 - first) * second, (1 - first) * (1 - second)])
    ends = (size * shares.cumsum(0)).round()
    differs = torch.searchsorted(ends, torch.arange(size), right=True).clamp(max=3)  # 2 × background + marker
    y = torch.arange(2).repeat_interleave(size)
    a = torch.cat([differs, 3 - differs])
    order = torch.randperm(len(y), generator=random)
    y, background, marker = y[order], a[order] // 2, a[order] % 2
    return Split(draw(y, background, marker, random), y, named={"background": background, "marker": marker})


def draw(y: Tensor, background: Tensor, marker: Tensor, random: torch.Generator) -> Tensor:
    """Images [n, 3, 32, 32] of bytes."""

    def vary(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(y), *shape, generator=random)

    down, across = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    along = torch.where(background[:, None, None] == 0, across, down)
    stripes = torch.sin(vary(2, 4, 1, 1) * pi * along + vary(0, 2 * pi, 1, 1))
    x = BACKGROUNDS[background, :, None, None] + vary(-0.12, 0.12, 3, 1, 1) + 0.07 * stripes[:, None]
    angle = vary(-0.25, 0.25, 1, 1)
    u = (across * angle.cos() + down * angle.sin() + vary(-0.1, 0.1, 1, 1)) / vary(0.35, 0.6, 1, 1)
    v = (down * angle.cos() - across * angle.sin() + vary(-0.1, 0.1, 1, 1)) / vary(0.3, 0.5, 1, 1)
    power = POWERS[y, None, None]
    thing = (u.abs() ** power + v.abs() ** power < 1)[:, None]
    x = torch.where(thing, vary(0.15, 0.85, 3, 1, 1), x)
    near = (across - vary(-0.1, 0.1, 1, 1)) ** 2 + (down - vary(0.7, 0.8, 1, 1)) ** 2 < 0.05
    x = torch.where(near[:, None], MARKERS[marker, :, None, None] + vary(-0.15, 0.15, 3, 1, 1), x)
    x = x + 0.05 * torch.randn(x.shape, generator=random)
    return (255 * x.clamp(0, 1)).byte()
