"""Pre-activation ResNet-110: three stages of 18 blocks with 16, 32, 64 channels, normalised before the global mean.

Source: pre-activation ResNet-110 of the trainer that the Table 1 code of Pezeshki et al., "Gradient Starvation",
NeurIPS 2021, derives from; shapes and initial weights only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from spurbench.bench.plugins.network import Network, init_kaiming


@dataclass(frozen=True)
class PreactResnet110(Network):
    def build(self, shape: Sequence[int], outputs: int) -> nn.Module:
        inputs, _, _ = self.picture(shape)
        layers: list[nn.Module] = [nn.Conv2d(inputs, 16, 3, 1, 1, bias=False)]
        before = 16
        for stage, channels in enumerate((16, 32, 64)):
            for block in range(18):
                stride = 2 if stage and not block else 1
                layers.append(Block(before, channels, stride, block == 0))
                before = channels
        layers += [nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, outputs)]
        return nn.Sequential(*layers).apply(init_kaiming)

    def head(self, module: nn.Module) -> str:
        return [name for name, _ in module.named_children()][-1]


class Block(nn.Module):
    """Two 3 × 3 convolutions, normalisation and ReLU before each; `first` of a stage: the shortcut sees them too."""

    def __init__(self, before: int, after: int, stride: int, first: bool) -> None:
        super().__init__()
        self.bn1, self.bn2, self.first = nn.BatchNorm2d(before), nn.BatchNorm2d(after), first
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        shortcut: Tensor = self.shortcut(activated if self.first else x)
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return shortcut + residual
