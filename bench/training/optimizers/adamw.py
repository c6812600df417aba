"""Adam with decoupled weight decay, θ ← (1 − lr λ) θ before each step; β = (0.9, 0.999), ε = 1e-8 outside the root.

Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv 1711.05101, Algorithm 2, with
its decay scaled by lr, in the form of torch.optim.AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from spurbench.bench.plugins.optimizer import Optimizer


@dataclass(frozen=True)
class AdamW(Optimizer):
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
        adamw(
            parameters, gradients, kept["mean"], kept["square"], [], counts, foreach=True, lr=lr, beta1=0.9,
            beta2=0.999, eps=1e-8, weight_decay=self.weight_decay, amsgrad=False, maximize=False,
        )  # fmt: skip
