"""MNIST's handwritten digits, prepared once for all datasets that are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.idx import read_splits
from spurbench.bench.images.listing import Listing, Rows


@dataclass(frozen=True)
class Digits(Pictures):
    """Base of datasets of all ten digits, [n, 3, 28, 28] in grey until the dataset's `data` colours them."""

    published: ClassVar[dict[str, tuple[int, ...]]] = {
        "train": (5_923, 6_742, 5_958, 6_131, 5_842, 5_421, 5_918, 6_265, 5_851, 5_949),
        "test": (980, 1_135, 1_032, 1_010, 982, 892, 958, 1_028, 974, 1_009),
    }
    layouts: ClassVar[str] = "MNIST's four idx files, gzipped or not, or torchvision's MNIST/raw/"
    link: ClassVar[str] = "http://yann.lecun.com/exdb/mnist"
    fetch: ClassVar[str] = "torchvision:MNIST"

    @property
    def home(self) -> str:
        return "mnist"

    @property
    def crop(self) -> Crop:
        return Crop(28, exact=True)

    def listing(self, folder: Path) -> Listing | None:
        found = read_splits(folder)
        if found is None:
            return None
        splits = {
            name: Rows([f"{name}/{row:05}" for row in range(len(y))], y, pixels=np.repeat(pixels[:, None], 3, 1))
            for name, (pixels, y) in found[0].items()
        }
        return Listing("MNIST's idx files", folder, splits, tuple("0123456789"), doubts=found[1])
