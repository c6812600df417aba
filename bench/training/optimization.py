"""One step of the protocol's optimizer under its learning-rate schedule, for all replicas at once.

The optimizers use the functions of torch.optim: making an object of torch.optim would import torch's compiler, three
seconds at the start of every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spurbench.bench.plugin_files.discovery import load_component
from spurbench.bench.plugins.optimizer import Optimizer
from spurbench.bench.plugins.training_settings import Schedule, Training

DECAY = 0.1  # of the learning rate at each milestone
EMA_DECAY, SWA_FROM = 0.999, 0.5  # of averaged weights, where the training does not say


class Optimization:
    """Moves `parameters` in place by their `.grad`; `steps` and `kept` are all that it remembers."""

    def __init__(self, parameters: Sequence[Tensor], training: Training) -> None:
        self.parameters = list(parameters)
        self.optimizer: Optimizer = load_component("optimizer", training.optimizer.name, training.optimizer.settings)
        shares = (training.schedule.drops or "").split(",")
        self.milestones = [float(share) * training.steps for share in shares if share]  # in steps
        self.steps = 0
        self.kept = {name: [torch.zeros_like(p) for p in self.parameters] for name in self.optimizer.buffers}

    def lr(self) -> float:
        """The learning rate of the next step: a tenth as large after each milestone."""
        return self.optimizer.lr * DECAY ** sum(self.steps >= milestone for milestone in self.milestones)

    def step(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.optimizer.update(self.parameters, gradients, self.kept, self.steps, self.lr())
        self.steps += 1

    def state(self, r: int) -> dict[str, Any]:
        """What is remembered of one replica."""
        return {"steps": self.steps, "kept": {name: [t[r].clone() for t in of] for name, of in self.kept.items()}}

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Remember what such states of all replicas say."""
        self.steps = states[0]["steps"]
        for name, tensors in self.kept.items():
            for place, tensor in enumerate(tensors):
                tensor.copy_(torch.stack([state["kept"][name][place] for state in states]))


class Average:
    """The average over the steps of one network's tensors, by name, as the schedule has it."""

    def __init__(self, tensors: Mapping[str, Tensor], schedule: Schedule) -> None:
        self.tensors, self.schedule = tensors, schedule
        self.means = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        start = SWA_FROM if schedule.average_from is None else schedule.average_from
        self.start = round(start * schedule.steps) if schedule.average == "swa" else 0
        self.decay = EMA_DECAY if schedule.decay is None else schedule.decay

    def follow(self, step: int) -> None:
        """Take in the tensors as they are after a step, numbered from 1."""
        share = 1 - self.decay if self.schedule.average == "ema" else 1 / max(1, step - self.start)
        for name, mean in self.means.items():
            if mean.is_floating_point() and step > self.start:
                mean.lerp_(self.tensors[name], share)
            else:
                mean.copy_(self.tensors[name])
