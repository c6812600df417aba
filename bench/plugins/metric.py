"""What a metric is: a number of the predictions on one split, with its unit, its limits and which way is better.

One file holds one metric; its docstring says what it is, its Source and what it Needs. Metrics of predictions are
computed by `spurbench rescore`; those that need no more than the counts of a record are on every leaderboard.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spurbench.bench.core.fields import setting as setting
from spurbench.bench.plugins.counts import Counted

Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """What one network says of the n examples of a split, and what they are."""

    logits: Array  # [n] for one logit, of class 1 where it is above 0; or [n, C]
    y: Array  # [n] class index
    group: Array  # [n] y * attributes + a; y where the split has no attribute
    classes: int
    attributes: int = 1  # values of the spurious attribute

    @cached_property
    def log_probabilities(self) -> Array:
        """Logarithm of the probability of each class, [n, C]."""
        z = self.logits.astype(np.float64)
        z = np.stack([np.zeros_like(z), z], -1) if z.ndim == 1 else z
        z = z - z.max(-1, keepdims=True)
        found: Array = z - np.log(np.exp(z).sum(-1, keepdims=True))
        return found

    @cached_property
    def probabilities(self) -> Array:
        """Probability of each class, [n, C]."""
        found: Array = np.exp(self.log_probabilities)
        return found

    @cached_property
    def predicted(self) -> Array:
        """The most probable class of each example, [n]."""
        found: Array = (self.logits > 0).astype(np.int64) if self.logits.ndim == 1 else self.logits.argmax(-1)
        return found

    @property
    def correct(self) -> Array:
        """Whether each prediction is right, [n]."""
        found: Array = self.predicted == self.y
        return found

    def only(self, which: Array) -> Predictions:
        """Those of some examples; `which` is [n] bool."""
        return Predictions(self.logits[which], self.y[which], self.group[which], self.classes, self.attributes)


class Metric(ABC):
    """Base of every metric; a class with settings is a frozen dataclass, and they are its fields."""

    unit: str = ""  # "%": `value` is a share, which is shown in percent
    higher_is_better: bool | None = None  # None: neither
    limits: tuple[float | None, float | None] = (None, None)  # of what is shown; None: there is none
    counted: ClassVar[bool] = False  # whether the counts of a record are enough for it
    per_group: bool = False  # whether it is over groups, so that groups without an example are named

    @abstractmethod
    def value(self, predictions: Predictions) -> float | None:
        """The number, of one example or more; None where it is not defined."""


class Seen(NamedTuple):
    """What a record counts of one split, and what else it says."""

    counts: Counted
    splits: Mapping[str, Counted] = {}  # every split, training too
    subsets: Mapping[str, Counted] = {}  # of this split, by class
    conflicting: Sequence[int] = ()  # groups whose attribute misleads about their label

    @property
    def training(self) -> Counted | None:
        return self.splits.get("train")


class CountedMetric(Metric):
    """A metric for which it is enough how many examples of each group are right, the summed loss and the entropy."""

    counted: ClassVar[bool] = True
    over: ClassVar[str] = ""  # what stands in the place of a split's name, if it is over several splits
    needs_conflicting: ClassVar[bool] = False  # whether it is only of data of which the misleading groups are known
    needs_subsets: ClassVar[bool] = False  # whether it is only of data whose splits have subsets

    @abstractmethod
    def of_counts(self, seen: Seen) -> float | None:
        """The number, of one example or more; None where it is not defined."""

    def value(self, predictions: Predictions) -> float | None:
        return self.of_counts(Seen(tally(predictions)))


@dataclass(frozen=True)
class Tally:
    """Counts of predictions."""

    n: list[float]
    correct: list[float]
    loss_sum: float
    entropy_sum: float


def tally(predictions: Predictions) -> Tally:
    """The counts of predictions, as a record has them."""
    groups = max(int(predictions.group.max()) + 1, predictions.classes)
    log = predictions.log_probabilities
    with np.errstate(invalid="ignore"):
        entropy = -np.where(log > -np.inf, predictions.probabilities * log, 0.0).sum()
    return Tally(
        n=np.bincount(predictions.group, minlength=groups).tolist(),
        correct=np.bincount(predictions.group[predictions.correct], minlength=groups).tolist(),
        loss_sum=float(-log[np.arange(len(log)), predictions.y].sum()),
        entropy_sum=float(entropy),
    )


class WorstGroup(Metric):
    """Another metric of each group by itself: the worst of them; None where a group has no such number."""

    per_group = True

    def __init__(self, of: Metric) -> None:
        self.of, self.unit, self.limits, self.higher_is_better = of, of.unit, of.limits, of.higher_is_better

    def value(self, predictions: Predictions) -> float | None:
        each = [self.of.value(predictions.only(predictions.group == g)) for g in np.unique(predictions.group)]
        known = [value for value in each if value is not None]
        if len(known) < len(each):
            return None
        return min(known) if self.higher_is_better else max(known)
