"""The method's loss of R replicas, and what the method keeps from step to step.

Axes in names: R replicas, B examples of the batch, C classes. A pass is of one replica, or of all of them stacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from spurbench.bench.checks.purity import generators
from spurbench.bench.plugins.method import Method, Problem, batch_of, untouched
from spurbench.bench.training.replica import Replica

State = dict[str, Tensor]
"""Tensors by name: what a method keeps from step to step, or what it is given."""


class Losses:
    """Asks the method for the loss of each replica.

    Replicas that pass through the network one by one are asked for one by one too, so that on a CPU the numbers of one
    do not depend on the others, to the last bit; those that pass as one stack are lifted with `vmap`.
    """

    def __init__(
        self,
        method: Method,
        replicas: Sequence[Replica],
        stacked: bool,
        device: torch.device,
        steps_per_epoch: Sequence[int],  # of each replica
        **known: int,  # what else of `Problem` is the same for all
    ) -> None:
        self.method, self.stacked, self.name = method, stacked, f"{type(method).__name__}.loss"
        self.problems = [
            problem_of(one, method, device, steps_per_epoch=steps, **known)
            for one, steps in zip(replicas, steps_per_epoch, strict=True)
        ]
        self.states: list[State] = [dict(method.init_state(problem)) for problem in self.problems]
        alike = len({numbers_of(problem) for problem in self.problems}) == 1
        self.lifted = stacked and method.stackable and alike
        self.checked = False  # whether it is known that the loss draws no random numbers
        if self.lifted:
            self.known = stack([counts_of(problem) for problem in self.problems])
            self.stacked_state = stack(self.states)

    def __call__(self, i: int, targets: State, outputs: State, step: int) -> list[Tensor]:
        """The loss of replica `i`, or of each if they are stacked, scalars; states become those of the next step.

        `targets` are the labels and what was declared; `outputs` the logits, those of a second network if there is one,
        and the first one's features if they were declared.
        """
        given = targets | outputs
        logits = given.pop("logits")
        if self.checked:
            return self.compute(i, logits, given, step)
        before = generators()
        losses = self.compute(i, logits, given, step)
        if generators() != before:
            raise ValueError(f"{self.name} draws random numbers, which seeds would share: it must not")
        self.checked = self.stacked or i + 1 == len(self.states)
        return losses

    def compute(self, i: int, logits: Tensor, given: State, step: int) -> list[Tensor]:
        """The losses, all at once or one after the other."""
        if self.lifted:
            return self.all_at_once(logits, given, step)
        if self.stacked:
            return [self.one(r, logits[r], {n: t[r] for n, t in given.items()}, step) for r in range(len(self.states))]
        return [self.one(i, logits, given, step)]

    def one(self, r: int, logits: Tensor, given: State, step: int) -> Tensor:
        """The loss of replica `r`."""
        state = dict(self.states[r])
        with untouched(self.name, {"logits": logits, **given, **state}):
            loss = self.scalar(self.method.loss(logits, batch_of(self.problems[r], given), state, step))
        self.check_shapes(state, self.states[r])
        self.states[r] = {name: value.detach() for name, value in state.items()}
        return loss

    def all_at_once(self, logits: Tensor, given: State, step: int) -> list[Tensor]:
        """The losses of stacked replicas, of the method's loss lifted over the axis R."""

        def one(z: Tensor, given: State, state: State, known: State) -> tuple[Tensor, State]:
            problem, state = Problem(**(vars(self.problems[0]) | known)), dict(state)
            return self.scalar(self.method.loss(z, batch_of(problem, given), state, step)), state

        with untouched(self.name, {"logits": logits, **given, **self.stacked_state}):
            losses, states = vmap(one)(logits, given, self.stacked_state, self.known)
        self.check_shapes(states, self.stacked_state)
        self.stacked_state = {name: value.detach() for name, value in states.items()}
        return list(losses.unbind())

    def scalar(self, loss: Any) -> Tensor:
        """The loss as a method gave it, if it is what it must be."""
        if not isinstance(loss, Tensor) or loss.ndim:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ValueError(f"{self.name} gave {what}; it must be a scalar tensor")
        return loss

    def check_shapes(self, state: State, began: State) -> None:
        """Errors: ValueError if a loss has put something of another name or shape into its state."""
        if not self.checked and shapes(state) != shapes(began):
            raise ValueError(f"{self.name} puts {shapes(state)} into its state, which began as {shapes(began)}")

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What is asked inside the block leaves the methods' states as they were."""
        before = list(self.states), dict(self.stacked_state) if self.lifted else {}
        yield
        self.states = before[0]
        if self.lifted:
            self.stacked_state = before[1]

    def state(self, r: int) -> State:
        """What the method keeps of one replica."""
        return {n: value[r].clone() for n, value in self.stacked_state.items()} if self.lifted else self.states[r]

    def restore(self, states: Sequence[State]) -> None:
        """Go on from such states of all replicas, on the device of those there are."""
        devices = [{name: value.device for name, value in own.items()} for own in self.states]
        self.states = [
            {name: value.to(where[name]) for name, value in state.items()}
            for state, where in zip(states, devices, strict=True)
        ]
        if self.lifted:
            self.stacked_state = stack(self.states)


def differentiate(losses: Sequence[Tensor], outputs: Sequence[State]) -> list[State]:
    """The losses' gradients with respect to outputs of networks, under the same names; zeros where there is none."""
    flat = [output for each in outputs for output in each.values()]
    gradients = iter(torch.autograd.grad(losses, flat, allow_unused=True, materialize_grads=True))
    return [{name: next(gradients) for name in each} for each in outputs]


def shapes(state: State) -> dict[str, list[int]]:
    """The names and shapes of what a method keeps."""
    return {name: list(value.shape) for name, value in state.items()}


def stack(states: Sequence[State]) -> State:
    """States of replicas along a new first axis R."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def problem_of(replica: Replica, method: Method, device: torch.device, **known: int) -> Problem:
    """What the method may know of the training: group counts and environments only if declared."""
    y, classes, groups = replica.examples.y, replica.data.classes, None
    if "groups" in method.needs:
        groups = replica.group.bincount(minlength=replica.groups).to(device)
    environments = replica.environments if "environments" in method.needs else 0
    return Problem(len(y), classes, environments, groups, device, y.bincount(minlength=classes).to(device), **known)


def numbers_of(problem: Problem) -> tuple[int, ...]:
    """What of a problem is a number to a method, not a tensor, and may differ from seed to seed."""
    groups = 0 if problem.group_counts is None else len(problem.group_counts)
    return problem.examples, problem.steps_per_epoch, problem.environments, groups


def counts_of(problem: Problem) -> State:
    """What of a problem differs from seed to seed."""
    found = {"class_counts": problem.class_counts}
    return found if problem.group_counts is None else found | {"group_counts": problem.group_counts}
