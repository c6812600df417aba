"""Stochastic gradient descent with momentum, v ← μ v + g, θ ← θ − lr v; with Nesterov's, θ ← θ − lr (g + μ v).

Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, in the form
of torch.optim.SGD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.optim.sgd import sgd

from spurbench.bench.plugins.optimizer import Optimizer, setting


@dataclass(frozen=True)
class Sgd(Optimizer):
    buffers: ClassVar[tuple[str, ...]] = ("velocity",)

    momentum: float = setting(0.0, low=0.0, high=0.9999)  # μ
    nesterov: bool | None = setting(
        None, above={"momentum": 0}, hint="it is a form of momentum: give one above 0"
    )  # momentum as Nesterov's

    def update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        kept: Mapping[str, list[Tensor]],
        steps: int,
        lr: float,
    ) -> None:
        moved = [parameters, gradients, kept["velocity"]]
        on_gpu = parameters[0].is_cuda  # on a CPU the fused one goes through memory once instead of three times
        if not on_gpu and len(parameters[0]) > 1:  # it rounds the last values of a tensor in another way than the rest
            moved = [[own for tensor in tensors for own in tensor.unbind()] for tensors in moved]
        parameters, gradients, velocity = moved
        sgd(
            parameters, gradients, list(velocity), foreach=on_gpu, fused=not on_gpu, lr=lr, momentum=self.momentum,
            nesterov=bool(self.nesterov), weight_decay=self.weight_decay, dampening=0.0, maximize=False,
        )  # fmt: skip
