"""What a selection rule is: the splits it looks at, and the criteria by which it prefers one look at them to another.

One file holds one rule; its docstring says what it picks by and what it uses. `selection: NAME` in a grid chooses it.

A criterion is a function from the counts of those splits to a number, higher is better, or None; its name is what
readers see, `worst_group` as "worst group". The first one decides; where it scores several steps or draws alike,
the next one separates them, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import fsum, inf, isfinite
from typing import ClassVar

from spurbench.bench.plugins.counts import SUBSET, Counted, accuracy, unbiased_accuracy, worst_group_accuracy

Splits = Mapping[str, Counted]
Criterion = Callable[[Sequence[Counted]], float | None]
Scores = tuple[float, ...]  # of the criteria of a rule, compared from the first on
DIGITS = 12  # means of equal accuracies may differ in the last bits; different ones differ sooner


def average_accuracy(each: Sequence[Counted]) -> float | None:
    """Correct / all, over all splits together."""
    total = sum(sum(counts.n) for counts in each)
    return float(sum(sum(counts.correct) for counts in each) / total) if total else None


def least_accuracy(each: Sequence[Counted]) -> float | None:
    """The smallest accuracy of a split."""
    return least([accuracy(counts) for counts in each])


def worst_group(each: Sequence[Counted]) -> float | None:
    """The smallest accuracy of a group of a split."""
    return least([worst_group_accuracy(counts) for counts in each])


def mean_over_groups(each: Sequence[Counted]) -> float | None:
    """The smallest mean, over the groups that have examples, of a split."""
    return least([unbiased_accuracy(counts) for counts in each])


def lower_loss(each: Sequence[Counted]) -> float | None:
    """Minus the mean loss over all splits together."""
    total = sum(sum(counts.n) for counts in each)
    return -fsum(counts.loss_sum for counts in each) / total if total else None


def least(found: Sequence[float | None]) -> float | None:
    """The smallest, if each is known."""
    known = [share for share in found if share is not None]
    return min(known) if known and len(known) == len(found) else None


class Rule:
    """Base of every rule: `criteria`, the first of which decides, on `splits` (names or patterns) and no others.

    What breaks ties looks at the same splits, or at those of `ties_on` if a rule has them.

    `text` says in a plan and on leaderboards by what it chooses. `uses` says what it must know of the splits; where the
    data have no attribute, their groups are their classes, and labels are enough.
    """

    text: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ()
    criteria: ClassVar[tuple[Criterion, ...]] = ()
    ties_on: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    by_class: ClassVar[bool] = False  # its groups are the classes, whatever groups there are

    @property
    def oracle(self) -> bool:
        """Whether it looks at a test set: at any split but those of training and validation."""
        splits = [pattern.partition(SUBSET)[0] for pattern in self.looks_at]
        return not all(split.startswith(("train", "validation", "inferred_validation")) for split in splits)

    @property
    def looks_at(self) -> tuple[str, ...]:
        """The splits, by name or pattern, that it looks at."""
        return tuple(dict.fromkeys((*self.splits, *self.ties_on)))

    @property
    def refined(self) -> str:
        """How ties are broken, in words."""
        return ", then ".join(one.__name__.replace("_", " ") for one in self.criteria[1:])

    def seen(self, splits: Splits, patterns: Sequence[str], classes: int) -> list[Counted]:
        """The counts of the splits that these patterns name, as the rule takes them."""
        found = [counts for name, counts in splits.items() if any(fnmatchcase(name, one) for one in patterns)]
        return [merged(counts, classes) for counts in found] if self.by_class else found

    def lacking(self, splits: Sequence[str] | Splits) -> list[str]:
        """The splits it looks at that are not among these."""
        return [pattern for pattern in self.looks_at if not any(fnmatchcase(name, pattern) for name in splits)]

    def scores(self, splits: Splits, classes: int = 2) -> Scores | None:
        """The score, and after it what breaks ties; None where there is none to give."""
        if not self.criteria or self.lacking(splits):
            return None
        decisive, ties = (self.seen(splits, which, classes) for which in (self.splits, self.ties_on or self.splits))
        found = [self.criteria[0](decisive), *(one(ties) for one in self.criteria[1:])]
        return None if found[0] is None else tuple(comparable(score) for score in found)


@dataclass(frozen=True)
class ByClass:
    """Counts of each class in place of each group."""

    n: Sequence[float]
    correct: Sequence[float]
    loss_sum: float
    entropy_sum: float


def merged(counts: Counted, classes: int) -> ByClass:
    """Counts with all groups of a class together; groups are numbered y · attributes + a."""
    size = max(1, len(counts.n) // classes)
    n, correct = ([sum(of[at : at + size]) for at in range(0, len(of), size)] for of in (counts.n, counts.correct))
    return ByClass(n, correct, counts.loss_sum, counts.entropy_sum)


def comparable(score: float | None) -> float:
    """A score that may be compared with others: equal ones are equal to the last bit, and none is the least."""
    return round(score, DIGITS) if score is not None and isfinite(score) else -inf
