"""What a method is: a loss of logits, labels and what else it has declared, and hooks for what comes before the step.

Axes in names: B examples of the batch, C classes, E environments, G groups.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from spurbench.bench.plugins.before_training import CannotBegin as CannotBegin
from spurbench.bench.plugins.before_training import Draw as Draw
from spurbench.bench.plugins.before_training import Examples as Examples
from spurbench.bench.plugins.before_training import Finished as Finished
from spurbench.bench.plugins.before_training import Head as Head
from spurbench.bench.plugins.before_training import Seen as Seen
from spurbench.bench.plugins.before_training import Start as Start
from spurbench.bench.plugins.before_training import balanced_rows as balanced_rows
from spurbench.bench.plugins.before_training import class_logits as class_logits
from spurbench.bench.plugins.before_training import draw_beta as draw_beta
from spurbench.bench.plugins.before_training import fresh_head as fresh_head
from spurbench.bench.plugins.before_training import inverse_frequency as inverse_frequency
from spurbench.bench.plugins.before_training import rows_of_each as rows_of_each
from spurbench.bench.plugins.before_training import send as send

NO_COUNTS = torch.zeros(0)
NEEDS = ("environments", "groups", "index", "features", "random numbers", "second network", "colour channels",
         "validation", "validation groups")  # fmt: skip


def hyper(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    scale: str = "linear",
    choices: tuple[Any, ...] | None = None,
    symbol: str = "",
    only: Mapping[str, Any] | None = None,
) -> Any:
    """A hyper-parameter: its default, its search range (`scale` is linear or log) and the paper's symbol.

    `only={"form": "released"}` says that it has an effect only with that value of another one; given beside another
    value it is refused.
    """
    if not isinstance(only or {}, Mapping):
        raise ValueError(f'only={only!r}: expected a mapping such as {{"form": "released"}}')
    search = {"choices": choices} if choices else {"low": low, "high": high, "scale": scale}
    return dataclasses.field(default=default, metadata={"search": search, "symbol": symbol, "only": only or {}})


@dataclass(frozen=True)
class Problem:
    """What a method may know before training starts; group counts only if it has declared groups."""

    examples: int
    classes: int
    environments: int = 0
    group_counts: Tensor | None = None  # [G] training examples of each group
    device: torch.device = torch.device("cpu")
    class_counts: Tensor = NO_COUNTS  # [C] training examples of each class
    steps: int = 0  # of the whole training
    steps_per_epoch: int = 1
    outputs: int = 1  # logits of an example
    features: int = 0  # D, if features are declared

    def epoch(self, step: int) -> int:
        """How many times the training set has been gone through before a step."""
        return step // self.steps_per_epoch


@dataclass(frozen=True)
class Batch:
    """One model's batch. A field the method has not declared in `needs` is None."""

    y: Tensor  # [B] class index (int64)
    problem: Problem
    environment: Tensor | None = None  # [B] int64, 0..E-1
    group: Tensor | None = None  # [B] int64, 0..G-1
    index: Tensor | None = None  # [B] int64, place of the example in the training set
    second_logits: Tensor | None = None  # [B] or [B, C], of the second network
    features: Tensor | None = None  # [B, D] what the network's last layer is given; the loss may depend on them
    random: Tensor | None = None  # [B] from 0 up to 1, drawn anew at each step from the seed's own stream
    soft: Tensor | None = None  # [B, C] the labels' probabilities, where `mix` has made such
    values: Mapping[str, Tensor] = field(default_factory=dict)  # [B, ...] by name, of those that `begin` gave

    def losses(self, logits: Tensor) -> Tensor:
        """Cross-entropy of each example, [B]; one logit ([B]) or C logits ([B, C])."""
        classes, shape = self.problem.classes, tuple(logits.shape)
        if shape[1:] not in ([(), (2,)] if classes == 2 else [(classes,)]):
            raise ValueError(f"logits of shape {shape} for {classes} classes: one is enough for two, else one a class")
        if logits.ndim == 1:
            return F.softplus(logits) - (self.y if self.soft is None else self.soft[:, 1]) * logits
        return F.cross_entropy(logits, self.y if self.soft is None else self.soft, reduction="none")

    def environment_means(self, values: Tensor) -> Means:
        """Mean of `values` [B] over each environment in the batch."""
        return means(values, self.known_environment, self.problem.environments)

    def environment_halves(self, values: Tensor) -> tuple[Means, Means]:
        """Means over every other example of each environment in the batch, and over the examples between them."""
        environment, count = self.known_environment, self.problem.environments
        member = members(environment, count)
        place = (member.cumsum(0) * member).sum(1)  # 1, 2, ... within its environment, [B]
        first, second = (means(values, torch.where(place % 2 == half, environment, count), count) for half in (1, 0))
        return first, second

    def environment_variances(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Population variance of each column of `values` [B, K] in each environment of the batch, [E, K].

        Also which environments are in the batch, [E]; the variances of others are 0.
        """
        member = members(self.known_environment, self.problem.environments).to(values.dtype)
        examples = member.sum(0)
        share = member / examples.clamp(min=1)
        squares = (values - member @ (share.T @ values)).square()  # each less the mean of its environment
        return share.T @ squares, examples > 0

    def group_means(self, values: Tensor) -> Means:
        """Mean of `values` [B] over each group in the batch."""
        assert self.group is not None and self.problem.group_counts is not None, "declare needs = {'groups'}"
        return means(values, self.group, len(self.problem.group_counts))

    def class_means(self, values: Tensor) -> Means:
        """Mean of `values` [B] over each class in the batch."""
        return means(values, self.y, self.problem.classes)

    @property
    def known_features(self) -> Tensor:
        assert self.features is not None, "declare needs = {'features'}"
        return self.features

    @property
    def known_environment(self) -> Tensor:
        assert self.environment is not None, "declare needs = {'environments'}"
        return self.environment


VALUE = "values."  # before the name of one of a batch's `values`, among its tensors


def batch_of(problem: Problem, fields: Mapping[str, Tensor]) -> Batch:
    """The batch of these tensors by name."""
    own = {name: tensor for name, tensor in fields.items() if not name.startswith(VALUE)}
    values = {name.removeprefix(VALUE): tensor for name, tensor in fields.items() if name.startswith(VALUE)}
    return Batch(problem=problem, **own, values=values)


@dataclass(frozen=True)
class Means:
    """Means over each of K classes, groups or environments; one of which the batch has no example has none.

    `mean` and `var` are over those present. `filled` gives a tensor [K] and says what an absent one counts as:
    `filled(0.0).sum()` where it adds nothing, `filled(-torch.inf).max()` where it cannot be the largest.
    """

    _values: Tensor  # [K], 0 where there is none
    present: Tensor  # [K] bool

    def filled(self, value: float | Tensor) -> Tensor:
        """The means, [K], and `value` for those absent."""
        return torch.where(self.present, self._values, value)

    def mean(self) -> Tensor:
        """The mean of those present; 0 if none is."""
        return self.filled(0.0).sum() / self.present.sum().clamp(min=1)

    def var(self) -> Tensor:
        """The population variance of those present; 0 for a single one."""
        share = self.present.to(self._values).mean().clamp(min=1 / len(self.present))
        return self.filled(self.mean()).var(correction=0) / share  # at the mean an absent one adds nothing

    def square(self) -> Means:
        return Means(self._values.square(), self.present)

    def __mul__(self, other: Means) -> Means:
        """Products, of those present in both."""
        return Means(self._values * other._values, self.present & other.present)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"means have no .{name}: some may be absent, say what those count as: .filled(0.0).{name}")


def means(values: Tensor, of: Tensor, count: int) -> Means:
    """Mean of `values` [B] over each value 0..count-1 of `of` [B]."""
    member = members(of, count).to(values.dtype)  # no scatter: deterministic
    examples = member.sum(0)
    return Means((values @ member) / examples.clamp(min=1), examples > 0)


def members(of: Tensor, count: int) -> Tensor:
    """Whether `of` [B] is each value 0..count-1, [B, count]."""
    return of[:, None] == torch.arange(count, device=of.device)


class Edited(ValueError):
    """A loss has changed what it was handed."""


class untouched:
    """Raises Edited, which names the tensor, if one of those handed to a loss is changed in place inside the block.

    It compares the counters that torch keeps of such changes, also through views and vmap, which takes no time; changes
    through `.data` or numpy pass unseen here, `check-method` finds them.
    """

    def __init__(self, loss: str, handed: Mapping[str, Tensor]) -> None:
        self.loss, self.handed = loss, handed

    def __enter__(self) -> None:
        self.before = [tensor._version for tensor in self.handed.values()]

    def __exit__(self, kind: object, *_: object) -> None:
        now = [tensor._version for tensor in self.handed.values()]
        if kind is None and now != self.before:
            name = next(n for n, was, new in zip(self.handed, self.before, now, strict=True) if was != new)
            raise Edited(f"{self.loss} changes {name} in place: make a new tensor of it, as {name}.clone() does")


@dataclass(frozen=True)
class Method(ABC):
    """Base of every method: fields are hyper-parameters, `loss` is the paper's objective for ONE model.

    `needs` lists what beyond logits and labels is handed over (see NEEDS). `stackable = False` asks the
    engine to run seeds one by one, for losses that `torch.func.vmap` cannot lift. `trains = False` marks a
    reference row that predicts uniformly at random or, with a base, a method that only fits a new head.
    `head_only = True` says that the network is the base's but for its last layer, as `begin` answers.

    `base` names the run to start from, such as `{"method": "erm", "step": "stop"}`: another method on the same data and
    seed, with `hyper_parameters` and `training` of its own where they are given, after `step` and, if wanted, after an
    `earlier` one. Steps are numbers, or shares of the base's training below 1; a text names a hyper-parameter.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    stackable: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    head_only: ClassVar[bool] = False
    base: ClassVar[Mapping[str, Any]] = {}

    def init_state(self, problem: Problem) -> dict[str, Tensor]:
        """What the method keeps from step to step, by name; checkpointed with the run."""
        return {}

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        """Scalar loss of one model; new values for the next step are put into `state` (never in place).

        A function of what it is handed: it changes none of it, draws no random numbers and keeps nothing elsewhere.
        """

    def weight_penalty(self, step: int) -> float:
        """Coefficient of the squared norm of all parameters that the engine adds to the loss."""
        return 0.0

    def resets(self) -> tuple[int, ...]:
        """Steps before which the optimizer forgets momentum, averages and their count, as one made anew has none."""
        return ()

    def transform(self, x: Tensor) -> Tensor:
        """The input the network sees, of a batch of raw inputs [B, ...]."""
        return x

    def draw(self, examples: Examples) -> Draw:
        """Which examples of the training set are trained on, and how likely each is; once for each seed."""
        return Draw()

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        """What is done otherwise than without the finished run that `base` names; once for each seed.

        `generator`, on the CPU, is the seed's own.
        """
        return Start()

    def infer(self, seen: Seen, generator: torch.Generator) -> Tensor:
        """An attribute of each example of a split, [n] from 0, from what its base (or, without one, its own run) sees.

        A run with `groups: {from: METHOD}` takes it in place of the dataset's attribute, in training and in selection.
        """
        raise NotImplementedError

    def mix(self, x: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and label probabilities [B, C] made of a batch's own, `x` [B, ...] as the network would see them.

        `generator`, on the CPU, is that of the seed and step.
        """
        raise NotImplementedError

    @classmethod
    def mixes(cls) -> bool:
        return cls.mix is not Method.mix
