"""One step of the protocol's optimizer under its learning-rate schedule, for all replicas at once; averages of steps.

The optimizers use the functions of torch.optim: making an object of torch.optim would import torch's compiler, three
seconds at the start of every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from spurbench.bench.plugin_files.discovery import load_component
from spurbench.bench.plugins.optimizer import Optimizer
from spurbench.bench.plugins.training_settings import Schedule, Training

DECAY = 0.1  # of the learning rate at each milestone
EMA_DECAY, SWA_FROM = 0.999, 0.5  # of averaged weights, where the training does not say
CONVERGE, TOLERANCE, RATIO = 3, 6, 0.3  # of SWAD's valley, likewise


class Optimization:
    """Moves `parameters` in place by their `.grad`; `steps` and `kept` are all that it remembers.

    Before each step of `resets` it forgets what it has kept; the learning rate's schedule goes on.
    """

    def __init__(self, parameters: Sequence[Tensor], training: Training, resets: Sequence[int] = ()) -> None:
        self.parameters, self.resets = list(parameters), resets
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
        for tensors in self.kept.values() if self.steps in self.resets else ():
            torch._foreach_zero_(tensors)
        since = self.steps - max((at for at in self.resets if at <= self.steps), default=0)
        self.optimizer.update(self.parameters, gradients, self.kept, since, self.lr())
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
            self.threshold = fmean(loss for loss, _ in self.looks) * (1 + self.ratio)
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
