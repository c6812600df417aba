"""What a method is: a function of logits, labels and the extra information it has declared.

Axes in names: B examples of the batch, C classes, E environments, G groups.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

NEEDS = ("environments", "groups", "index", "second network", "colour channels")


def hyper(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    scale: str = "linear",
    choices: tuple[Any, ...] | None = None,
    symbol: str = "",
) -> Any:
    """A hyper-parameter: its default, its search range (`scale` is linear or log) and the paper's symbol."""
    search = {"choices": choices} if choices else {"low": low, "high": high, "scale": scale}
    return dataclasses.field(default=default, metadata={"search": search, "symbol": symbol})


@dataclass(frozen=True)
class Problem:
    """What a method may know before training starts; group counts only if it has declared groups."""

    examples: int
    classes: int
    environments: int = 0
    group_counts: Tensor | None = None  # [G] training examples of each group
    device: torch.device = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """One model's batch. A field the method has not declared in `needs` is None."""

    y: Tensor  # [B] class index (int64)
    problem: Problem
    environment: Tensor | None = None  # [B] int64, 0..E-1
    group: Tensor | None = None  # [B] int64, 0..G-1
    index: Tensor | None = None  # [B] int64, place of the example in the training set
    second_logits: Tensor | None = None  # [B] or [B, C], of the second network

    def losses(self, logits: Tensor) -> Tensor:
        """Cross-entropy of each example, [B]; one logit ([B]) or C logits ([B, C])."""
        if logits.ndim == 1:
            return F.softplus(logits) - self.y * logits
        return F.cross_entropy(logits, self.y, reduction="none")

    def environment_means(self, values: Tensor) -> Tensor:
        """Mean of `values` [B] over each environment, [E]; an absent environment gives 0."""
        assert self.environment is not None, "declare needs = {'environments'}"
        return means(values, self.environment, self.problem.environments)

    def group_means(self, values: Tensor) -> Tensor:
        """Mean of `values` [B] over each group, [G]; an absent group gives 0."""
        assert self.group is not None and self.problem.group_counts is not None, "declare needs = {'groups'}"
        return means(values, self.group, len(self.problem.group_counts))

    def class_means(self, values: Tensor) -> Tensor:
        """Mean of `values` [B] over each class, [C]; an absent class gives 0."""
        return means(values, self.y, self.problem.classes)


def means(values: Tensor, of: Tensor, count: int) -> Tensor:
    """Mean of `values` [B] over each value 0..count-1 of `of` [B]; 0 where there is none."""
    member = (of[:, None] == torch.arange(count, device=of.device)).to(values.dtype)  # no scatter: deterministic
    return (values @ member) / member.sum(0).clamp(min=1)


def class_logits(logits: Tensor) -> Tensor:
    """One logit z as the two logits (0, z) of the same model; C logits as they are."""
    return torch.stack([torch.zeros_like(logits), logits], -1) if logits.ndim == 1 else logits


@dataclass(frozen=True)
class Method(ABC):
    """Base of every method: fields are hyper-parameters, `loss` is the paper's objective for ONE model.

    `needs` lists what beyond logits and labels is handed over (see NEEDS). `stackable = False` asks the
    engine to run seeds one by one, for losses that `torch.func.vmap` cannot lift. `trains = False` marks a
    reference row that predicts uniformly at random.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    stackable: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    def init_state(self, problem: Problem) -> dict[str, Tensor]:
        """What the method keeps from step to step, by name; checkpointed with the run."""
        return {}

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        """Scalar loss of one model; new values for the next step are put into `state` (never in place)."""

    def weight_penalty(self, step: int) -> float:
        """Coefficient of the squared norm of all parameters that the engine adds to the loss."""
        return 0.0

    def transform(self, x: Tensor) -> Tensor:
        """The input the network sees, of a batch of raw inputs [B, ...]."""
        return x
