"""One step of the protocol's optimizer under its learning-rate schedule, for all replicas at once; averages of steps.

Axes in names: R replicas, the first axis of every parameter and gradient.

The optimizers use the functions of torch.optim: making an object of torch.optim would import torch's compiler, three
seconds at the start of every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import cos, isfinite, pi
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spurbench.bench.plugin_files.discovery import load_component
from spurbench.bench.plugins.optimizer import Optimizer
from spurbench.bench.plugins.training_settings import Schedule, Training
from spurbench.bench.training.batching import Pass

DECAY = 0.1  # of the learning rate at each milestone
FIRST_SCALE = 2.0**16  # of a loss in fp16
GROWTH_STEPS = 2000  # between two doublings of a loss's scale
EMA_DECAY, SWA_FROM = 0.999, 0.5  # of averaged weights, where the training does not say
CONVERGE, TOLERANCE, RATIO = 3, 6, 0.3  # of SWAD's valley, likewise


class Group(NamedTuple):
    """Parameters that one optimizer moves, and what it keeps of them."""

    optimizer: Optimizer
    parameters: list[Tensor]
    kept: dict[str, list[Tensor]]


class Optimization:
    """Moves the parameters of `networks` in place by their `.grad`; `steps` and `kept` are all that it remembers.

    Before each step of `resets` it forgets what it has kept; the learning rate's schedule goes on.
    """

    def __init__(self, networks: Sequence[Sequence[Tensor]], training: Training, resets: Sequence[int] = ()) -> None:
        self.networks, self.schedule, self.resets = networks, training.schedule, resets
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

    def step(self, left_out: Tensor | None = None) -> None:
        """Move all replicas but those that are left out of this step, [R] bool."""
        for tensors in self.kept.values() if self.steps in self.resets else ():
            torch._foreach_zero_(tensors)
        moved = [] if left_out is None else [t for of in (*self.networks, *self.kept.values()) for t in of]
        before = [tensor.clone() for tensor in moved]
        for network in self.networks if self.schedule.clip_norm else ():
            clip([p.grad for p in network if p.grad is not None], self.schedule.clip_norm or 0.0)
        since = self.steps - max((at for at in self.resets if at <= self.steps), default=0)
        for optimizer, parameters, kept in self.groups:
            gradients = [p.grad for p in parameters if p.grad is not None]
            optimizer.update(parameters, gradients, kept, since, self.lr())
        for tensor, own in zip(moved, before, strict=True):
            assert left_out is not None
            tensor.copy_(torch.where(left_out.view(-1, *[1] * (tensor.ndim - 1)), own, tensor))
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

    It is halved when they overflow, and that step is left out; after 2,000 steps without overflow it is doubled. All of
    that stays on the device, so that no step waits to hear of it.

    Source: torch.amp.GradScaler, here for each replica by itself. Differs: a step that is left out counts as one of the
    optimizer, so that Adam takes its averages for older than they are.
    """

    def __init__(self, replicas: int, device: torch.device) -> None:
        self.factors = torch.full((replicas,), FIRST_SCALE, device=device)
        self.steps = torch.zeros_like(self.factors, dtype=torch.long)  # since the last change of each

    def scale(self, gradient: Tensor, replicas: Pass) -> Tensor:
        """A gradient with respect to an output of a pass, [B, ...], with R before it if stacked."""
        factors = self.factors[replicas]
        return gradient * factors.view(-1, *[1] * (gradient.ndim - 1)) if factors.ndim else gradient * factors

    def unscale(self, gradients: Sequence[Tensor]) -> Tensor:
        """Divide the gradients of parameters, in place; returns which replicas have some that are not finite, [R]."""
        finite = torch.ones_like(self.factors, dtype=torch.bool)
        for gradient in gradients:
            gradient.div_(self.factors.view(-1, *[1] * (gradient.ndim - 1)))
            finite &= gradient.flatten(1).isfinite().all(1)
        return ~finite

    def adapt(self, overflown: Tensor) -> None:
        """Change the factors after a step in which the gradients of some replicas, [R] bool, were not finite."""
        grown = self.steps + 1 == GROWTH_STEPS
        self.factors *= torch.where(overflown, 0.5, torch.where(grown, 2.0, 1.0))
        self.steps = torch.where(overflown | grown, 0, self.steps + 1)

    def state(self, r: int) -> tuple[float, int]:
        return self.factors[r].item(), int(self.steps[r])

    def restore(self, states: Sequence[tuple[float, int]]) -> None:
        self.factors.copy_(torch.tensor([factor for factor, _ in states]))
        self.steps.copy_(torch.tensor([steps for _, steps in states]))


