"""Networks by name; weights are drawn from torch's global generator, in the order of the layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from torch import Tensor, nn

from spurbench.bench.dataset import Training
from spurbench.bench.errors import unknown


class MLP(nn.Sequential):
    """ReLU layers on the flattened input; dropout and batch normalisation act before the ReLU."""

    def __init__(self, inputs: int, outputs: int, training: Training) -> None:
        widths = [inputs, *[training.width] * training.hidden_layers]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers.append(nn.Linear(before, after))
            if training.batch_norm:
                layers.append(nn.BatchNorm1d(after))
            if training.dropout:
                layers.append(nn.Dropout(training.dropout))
            layers.append(nn.ReLU())
        super().__init__(*layers, nn.Linear(widths[-1], outputs))
        if training.init == "xavier":
            self.apply(xavier)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B] for one output, [B, C] for more, of inputs [B, ...]."""
        z: Tensor = super().forward(x.flatten(1))  # type: ignore[no-untyped-call]
        return z[:, 0] if z.shape[1] == 1 else z


def xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def mlp(shape: Sequence[int], outputs: int, training: Training) -> nn.Module:
    return MLP(prod(shape), outputs, training)


NETWORKS: dict[str, Callable[[Sequence[int], int, Training], nn.Module]] = {"mlp": mlp}


def build(shape: Sequence[int], outputs: int, training: Training) -> nn.Module:
    """The network `training.network` for inputs of `shape` (no batch axis) and this many logits."""
    if training.network not in NETWORKS:
        raise unknown("network", training.network, NETWORKS)
    return NETWORKS[training.network](shape, outputs, training)


def first_layer(network: nn.Module) -> str | None:
    """Name of the weight that multiplies the flat input, if there is one: zero inputs can skip its columns."""
    return "0.weight" if isinstance(network, MLP) else None
