"""What a method is given beside logits: labels, groups and the like of each step's examples, drawn and mixed.

Axes in names: R replicas, B examples of the batch, C classes, n examples of the training set.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import torch
from torch import Tensor

from spurbench.bench.plugins.before_training import Draw, Examples, send
from spurbench.bench.plugins.dataset import Inputs, map_inputs
from spurbench.bench.plugins.method import VALUE, Method, Problem, batch_of
from spurbench.bench.plugins.network import kind_of
from spurbench.bench.training.batching import MicroBatch, Pass, generator_for
from spurbench.bench.training.replica import Replica
from spurbench.bench.training.stack import by_pass

Fields = dict[str, Tensor]
"""The tensors of a `Batch`, by name; one of its `values` as `values.name`."""


class Targets:
    """The labels and what else was declared of the training set, step by step."""

    def __init__(
        self, method: Method, replicas: Sequence[Replica], passes: Sequence[Pass], device: torch.device
    ) -> None:
        self.passes, self.device, self.seeds = passes, device, [replica.seed for replica in replicas]
        self.random = "random numbers" in method.needs
        self.every = {name: torch.stack(of).to(device) for name, of in fields_of(replicas, method).items()}
        self.by_pass = by_pass(self.every, passes)

    def at(self, step: int, rows: Tensor | None) -> list[Fields]:
        """For each pass the fields of the rows [R, B] of a step; None: of all rows."""
        if rows is None and not self.random:
            return self.by_pass
        chosen = self.every
        if rows is not None:
            chosen = {name: take_rows(of, rows) for name, of in chosen.items()}
        if self.random:
            examples = chosen["y"].shape[1]
            drawn = [torch.rand(examples, generator=generator_for(seed, f"random {step}")) for seed in self.seeds]
            chosen = chosen | {"random": send(torch.stack(drawn), self.device)}
        return by_pass(chosen, self.passes)


def take_rows(of: Tensor, rows: Tensor) -> Tensor:
    """Rows [R, B] of a tensor [R, n, ...]."""
    return of.gather(1, rows.view(*rows.shape, *[1] * (of.ndim - 2)).expand(*rows.shape, *of.shape[2:]))


class Mixing:
    """Inputs and labels of each step as the method's `mix` makes them, replica by replica."""

    def __init__(self, method: Method, problems: Sequence[Problem], seeds: Sequence[int], stacked: bool) -> None:
        self.method, self.problems, self.seeds, self.stacked = method, problems, seeds, stacked

    def mix(
        self, step: int, inputs: list[list[MicroBatch]], targets: list[Fields]
    ) -> tuple[list[list[MicroBatch]], list[Fields]]:
        """Mixed inputs and, among the fields, the probabilities of labels, for each pass."""
        if not self.stacked:
            made = [
                self.mix_one(r, step, parts[0].x, of) for r, (parts, of) in enumerate(zip(inputs, targets, strict=True))
            ]
            return [[MicroBatch(x)] for x, _ in made], [
                of | {"soft": soft} for of, (_, soft) in zip(targets, made, strict=True)
            ]
        every, fields = inputs[0][0].x, targets[0]
        made = [
            self.mix_one(r, step, map_inputs(itemgetter(r), every), {name: of[r] for name, of in fields.items()})
            for r in range(len(self.seeds))
        ]
        x, soft = (torch.stack(parts) for parts in zip(*made, strict=True))
        return [[MicroBatch(x)]], [fields | {"soft": soft}]

    def mix_one(self, r: int, step: int, x: Inputs, fields: Fields) -> tuple[Tensor, Tensor]:
        """Errors: ValueError for inputs that cannot be mixed, and if what is mixed has not the shape it must have."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(f"{type(self.method).__name__} mixes floats; these inputs are of the kind {kind_of(x)}")
        problem = self.problems[r]
        generator = generator_for(self.seeds[r], f"mix {step}")
        mixed, soft = self.method.mix(x, batch_of(problem, fields), generator)
        wanted = [list(x.shape), [len(x), problem.classes]]
        if [list(mixed.shape), list(soft.shape)] != wanted:
            given = f"inputs {list(mixed.shape)} and labels {list(soft.shape)}"
            raise ValueError(f"mix gave {given}; they must be of the shapes {wanted[0]} and {wanted[1]}")
        return mixed, soft.to(torch.float32)


def draw_examples(method: Method, replica: Replica) -> Draw:
    """What the method draws of a replica's training set.

    Errors: ValueError if that is nothing.
    """
    own = {name: of[0] for name, of in fields_of([replica], method).items()}
    examples = Examples(own["y"], own.get("group"), own.get("environment"), generator_for(replica.seed, "draw"))
    draw = method.draw(examples) if replica.start.draw == Draw() else replica.start.draw
    if draw.rows is not None and not len(draw.rows):
        raise ValueError(f"{type(method).__name__}.draw leaves no example to train on")
    return draw


def fields_of(replicas: Sequence[Replica], method: Method) -> dict[str, list[Tensor]]:
    """What the method may see of each replica's training examples, [n, ...] each: labels and what it has declared."""
    examples = [replica.examples for replica in replicas]
    found = {"y": [split.y for split in examples]}
    if "environments" in method.needs:
        if any(split.environment is None for split in examples):
            raise ValueError("the dataset gives no environments")
        found["environment"] = [split.environment for split in examples if split.environment is not None]
    if "groups" in method.needs:
        found["group"] = [replica.group for replica in replicas]
    if "index" in method.needs:
        found["index"] = [torch.arange(len(split.y)) for split in examples]
    for name in replicas[0].start.values:
        found[VALUE + name] = [replica.start.values[name] for replica in replicas]
    return found
