"""One step of the protocol's optimizer under its learning-rate schedule, for all replicas at once.

Axes in names: R replicas, the first axis of every parameter and gradient.

The optimizers use the functions of torch.optim: making an object of torch.optim would import torch's compiler, three
seconds at the start of every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import cos, pi
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spurbench.bench.plugin_files.discovery import load_component
from spurbench.bench.plugins.optimizer import Optimizer
from spurbench.bench.plugins.training_settings import Schedule, Training
from spurbench.bench.training.batching import Pass

DECAY = 0.1  # of the learning rate at each milestone
GROWTH_STEPS = 2000  # between two doublings of a loss's scale
EMA_DECAY, SWA_FROM = 0.999, 0.5  # of averaged weights, where the training does not say


class Group(NamedTuple):
    """Parameters that one optimizer moves, and what it keeps of them."""

    optimizer: Optimizer
    parameters: list[Tensor]
    kept: dict[str, list[Tensor]]


class Optimization:
    """Moves the parameters of `networks` in place by their `.grad`; `steps` and `kept` are all that it remembers."""

    def __init__(self, networks: Sequence[Sequence[Tensor]], training: Training) -> None:
        self.networks, self.schedule = networks, training.schedule
        settings = training.optimizer.settings
        matrices_alone = settings.pop("weight_decay_of", None) is not None
        self.optimizer: Optimizer = load_component("optimizer", training.optimizer.name, settings)
        parameters = [p for network in networks for p in network]
        self.kept = {name: [torch.zeros_like(p) for p in parameters] for name in self.optimizer.buffers}
        spared = [matrices_alone and p.ndim <= 2 for p in parameters]  # [R] and [R, n] are biases and norms
        self.groups, self.steps = list[Group](), 0
        for kind, optimizer in ((False, self.optimizer), (True, replace(self.optimizer, weight_decay=0.0))):
            at = [place for place, own in enumerate(spared) if own == kind]
            kept = {name: [of[place] for place in at] for name, of in self.kept.items()}
            if at:
                self.groups.append(Group(optimizer, [parameters[place] for place in at], kept))

    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.lr * lr_factor(self.schedule, self.steps)

    def step(self, left_out: Sequence[int] = ()) -> None:
        """Move all replicas but those that are left out of this step."""
        moved = [tensor for of in (*self.networks, *self.kept.values()) for tensor in of] if left_out else []
        before = [(tensor, r, tensor[r].clone()) for tensor in moved for r in left_out]
        for network in self.networks if self.schedule.clip_norm else ():
            clip([p.grad for p in network if p.grad is not None], self.schedule.clip_norm or 0.0)
        for optimizer, parameters, kept in self.groups:
            gradients = [p.grad for p in parameters if p.grad is not None]
            optimizer.update(parameters, gradients, kept, self.steps, self.lr())
        for tensor, r, own in before:
            tensor[r] = own
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


def lr_factor(schedule: Schedule, step: int) -> float:
    """What the learning rate is multiplied with at a step, counted from 0.

    It rises in equal parts over the warm-up, whose first step is one of them. Then it falls to 0, which it would reach
    at the step after the last one, or to a tenth at each of the drops.
    """
    warmup = schedule.warmup or 0
    warmup = round(warmup * schedule.steps) if warmup < 1 else warmup
    if step < warmup:
        return (step + 1) / warmup
    if schedule.lr_schedule == "cosine":
        return (1 + cos(pi * (step - warmup) / (schedule.steps - warmup))) / 2
    if schedule.lr_schedule == "linear":
        return 1 - (step - warmup) / (schedule.steps - warmup)
    shares = (schedule.drops or "").split(",")
    return float(DECAY ** sum(step >= float(share) * schedule.steps for share in shares if share))


def clip(gradients: Sequence[Tensor], longest: float) -> None:
    """Shorten the gradient of each replica to a norm of at most `longest`, as torch's `clip_grad_norm_` does of one."""
    for own in zip(*(gradient.unbind() for gradient in gradients), strict=True):
        norm = torch.nn.utils.get_total_norm(own)
        torch._foreach_mul_(own, (longest / (norm + 1e-6)).clamp(max=1.0))


class LossScale:
    """What each replica's loss is multiplied with, so that its gradients in fp16 are neither 0 nor infinite.

    It is halved when they overflow, and that step is left out; after 2,000 steps without overflow it is doubled.

    Source: torch.amp.GradScaler, here for each replica by itself.
    """

    def __init__(self, replicas: int, device: torch.device) -> None:
        self.factors = torch.full((replicas,), 2.0**16, device=device)
        self.steps = [0] * replicas  # since the last change of each

    def scale(self, gradient: Tensor, replicas: Pass) -> Tensor:
        """A gradient by what a pass put out, [B, ...], with R before it if stacked."""
        factors = self.factors[replicas]
        return gradient * factors.view(-1, *[1] * (gradient.ndim - 1)) if factors.ndim else gradient * factors

    def unscale(self, gradients: Sequence[Tensor]) -> list[int]:
        """Divide the gradients of parameters, in place; returns the replicas that have some which are not finite."""
        finite = torch.ones_like(self.factors, dtype=torch.bool)
        for gradient in gradients:
            gradient.div_(self.factors.view(-1, *[1] * (gradient.ndim - 1)))
            finite &= gradient.flatten(1).isfinite().all(1)
        return [r for r, fine in enumerate(finite.tolist()) if not fine]

    def adapt(self, overflown: Sequence[int]) -> None:
        """Change the factors after a step in which the gradients of some replicas were not finite."""
        for r, steps in enumerate(self.steps):
            grown = steps + 1 == GROWTH_STEPS
            if r in overflown or grown:
                self.factors[r] *= 0.5 if r in overflown else 2.0
            self.steps[r] = 0 if r in overflown or grown else steps + 1

    def state(self, r: int) -> tuple[float, int]:
        return self.factors[r].item(), self.steps[r]

    def restore(self, states: Sequence[tuple[float, int]]) -> None:
        self.factors.copy_(torch.tensor([factor for factor, _ in states]))
        self.steps = [steps for _, steps in states]


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
