"""From logits to counts per group; ratios are computed when a leaderboard is made."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from spurbench.bench.plugins.counts import SUBSET
from spurbench.bench.plugins.dataset import Data, Split
from spurbench.bench.records.record import Counts

NO_INPUTS = torch.empty(0)


def predict(logits: Tensor) -> Tensor:
    """Predicted class of each example, [n]: z > 0 for one logit [n], the largest of C logits [n, C]."""
    return (logits > 0).long() if logits.ndim == 1 else logits.argmax(-1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each example, [n]."""
    if logits.ndim == 1:
        return F.softplus(logits) - y * logits
    return F.cross_entropy(logits, y, reduction="none")


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each prediction in nats, [n]; 0 ln 0 is 0."""
    if logits.ndim == 1:
        logits = torch.stack([torch.zeros_like(logits), logits], -1)
    each: Tensor = torch.special.entr(logits.softmax(-1))
    return each.sum(-1)


def count(logits: Tensor, split: Split, data: Data) -> Counts:
    """Examples and correct predictions of each group, and the split's summed loss and entropy."""
    logits, y = logits.double().cpu(), split.y
    groups = data.classes * ((split.values or data.attributes) if split.attribute is not None else 1)
    group = split.group(data.attributes)
    right = (predict(logits) == y).long()
    return Counts(
        n=group.bincount(minlength=groups).tolist(),
        correct=torch.zeros(groups, dtype=torch.long).scatter_add(0, group, right).tolist(),
        loss_sum=cross_entropy(logits, y).sum().item(),
        entropy_sum=entropy(logits).sum().item(),
    )


def parts_of(name: str, split: Split, data: Data) -> dict[str, tuple[Split, Tensor]]:
    """What is counted of a split: itself, environments of training as `train_e0`, …, subsets as `name:subset`.

    Each with its labels, and which rows it has, [n] bool. Subsets have no groups but the classes; one without an
    example is left out.
    """
    found = {name: (split, torch.ones_like(split.y, dtype=torch.bool))}
    for e in range(data.environments if name == "train" and split.environment is not None else 0):
        of = torch.as_tensor(split.environment == e)
        attribute = None if split.attribute is None else split.attribute[of]
        found[f"{name}_e{e}"] = Split(NO_INPUTS, split.y[of], attribute), of
    for subset, of in split.subsets.items():
        if of.any():
            found[name + SUBSET + subset] = Split(NO_INPUTS, split.y[of]), of
    return found


def count_parts(name: str, logits: Tensor, split: Split, data: Data) -> dict[str, Counts]:
    """Counts of a split and of its parts."""
    return {part: count(logits[of], labels, data) for part, (labels, of) in parts_of(name, split, data).items()}


def count_splits(logits: Mapping[str, Tensor], splits: Mapping[str, Split], data: Data) -> dict[str, Counts]:
    """Counts of several splits, by name, and of their parts."""
    parts = [count_parts(name, logits[name], split, data) for name, split in splits.items()]
    return {name: counts for of in parts for name, counts in of.items()}


def count_random_guess(split: Split, data: Data) -> Counts:
    """Expected counts of a prediction drawn uniformly at random."""
    n = count(torch.zeros(len(split.y)), split, data).n
    total = sum(n) * torch.tensor(float(data.classes)).log().item()
    return Counts(n=n, correct=[k / data.classes for k in n], loss_sum=total, entropy_sum=total)
