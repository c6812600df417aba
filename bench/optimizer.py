"""SGD and Adam, elementwise, so that stacked replicas do not touch each other; torch.optim's arithmetic.

They are written out because making any optimizer of torch.optim imports torch's compiler: three seconds at the start
of every process, for nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from spurbench.bench.dataset import Training
from spurbench.bench.errors import unknown

Memory = dict[str, list[Tensor]]
"""What an optimizer remembers: by name, one tensor for each parameter."""


class Optimizer(ABC):
    """Updates `parameters` in place from their `.grad`; `memory` and `count` are all that it remembers."""

    remembers: ClassVar[tuple[str, ...]]

    def __init__(self, parameters: list[Tensor], training: Training) -> None:
        self.parameters, self.training = parameters, training
        self.count = 0  # steps done
        self.drops = [float(share) * training.steps for share in (training.drops or "").split(",") if share]
        self.memory: Memory = {name: [torch.zeros_like(p) for p in parameters] for name in self.remembers}

    @torch.no_grad()
    def step(self) -> None:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        self.lr = self.training.lr * 0.1 ** sum(self.count >= at for at in self.drops)
        if self.training.weight_decay:
            torch._foreach_add_(grads, self.parameters, alpha=self.training.weight_decay)
        self.count += 1
        self.move(grads)

    @abstractmethod
    def move(self, grads: list[Tensor]) -> None:
        """Update memory and parameters."""

    def state(self, r: int) -> dict[str, Any]:
        """What is remembered of one replica."""
        return {"count": self.count, "memory": {name: [t[r].clone() for t in of] for name, of in self.memory.items()}}

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Remember what such states of all replicas say."""
        self.count = states[0]["count"]
        for name, tensors in self.memory.items():
            for place, tensor in enumerate(tensors):
                tensor.copy_(torch.stack([state["memory"][name][place] for state in states]))


class SGD(Optimizer):
    """Momentum in the form v ← μ v + g, θ ← θ − lr v; with Nesterov's, θ ← θ − lr (g + μ v)."""

    remembers = ("velocity",)

    def move(self, grads: list[Tensor]) -> None:
        velocity = self.memory["velocity"]
        torch._foreach_mul_(velocity, self.training.momentum)
        torch._foreach_add_(velocity, grads)
        if self.training.nesterov:
            torch._foreach_add_(grads, velocity, alpha=self.training.momentum)
            velocity = grads
        torch._foreach_add_(self.parameters, velocity, alpha=-self.lr)


class Adam(Optimizer):
    """Kingma and Ba, arXiv 1412.6980, Algorithm 1, with β = (0.9, 0.999) and ε = 1e-8 outside the root."""

    remembers = ("mean", "square")

    def move(self, grads: list[Tensor]) -> None:
        mean, square = self.memory["mean"], self.memory["square"]
        torch._foreach_lerp_(mean, grads, 1 - 0.9)
        torch._foreach_mul_(square, 0.999)
        torch._foreach_addcmul_(square, grads, grads, 1 - 0.999)
        size = torch._foreach_sqrt(square)
        torch._foreach_div_(size, sqrt(1 - 0.999**self.count))
        torch._foreach_add_(size, 1e-8)
        torch._foreach_addcdiv_(self.parameters, mean, size, -self.lr / (1 - 0.9**self.count))


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam}


def make(parameters: list[Tensor], training: Training) -> Optimizer:
    """The optimizer of a protocol."""
    if training.optimizer not in OPTIMIZERS:
        raise unknown("optimizer", training.optimizer, OPTIMIZERS)
    return OPTIMIZERS[training.optimizer](parameters, training)
