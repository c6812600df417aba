"""Attributes that agree with labels as often as asked: what makes a shortcut of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spurbench.bench.core.errors import UserError

Integers = np.ndarray[Any, np.dtype[np.int64]]


def check_share(dataset: str, **shares: float) -> None:
    """Raise UserError for a share that is not in 0..1."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"{dataset}: {name} must lie in 0..1, not {share}")


def off_diagonal(values: int) -> tuple[int, ...]:
    """The groups y × values + a whose attribute is not y."""
    return tuple(values * y + a for y in range(values) for a in range(values) if a != y)


def assign(y: Integers, values: int, agreement: float) -> Integers:
    """An attribute [n] that is y for the share `agreement` of each class, else every other value equally often.

    Nothing is drawn: the images of a class get the values one after the other, in their order.

    Source: the data that Nam et al. make for "Learning from Failure", NeurIPS 2020.
    """
    a = np.empty_like(y)
    for label in range(values):
        rows = np.flatnonzero(y == label)
        shares = np.full(values, (1 - agreement) / (values - 1))
        shares[label] = agreement
        ends = np.round(len(rows) * np.cumsum(shares))
        a[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right").clip(0, values - 1)
    return a


def assigned_counts(images: Sequence[int], agreement: float) -> tuple[int, ...]:
    """Images of each group y × values + a after `assign`, from those of each class."""
    values = len(images)
    y = np.repeat(np.arange(values), images)
    return tuple(np.bincount(y * values + assign(y, values, agreement), minlength=values**2).tolist())


def scatter(y: Tensor, values: int, agreement: float, random: torch.Generator) -> Tensor:
    """An attribute [n] that is y for the share `agreement` of each class, else every other value equally often.

    The images of a class get the values in an order that is drawn.
    """
    a = torch.empty_like(y)
    for label in range(values):
        rows = (y == label).nonzero()[:, 0]
        agreeing = int(agreement * len(rows))
        others = torch.tensor([value for value in range(values) if value != label])
        found = torch.cat([torch.full((agreeing,), label), others[torch.arange(len(rows) - agreeing) % (values - 1)]])
        a[rows] = found[torch.randperm(len(rows), generator=random)]
    return a
