"""What a record counts of a split, as rules and metrics see it, and the shares that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

SUBSET = ":"  # between the name of a split and that of a subset of it, which is counted as a split of its own


class Counted(Protocol):
    """Examples and correct predictions of each group of one split, and its summed loss and entropy in nats."""

    @property
    def n(self) -> Sequence[float]: ...
    @property
    def correct(self) -> Sequence[float]: ...
    @property
    def loss_sum(self) -> float: ...
    @property
    def entropy_sum(self) -> float: ...


def subsets_of(split: str, splits: Mapping[str, Counted]) -> dict[str, Counted]:
    """The subsets of a split among all that was counted, by their own names."""
    return {name.removeprefix(split + SUBSET): of for name, of in splits.items() if name.startswith(split + SUBSET)}


def accuracy(counts: Counted | None) -> float | None:
    """Correct / all, over every group together."""
    total = sum(counts.n) if counts else 0
    return float(sum(counts.correct) / total) if counts and total else None


def by_group(counts: Counted | None) -> list[float]:
    """The accuracy of each group that has examples."""
    if not counts:
        return []
    return [right / n for right, n in zip(counts.correct, counts.n, strict=True) if n]


def worst_group_accuracy(counts: Counted | None) -> float | None:
    """The smallest accuracy of a group that has examples."""
    each = by_group(counts)
    return min(each) if each else None


def unbiased_accuracy(counts: Counted | None) -> float | None:
    """The mean over the accuracies of the groups that have examples."""
    each = by_group(counts)
    return sum(each) / len(each) if each else None
