"""Networks for pictures: those of the paper's CIFAR code, and any of timm's by name.

Source: the CIFAR-2 net of the authors' Figure 2 code (after Nar and Sastry 2019, arXiv 1911.01043); VGG-15 with batch
normalisation and pre-activation ResNet-110 as in the trainer their Table 1 code derives from; shapes and initial
weights only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.training_settings import Network, Timm


class OneLogit(nn.Module):
    """A network whose single output is a logit, [B] instead of [B, 1]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.body(x)
        return z[:, 0]


def small_conv(shape: Sequence[int], outputs: int) -> nn.Module:
    """Two 5 × 5 convolutions and three linear layers, leaky ReLU, 249,442 parameters for CIFAR and two logits."""
    channels, height, width = shape
    flat = 32 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
    if min(height, width) < 16:
        raise UserError(f"the network small_conv takes pictures of 16 pixels and more, not of {height} × {width}")
    return nn.Sequential(
        nn.Conv2d(channels, 12, 5), nn.LeakyReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 32, 5), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(flat, 240), nn.LeakyReLU(), nn.Linear(240, 192), nn.LeakyReLU(), nn.Linear(192, outputs),
    )  # fmt: skip


def vgg15_bn(shape: Sequence[int], outputs: int) -> nn.Module:
    """3 × 3 convolutions in stages of 2, 2, 3, 3, 3 with 64 to 512 channels, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    before = shape[0]
    for depth, channels in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(depth):
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            before = channels
        layers.append(nn.MaxPool2d(2))
    pixels = shape[1] // 32 * (shape[2] // 32)
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * pixels, outputs))
    return network.apply(kaiming)


def kaiming(module: nn.Module) -> None:
    """Weights of convolutions normal, scaled by fan-out; scales of batch norms uniform in [0, 1]; biases zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class PreactBlock(nn.Module):
    """Two 3 × 3 convolutions, normalisation and ReLU before each; `first` of a stage: the shortcut sees them too."""

    def __init__(self, before: int, after: int, stride: int, first: bool) -> None:
        super().__init__()
        self.bn1, self.bn2, self.first = nn.BatchNorm2d(before), nn.BatchNorm2d(after), first
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        ready = F.relu(self.bn1(x))
        straight: Tensor = self.shortcut(ready if self.first else x)
        found: Tensor = self.conv2(F.relu(self.bn2(self.conv1(ready))))
        return straight + found


def preact_resnet110(shape: Sequence[int], outputs: int) -> nn.Module:
    """Three stages of 18 blocks with 16, 32, 64 channels; batch norm and ReLU before the global mean."""
    layers: list[nn.Module] = [nn.Conv2d(shape[0], 16, 3, 1, 1, bias=False)]
    before = 16
    for stage, channels in enumerate((16, 32, 64)):
        for block in range(18):
            stride = 2 if stage and not block else 1
            layers.append(PreactBlock(before, channels, stride, block == 0))
            before = channels
    head = [nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, outputs)]
    return nn.Sequential(*layers, *head).apply(kaiming)


def timm_model(name: str, shape: Sequence[int], outputs: int, given: str | None) -> nn.Module:
    """timm's model of that name with `outputs` outputs; the weights `given` are "timm" or a file.

    Errors: UserError if weights cannot be had, or pictures of this size do not fit.
    """
    try:
        import timm
    except ImportError:
        raise UserError(f"the network timm:{name} needs the package timm: pip install timm") from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every try it makes to reach the network
    try:
        model: nn.Module = timm.create_model(name, pretrained=given == "timm", num_classes=outputs, in_chans=shape[0])
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot get timm's weights of {name} ({str(error).splitlines()[0]}): give a file, training.pretrained=FILE"
        ) from None
    if given and given != "timm":
        load_weights(model, Path(given))
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape))
    except (AssertionError, RuntimeError, ValueError) as error:
        size = " × ".join(map(str, shape))
        raise UserError(
            f"the network timm:{name} does not take pictures of {size}: {str(error).splitlines()[0]}"
        ) from None
    return model.train()


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


OWN: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    "small_conv": small_conv,
    "vgg15_bn": vgg15_bn,
    "preact_resnet110": preact_resnet110,
}


def build(shape: Sequence[int], outputs: int, chosen: Network) -> nn.Module:
    """The chosen network for pictures [channels, height, width]."""
    name = chosen.name.removeprefix("timm:")
    if isinstance(chosen, Timm):
        body = timm_model(name, shape, outputs, chosen.pretrained)
    else:
        body = OWN[name](shape, outputs)
    return OneLogit(body) if outputs == 1 else body
