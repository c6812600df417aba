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


def attribute_shares(n: Sequence[float], attributes: int) -> dict[int, list[float]]:
    """P(a | y) for each label y that has examples, from the number of examples in each group y * attributes + a."""
    rows = {at // attributes: list(n[at : at + attributes]) for at in range(0, len(n), attributes)}
    return {y: [float(count / sum(row)) for count in row] for y, row in rows.items() if sum(row)}


def describe_shares(splits: Mapping[str, Sequence[float]], groups: Sequence[str], labels: int, most: int = 12) -> str:
    """P(a | y) in words, from the examples in each group by split; empty without attributes.

    For the first split the most frequent group of each label and its share, for the others the largest share.
    """
    attributes = len(groups) // max(1, labels)
    if attributes < 2:
        return ""
    (first, n), *others = splits.items()
    found = attribute_shares(n, attributes)
    said = [f"{groups[y * attributes + row.index(max(row))]} {max(row):.3f}" for y, row in list(found.items())[:most]]
    text = f"{first} {', '.join(said + ['…'] * (len(found) > most))}"
    largest = {name: max(map(max, attribute_shares(n, attributes).values()), default=0.0) for name, n in others}
    return "; ".join([text, *(f"{name} at most {share:.3f}" for name, share in largest.items())])


def unbiased_accuracy(counts: Counted | None) -> float | None:
    """The mean over the accuracies of the groups that have examples."""
    each = by_group(counts)
    return sum(each) / len(each) if each else None
