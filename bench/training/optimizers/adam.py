"""Adam with β = (0.9, 0.999) and ε = 1e-8 outside the root; weight decay is added to the gradient.

Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv 1412.6980, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam

from spurbench.bench.plugins.optimizer import Optimizer


@dataclass(frozen=True)
class Adam(Optimizer):
    buffers: ClassVar[tuple[str, ...]] = ("mean", "square")

    def update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        kept: Mapping[str, list[Tensor]],
        steps: int,
        lr: float,
    ) -> None:
        counts = list(torch.full((len(parameters),), float(steps)).unbind())  # one for each parameter, moved in place
        adam(
            parameters, gradients, kept["mean"], kept["square"], [], counts, foreach=True, lr=lr, beta1=0.9,
            beta2=0.999, eps=1e-8, weight_decay=self.weight_decay, amsgrad=False, maximize=False,
        )  # fmt: skip
