"""Any model of timm's by its name, `timm:resnet18`, with timm's weights or those of a file to begin from.

Source: Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.network import Network, setting


@dataclass(frozen=True)
class Timm(Network):
    variants: ClassVar[str] = "MODEL"

    pretrained: str | None = setting(None, file="timm")  # "timm", or a file of weights

    @classmethod
    def check_variant(cls, variant: str) -> None:
        try:
            import timm
        except ImportError:  # it may be where the runs will be
            return
        if not timm.is_model(variant):
            near = ", ".join(get_close_matches(variant[:100], timm.list_models(), n=3))
            raise ValueError(f"timm has no model '{variant[:100]}'" + (f"; did you mean {near}?" if near else ""))

    def build(self, shape: Sequence[int], outputs: int) -> nn.Module:
        """Errors: UserError also if weights cannot be had."""
        try:
            import timm
        except ImportError:
            raise UserError(f"the network {self.called} needs the package timm: pip install timm") from None
        channels, height, width = self.picture(shape)
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each try it makes to reach the network
        try:
            model: nn.Module = timm.create_model(
                self.variant, pretrained=self.pretrained == "timm", num_classes=outputs, in_chans=channels
            )
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot get timm's weights of {self.variant} ({str(error).splitlines()[0]}): give a file, "
                "training.pretrained=FILE"
            ) from None
        if self.pretrained and self.pretrained != "timm":
            load_weights(model, self.path_of(self.pretrained))
        try:
            with torch.no_grad():
                model.eval()(torch.zeros(1, *shape))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"the network {self.called} does not take pictures of {channels} × {height} × {width}: {reason}"
            ) from None
        return model.train()

    def head(self, module: nn.Module) -> str:
        classifier = module.get_classifier()  # type: ignore[operator]
        return str(next(name for name, layer in module.named_modules() if layer is classifier))


def load_weights(model: nn.Module, file: Path) -> None:
    """Weights from a file, read without running anything in it; a head of another shape keeps its own."""
    try:
        found = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:
        raise UserError(f"cannot read the weights in {file}: {type(error).__name__}") from None
    own = model.state_dict()
    fitting = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < 0.9 * len(own):
        raise UserError(f"{file} has {len(fitting)} of the network's {len(own)} tensors: it is of another network")
    model.load_state_dict(fitting, strict=False)
