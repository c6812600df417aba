"""The method's loss of R replicas, and what the method keeps from step to step.

Axes in names: R replicas, B examples of the batch, C classes. A lane is one replica, or all of them stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from spurbench.bench.checks.purity import generators
from spurbench.bench.plugins.dataset import Data
from spurbench.bench.plugins.method import Batch, Method, Problem, untouched
from spurbench.bench.training.batching import Lane

State = dict[str, Tensor]
"""Tensors by name: what a method keeps, or what it is told."""


class Losses:
    """Asks the method for the loss of each replica.

    Replicas that pass through the network one by one are asked for one by one too, so that on a CPU the numbers of one
    do not depend on the others, to the last bit; those that pass as one stack are lifted with `vmap`.
    """

    def __init__(self, method: Method, data: Sequence[Data], lanes: Sequence[Lane], device: torch.device) -> None:
        self.method, self.lanes, self.name = method, lanes, f"{type(method).__name__}.loss"
        self.problems = [problem_of(one, method, device) for one in data]
        self.states: list[State] = [dict(method.init_state(problem)) for problem in self.problems]
        self.lifted = isinstance(lanes[0], slice) and method.stackable
        self.tried = False  # whether it is known that the loss draws no random numbers
        if self.lifted:
            counts = [p.group_counts for p in self.problems if p.group_counts is not None]
            self.known = {"group_counts": torch.stack(counts)} if counts else {}
            self.stack = stacked(self.states)

    def __call__(self, targets: Sequence[State], logits: Sequence[Sequence[Tensor]], step: int) -> list[Tensor]:
        """The loss of each replica, a scalar; the method's states are replaced by those of the next step.

        `targets` has for each lane the labels and what was declared, `logits` for each network and lane its logits.
        """
        if self.tried:
            return self.asked(targets, logits, step)
        before = generators()
        losses = self.asked(targets, logits, step)
        if generators() != before:
            raise ValueError(f"{self.name} draws random numbers, which seeds would share: it must not")
        self.tried = True
        return losses

    def asked(self, targets: Sequence[State], logits: Sequence[Sequence[Tensor]], step: int) -> list[Tensor]:
        told = [dict(of_lane) for of_lane in targets]
        for of_lane, second in zip(told, logits[1] if len(logits) > 1 else (), strict=False):
            of_lane["second_logits"] = second
        if self.lifted:
            return self.together(logits[0][0], told[0], step)
        if isinstance(self.lanes[0], slice):
            replicas = range(len(self.states))
            return [self.alone(r, logits[0][0][r], {n: t[r] for n, t in told[0].items()}, step) for r in replicas]
        return [self.alone(r, z, told[r], step) for r, z in enumerate(logits[0])]

    def alone(self, r: int, logits: Tensor, told: State, step: int) -> Tensor:
        state = dict(self.states[r])
        with untouched(self.name, {"logits": logits, **told, **state}):
            loss = self.scalar(self.method.loss(logits, Batch(problem=self.problems[r], **told), state, step))
        if not self.tried and form(state) != form(self.states[r]):
            raise ValueError(f"{self.name} puts {form(state)} into its state, which began as {form(self.states[r])}")
        self.states[r] = {name: value.detach() for name, value in state.items()}
        return loss

    def together(self, logits: Tensor, told: State, step: int) -> list[Tensor]:
        def one(z: Tensor, told: State, state: State, known: State) -> tuple[Tensor, State]:
            problem, state = Problem(**(vars(self.problems[0]) | known)), dict(state)
            return self.scalar(self.method.loss(z, Batch(problem=problem, **told), state, step)), state

        with untouched(self.name, {"logits": logits, **told, **self.stack}):
            losses, states = vmap(one)(logits, told, self.stack, self.known)
        self.stack = {name: value.detach() for name, value in states.items()}
        return list(losses.unbind())

    def scalar(self, loss: Any) -> Tensor:
        """The loss as a method gave it, if it is what it must be."""
        if not isinstance(loss, Tensor) or loss.ndim:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ValueError(f"{self.name} gave {what}; it must be a scalar tensor")
        return loss

    def state(self, r: int) -> State:
        """What the method keeps of one replica."""
        return {name: value[r].clone() for name, value in self.stack.items()} if self.lifted else self.states[r]

    def restore(self, states: Sequence[State]) -> None:
        """Go on from such states of all replicas, on the device of those there are."""
        devices = [{name: value.device for name, value in own.items()} for own in self.states]
        self.states = [
            {name: value.to(where[name]) for name, value in state.items()}
            for state, where in zip(states, devices, strict=True)
        ]
        if self.lifted:
            self.stack = stacked(self.states)


def form(state: State) -> dict[str, list[int]]:
    """The names and shapes of what a method keeps."""
    return {name: list(value.shape) for name, value in state.items()}


def stacked(states: Sequence[State]) -> State:
    """States of replicas along a new first axis R."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def problem_of(data: Data, method: Method, device: torch.device) -> Problem:
    """What the method is told of the training set: group counts and environments only if declared."""
    groups = None
    if "groups" in method.needs:
        groups = data.train.group(data.attributes).bincount(minlength=len(data.groups)).to(device)
    environments = data.environments if "environments" in method.needs else 0
    return Problem(len(data.train.y), data.classes, environments, groups, device)
