"""Colored MNIST: the digit's shape predicts the label with 25 % noise, its colour does so better, except in the test.

An image is a 14 × 14 digit in one of two colour channels, the other channel is zero. y = 1 for digits below 5, then
flipped for 25 % of the images. The attribute a is the colour: y, flipped for a share e of the images. Training
environments have e = 0.2 and 0.1, the test environment 0.9.

Source: Arjovsky et al., "Invariant Risk Minimization", arXiv 1907.02893; random draws in the order of the code of
Pezeshki et al., "Gradient Starvation", NeurIPS 2021: seeds 1234 to 1243 give the data of its Table 2.
Licence: MNIST, Y. LeCun, C. Cortes and C. Burges, CC BY-SA 3.0; the sub-sampled training file lies in `data/`.
Groups (y, a): 50,000 training images in two environments of 25,000, 10,000 test images; with seed 1234
12,679, 12,544 and 5,080 images of class 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.dataset import BadData, Build, Data, Dataset, Split, Training

FILE = Path(__file__).with_name("data") / "mnist14.npz"
SHA256 = "0fa587a13a3d1f3a81961c5dfa54fe180cf10975566fbef36a766ceaf91302dd"
TRAIN = 50_000  # the rest of the 60,000 is the test environment


@dataclass(frozen=True)
class ColoredMNIST(Dataset):
    provides: ClassVar[frozenset[str]] = frozenset({"environments", "groups", "colour channels"})
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "accuracy"), ("train", "accuracy"), ("environments", "worst_accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("test", "grey_digit", "coloured_digit", "grey_blank", "coloured_blank")
    training: ClassVar[Training] = Training(
        width=300, hidden_layers=2, init="xavier", optimizer="adam", lr=1e-4, steps=1000)  # fmt: skip

    train_size: int = 50_000  # the first `train_size` of the 50,000 shuffled training images

    def __post_init__(self) -> None:
        if not 2 <= self.train_size <= TRAIN:
            raise UserError(f"colored_mnist: train_size is {self.train_size}; it must be from 2 to {TRAIN:,}")

    def load(self, seed: int, build: Build) -> tuple[Data, nn.Module]:
        images, labels = mnist14()
        order = np.arange(TRAIN)
        np.random.RandomState(seed).shuffle(order)
        chosen = torch.from_numpy(order[: self.train_size])
        torch.manual_seed(seed)  # the draws below follow the released code: data, network, probe environments
        even, odd = chosen[::2], chosen[1::2]
        parts = [colour(images[at], labels[at], e) for at, e in ((even, 0.2), (odd, 0.1))]
        held_out = images[TRAIN:], labels[TRAIN:]
        test = colour(*held_out, 0.9)
        network = build(parts[0].x)
        return Data(by_colour(parts), {"test": test, **dict(probes(*held_out))}, attributes=2, environments=2), network

    def checksum(self) -> str:
        return hashlib.sha256(FILE.read_bytes()).hexdigest()

    def files(self) -> str:
        return "in the package: the MNIST training file, every second pixel"

    def verify(self, thorough: bool = True) -> str:
        images, _ = mnist14()
        return f"{len(images):,} pictures of 14 × 14, SHA-256 as expected"


@cache
def mnist14() -> tuple[Tensor, Tensor]:
    """The MNIST training file at every second pixel: images uint8 [60000, 14, 14], digits int64 [60000]."""
    if hashlib.sha256(FILE.read_bytes()).hexdigest() != SHA256:
        raise BadData(f"{FILE} is damaged (its SHA-256 is not {SHA256[:12]}…): install spurbench again")
    with np.load(FILE, allow_pickle=False) as file:
        return torch.from_numpy(file["images"]), torch.from_numpy(file["labels"].astype(np.int64))


def colour(images: Tensor, digits: Tensor, e: float) -> Split:
    """One environment: noisy labels, then colours that differ from them with probability `e`."""
    y = (digits < 5).long() ^ (torch.rand(len(digits)) < 0.25).long()
    a = y ^ (torch.rand(len(digits)) < e).long()
    x = torch.stack([images, images], 1)
    x[torch.arange(len(x)), 1 - a] = 0
    return Split(x, y, a)


def by_colour(parts: list[Split]) -> Split:
    """The environments as one split, one colour after the other: whole batches then have a zero channel to skip."""
    a = torch.cat([part.attribute for part in parts if part.attribute is not None])
    order = a.argsort(stable=True)
    environment = torch.cat([torch.full((len(part.y),), e) for e, part in enumerate(parts)])
    x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
    return Split(x[order], y[order], a[order], environment[order])


def probes(images: Tensor, digits: Tensor) -> Iterator[tuple[str, Split]]:
    """Figure 3's four environments, each with labels and colours drawn afresh at e = 0.9."""
    blank = torch.full_like(images, 0).float() + images.float().mean()
    for shape, pictures in (("digit", images.float()), ("blank", blank)):
        for tint in ("grey", "coloured"):
            split = colour(pictures / 255, digits, 0.9)
            if tint == "grey":
                split = replace(split, x=torch.stack([pictures, pictures], 1) / 510)
            yield f"{tint}_{shape}", split