class Average:
    """The average over the steps of one network's tensors, by name, as the schedule has it."""

    def __init__(self, tensors: Mapping[str, Tensor], schedule: Schedule) -> None:
        self.tensors, self.schedule = tensors, schedule
        self.means = copies(tensors)
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

    def look(self, step: int, loss: float) -> None:
        """Take in the loss of the tensors after a step on the split that the schedule looks at."""

    def state(self) -> dict[str, Any]:
        """All that is remembered."""
        return self.means

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what such a state says."""
        for name, mean in self.means.items():
            mean.copy_(state[name])


class Valley(Average):
    """SWAD's average, over the steps in a valley of the validation loss (Cha et al., NeurIPS 2021, algorithm 1).

    The valley begins at the look whose loss is the least of `converge` looks, its own and those after it, and ends at
    the last look before `tolerance` in a row with losses above a threshold, or with the training. Until there is a
    valley, the average is over the steps since the look with the least loss.
    """

    def __init__(self, tensors: Mapping[str, Tensor], schedule: Schedule) -> None:
        super().__init__(tensors, schedule)
        self.start = schedule.steps
        self.converge = CONVERGE if schedule.n_converge is None else schedule.n_converge
        self.tolerance = TOLERANCE if schedule.n_tolerance is None else schedule.n_tolerance
        self.ratio = RATIO if schedule.tolerance_ratio is None else schedule.tolerance_ratio
        self.looks: list[tuple[float, dict[str, Tensor]]] = []  # loss and average, from where the average may end
        self.threshold: float | None = None
        self.ended = False

    def follow(self, step: int) -> None:
        if not self.ended:
            super().follow(step)

    def look(self, step: int, loss: float) -> None:
        if self.ended or not isfinite(loss):
            return
        if self.threshold is None and (not self.looks or loss < self.looks[0][0]):
            self.start, self.looks = step - 1, []
            self.follow(step)
        high = self.threshold is not None and loss > self.threshold
        self.looks.append((loss, {} if high else copies(self.means)))
        if self.threshold is None and len(self.looks) == self.converge:
            mean = fmean(loss for loss, _ in self.looks)
            self.threshold = max(self.looks[0][0], mean * (1 + self.ratio))  # the least is never above, by rounding
        if self.threshold is not None:
            self.end_if_over(self.threshold)

    def end_if_over(self, threshold: float) -> None:
        """Forget the looks before the last low one; if too many have followed it, the average is that of then."""
        low = max(at for at, (loss, _) in enumerate(self.looks) if loss <= threshold)
        self.looks = self.looks[low:]
        if len(self.looks) > self.tolerance:
            self.ended = True
            super().restore(self.looks[0][1])

    def state(self) -> dict[str, Any]:
        names = ("means", "start", "looks", "threshold", "ended")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state["means"])
        self.start, self.threshold, self.ended = state["start"], state["threshold"], state["ended"]
        self.looks = [(loss, copies(of)) for loss, of in state["looks"]]


def average_of(tensors: Mapping[str, Tensor], schedule: Schedule) -> Average:
    """The average that a schedule asks for."""
    return (Valley if schedule.split else Average)(tensors, schedule)


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the same names and values, apart from these."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
