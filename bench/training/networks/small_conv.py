"""Two 5 × 5 convolutions and three linear layers, leaky ReLU, 249,442 parameters for CIFAR and two logits.

Source: the CIFAR-2 net of the authors' Figure 2 code for Pezeshki et al., "Gradient Starvation", NeurIPS 2021, after
Nar and Sastry 2019, arXiv 1911.01043.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.network import Network


@dataclass(frozen=True)
class SmallConv(Network):
    def build(self, shape: Sequence[int], outputs: int) -> nn.Module:
        channels, height, width = self.picture(shape)
        flat = 32 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
        if min(height, width) < 16:
            raise UserError(f"the network small_conv takes pictures of 16 pixels and more, not of {height} × {width}")
        return nn.Sequential(
            nn.Conv2d(channels, 12, 5), nn.LeakyReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 32, 5), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(flat, 240), nn.LeakyReLU(), nn.Linear(240, 192), nn.LeakyReLU(), nn.Linear(192, outputs),
        )  # fmt: skip

    def head(self, module: nn.Module) -> str:
        return "11"
