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

from spurbench.bench.plugins import training_settings

Memory = dict[str, list[Tensor]]
"""What an optimizer remembers: by name, one tensor for each parameter."""


class Optimizer(ABC):
    """Updates `parameters` in place from their `.grad`; `memory` and `count` are all that it remembers."""

    remembers: ClassVar[tuple[str, ...]]

    def __init__(
        self, parameters: list[Tensor], chosen: training_settings.Optimizer, schedule: training_settings.Schedule
    ) -> None:
        self.parameters, self.chosen = parameters, chosen
        self.count = 0  # steps done
        self.drops = [float(share) * schedule.steps for share in (schedule.drops or "").split(",") if share]
        self.memory: Memory = {name: [torch.zeros_like(p) for p in parameters] for name in self.remembers}

    @torch.no_grad()
    def step(self) -> None:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        self.lr = self.chosen.lr * 0.1 ** sum(self.count >= at for at in self.drops)
        if self.chosen.weight_decay:
            torch._foreach_add_(grads, self.parameters, alpha=self.chosen.weight_decay)
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

    def __init__(
        self, parameters: list[Tensor], chosen: training_settings.Sgd, schedule: training_settings.Schedule
    ) -> None:
        super().__init__(parameters, chosen, schedule)
        self.momentum, self.nesterov = chosen.momentum, chosen.nesterov

    def move(self, grads: list[Tensor]) -> None:
        velocity = self.memory["velocity"]
        torch._foreach_mul_(velocity, self.momentum)
        torch._foreach_add_(velocity, grads)
        if self.nesterov:
            torch._foreach_add_(grads, velocity, alpha=self.momentum)
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


def make(parameters: list[Tensor], protocol: training_settings.Training) -> Optimizer:
    """The optimizer of a protocol."""
    chosen = protocol.optimizer
    if isinstance(chosen, training_settings.Sgd):
        return SGD(parameters, chosen, protocol.schedule)
    return Adam(parameters, chosen, protocol.schedule)
