"""What a method sees and decides before the first step: which examples are drawn, and what a finished run changes.

Axes in names: n examples of a split, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Examples:
    """The training set of one seed as a method sees it before the first step; what it has not declared is None."""

    y: Tensor  # [n] class index (int64)
    group: Tensor | None  # [n] int64
    environment: Tensor | None  # [n] int64
    generator: torch.Generator  # of the seed's own stream, on the CPU

    @property
    def known_group(self) -> Tensor:
        assert self.group is not None, "declare needs = {'groups'}"
        return self.group


@dataclass(frozen=True)
class Draw:
    """Rows of the training set, and how they are drawn: an epoch is as many draws as there are rows."""

    rows: Tensor | None = None  # [m] int64, any of them as often as it is there; None: each once
    weights: Tensor | None = None  # [m], with replacement in proportion to these; None: each once, in random order


Head = tuple[Tensor, Tensor]
"""Weight [C, D] and bias [C] of a last layer; of a network with one logit [1, D] and [1]."""


class CannotBegin(ValueError):
    """A run cannot start from what it is to start from; the text says why."""


@dataclass(frozen=True)
class Seen:
    """What a finished run makes of a split, in evaluation mode and without random changes of the inputs."""

    y: Tensor  # [n] class index (int64)
    group: Tensor | None  # [n] int64, if that is declared
    environment: Tensor | None  # [n] int64, likewise
    logits: Tensor  # [n] or [n, C], float32
    features: Tensor  # [n, D] what the head is given, float32
    second_logits: Tensor | None = None  # of the second network, if the run's method has one

    @property
    def class_logits(self) -> Tensor:
        """Logits of every class, [n, C]; one logit z is (0, z)."""
        return class_logits(self.logits)

    @property
    def predictions(self) -> Tensor:
        """[n] class index."""
        return self.class_logits.argmax(1)

    @property
    def errors(self) -> Tensor:
        """Whether each prediction is wrong, [n]."""
        return self.predictions != self.y

    @property
    def losses(self) -> Tensor:
        """Cross-entropy of each example, [n]."""
        return F.cross_entropy(self.class_logits, self.y, reduction="none")

    @property
    def known_group(self) -> Tensor:
        assert self.group is not None, "declare needs = {'groups'}, or {'validation groups'}"
        return self.group


@dataclass(frozen=True)
class Finished:
    """A run that has come to its end, as a method that starts from it is given it."""

    train: Seen
    validation: Seen | None  # if the method needs validation
    head: Head
    earlier: Finished | None = None  # the same run after an earlier step, if the method's base asks for one

    @property
    def known_validation(self) -> Seen:
        assert self.validation is not None, "declare needs = {'validation'}"
        return self.validation

    @property
    def known_earlier(self) -> Finished:
        assert self.earlier is not None, "declare a step 'earlier' in base"
        return self.earlier


@dataclass(frozen=True)
class Start:
    """What a run that starts from a finished one does otherwise. What is left out stays as it is without a base."""

    network: str = "fresh"  # or "base": as it ended; or "head": that, and all but its last layer is frozen
    split: str = "train"  # or "validation": whose examples are trained on; those not drawn stay held out
    draw: Draw = Draw()
    environment: Tensor | None = None  # [n] int64 from 0, instead of the dataset's
    group: Tensor | None = None  # [n] int64 from 0, likewise
    values: Mapping[str, Tensor] = field(default_factory=dict)  # [n, ...] by name: `batch.values` of each step
    head: Head | None = None  # of a network that is "head": where it begins, or, without training, where it stays
    marked: Tensor | None = None  # [n] bool: examples taken to be of minorities; the record says how rightly
    from_base: bool = False  # whether weight penalties pull the head to where it begins, instead of to zero


def balanced_rows(of: Tensor, generator: torch.Generator) -> Tensor:
    """Rows drawn so that each value of `of` [n] that occurs does so as often as the rarest, [m]."""
    counts = of.bincount()
    return rows_of_each(of, torch.full_like(counts, int(counts[counts > 0].min())), generator)


def rows_of_each(of: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """The first `counts[k]` rows with the value k of `of` [n], for each k, in a random order of all rows, [m]."""
    order = torch.randperm(len(of), generator=generator)
    shuffled = of[order]
    member = shuffled[:, None] == torch.arange(len(counts))
    place = (member.cumsum(0) * member).sum(1)  # 1, 2, ... among those of its value
    return order[place <= counts[shuffled]]


def draw_beta(alpha: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Shares from 0 to 1 of a Beta(α, α) distribution, as float32; torch's own take no generator."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.as_tensor(np.random.default_rng(seed).beta(alpha, alpha, shape), dtype=torch.float32)


def send(drawn: Tensor, device: torch.device) -> Tensor:
    """What was made on the CPU, on a network's device; a GPU is not waited for, as it would be with `.to`."""
    moves = device.type == "cuda" and drawn.device.type == "cpu"
    return drawn.pin_memory().to(device, non_blocking=True) if moves else drawn


def class_logits(logits: Tensor) -> Tensor:
    """One logit z as the two logits (0, z) of the same model; C logits as they are."""
    return torch.stack([torch.zeros_like(logits), logits], -1) if logits.ndim == 1 else logits


def fresh_head(like: Head, generator: torch.Generator) -> Head:
    """A last layer of that shape with new weights, drawn as those of `torch.nn.Linear` are."""
    weight, bias = (torch.empty_like(part) for part in like)
    bound = weight.shape[1] ** -0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)
    nn.init.uniform_(bias, -bound, bound, generator=generator)
    return weight, bias


def inverse_frequency(of: Tensor) -> Tensor:
    """One over the number of rows that have the same value of `of` [n], [n]."""
    return 1.0 / of.bincount()[of]
