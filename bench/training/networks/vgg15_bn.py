"""3 × 3 convolutions in stages of 2, 2, 3, 3, 3 with 64 to 512 channels, each with batch normalisation and ReLU.

Source: VGG-15 with batch normalisation of the trainer that the Table 1 code of Pezeshki et al., "Gradient Starvation",
NeurIPS 2021, derives from; shapes and initial weights only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from spurbench.bench.plugins.network import Network, init_kaiming


@dataclass(frozen=True)
class Vgg15Bn(Network):
    def build(self, shape: Sequence[int], outputs: int) -> nn.Module:
        before, height, width = self.picture(shape)
        layers: list[nn.Module] = []
        for depth, channels in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
            for _ in range(depth):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                before = channels
            layers.append(nn.MaxPool2d(2))
        pixels = height // 32 * (width // 32)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * pixels, outputs)).apply(init_kaiming)

    def head(self, module: nn.Module) -> str:
        return [name for name, _ in module.named_children()][-1]
