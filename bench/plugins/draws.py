"""What of the training set is drawn: the rows that a method trains on, and how likely each is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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

    rows: Tensor | None = None  # [m] int64, each at most once; None: all of them
    weights: Tensor | None = None  # [m], with replacement in proportion to these; None: each once, in random order


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


def inverse_frequency(of: Tensor) -> Tensor:
    """One over the number of rows that have the same value of `of` [n], [n]."""
    return 1.0 / of.bincount()[of]
