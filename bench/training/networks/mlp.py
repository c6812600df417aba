"""ReLU layers on the flattened input, a multi-layer perceptron; without hidden layers a linear model.

Source: the networks of Pezeshki et al., "Gradient Starvation", NeurIPS 2021, for Two-Moon and Colored MNIST.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from spurbench.bench.plugins.network import Network, setting

ABOUT = "it is about hidden layers"


@dataclass(frozen=True)
class Mlp(Network):
    width: int = setting(300, low=1, high=1_000_000, above={"hidden_layers": 0}, hint=ABOUT)  # of a hidden layer
    hidden_layers: int = setting(1, low=0, high=1000)  # 0: a linear model
    init: str = setting("torch", choices=("torch", "xavier"))  # that of nn.Linear, or uniform weights and zero biases
    # share of the hidden pre-activations that a step leaves out
    dropout: float = setting(0.0, low=0.0, high=0.999, above={"hidden_layers": 0}, hint=ABOUT)
    batch_norm: bool = setting(False, above={"hidden_layers": 0}, hint=ABOUT)  # of hidden pre-activations

    def build(self, shape: Sequence[int], outputs: int) -> nn.Module:
        widths = [prod(shape), *[self.width] * self.hidden_layers]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers.append(nn.Linear(before, after))
            if self.batch_norm:
                layers.append(nn.BatchNorm1d(after))
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            layers.append(nn.ReLU(inplace=True))
        module = Layers(*layers, nn.Linear(widths[-1], outputs))
        if self.init == "xavier":
            module.apply(init_xavier)
        return module

    def head(self, module: nn.Module) -> str:
        return [name for name, _ in module.named_children()][-1]


class Layers(nn.Sequential):
    """Layers one after another, on inputs that are flattened first."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of inputs [B, ...]."""
        z: Tensor = super().forward(x.flatten(1))  # type: ignore[no-untyped-call]
        return z

    @property
    def plain(self) -> bool:
        """Whether there is nothing but affine layers and ReLU."""
        return all(isinstance(layer, nn.Linear | nn.ReLU) for layer in self)


def init_xavier(module: nn.Module) -> None:
    """Uniform weights scaled by fan-in and fan-out, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
