"""The statistics of a leaderboard: few seeds, paired across methods. Checked against scipy by the tests.

A "standard deviation" here is that of a sample (ddof = 1) unless a ddof is given. Why t intervals and no bootstrap: at
ten values the percentile bootstrap's 95 % interval covers 90 %, the t interval 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import fsum, inf, sqrt
from statistics import median
from typing import Any

import numpy as np

EXACT = 20  # up to this many pairs, all 2^n sign flips are enumerated
FLIPS = 20_000  # above that, this many random ones are drawn, always the same
BLOCK = 32  # pairs whose random signs are drawn together


def mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)


def std(values: Sequence[float], ddof: int = 1) -> float | None:
    """Standard deviation with n − ddof in the denominator; None where that is not positive."""
    free = len(values) - ddof
    centre = mean(values) if values else 0.0
    return sqrt(fsum((value - centre) ** 2 for value in values) / free) if free > 0 else None


@lru_cache(maxsize=1024)
def t_quantile(p: float, df: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def t_interval(
    values: Sequence[float], level: float = 0.95, limits: tuple[float, float] = (-inf, inf)
) -> tuple[float, float] | None:
    """Student's t interval of the mean, cut at what a mean of such values can be; None for fewer than two values.

    What is cut off cannot be the mean, so the interval covers it as often as before; a transform (logit, arcsine) would
    make it narrower near the limits only by assuming a shape that collapsed runs do not have, and has no value at 0 or
    1. An interval that is cut at both ends says that these runs tell nothing about the mean. Values outside the limits
    show that these are not theirs, and are not cut.
    """
    spread = std(values)
    if spread is None:
        return None
    half = t_quantile(0.5 + level / 2, len(values) - 1) * spread / sqrt(len(values))
    ends = mean(values) - half, mean(values) + half
    if limits[0] <= min(values) and max(values) <= limits[1]:
        return max(limits[0], ends[0]), min(limits[1], ends[1])
    return ends


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the mean of paired differences, over all 2^n ways to flip their signs (random ones above EXACT).

    The smallest value n pairs can give is 2 / 2^n: 0.25 for 3, 0.0625 for 5, 0.002 for 10.
    """
    if not differences:
        return None
    observed = abs(fsum(differences))
    margin = 1e-12 * fsum(map(abs, differences))  # sums of equal terms in another order may differ in the last bits
    if len(differences) > EXACT:
        sums = random_flips(differences)
        return float(1 + np.count_nonzero(np.abs(sums) >= observed - margin)) / (1 + FLIPS)
    sums = np.array([differences[0]])  # the first sign is kept: flipping all of them changes nothing
    for difference in differences[1:]:
        sums = np.concatenate([sums + difference, sums - difference])
    return float(np.mean(np.abs(sums) >= observed - margin))


def random_flips(differences: Sequence[float]) -> Any:
    """Sums of the differences under random signs, [FLIPS]."""
    values = np.array(differences)
    sums = np.zeros(FLIPS)
    for at in range(0, len(values), BLOCK):
        part = values[at : at + BLOCK]
        sums += random_signs(at)[:, : len(part)] @ part
    return sums


@lru_cache(maxsize=4)
def random_signs(seed: int) -> Any:
    """−1 or 1, [FLIPS, BLOCK]."""
    return 2.0 * np.random.default_rng(seed).integers(0, 2, (FLIPS, BLOCK)) - 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def share_above(differences: Sequence[float]) -> float | None:
    """Share of pairs with a positive difference, ties counted half: P(better on a seed)."""
    if not differences:
        return None
    return sum(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences) / len(differences)


@lru_cache(maxsize=1024)
def detectable_factor(n: int, power: float, level: float) -> float:
    from scipy.special import nctdtrinc

    return float(nctdtrinc(n - 1, 1 - power, t_quantile(0.5 + level / 2, n - 1))) / sqrt(n)


def detectable(differences: Sequence[float], power: float = 0.8, level: float = 0.95) -> float | None:
    """True mean difference that a paired t test of this many pairs finds with that power, at their spread."""
    spread = std(differences)
    return None if spread is None else detectable_factor(len(differences), power, level) * spread


def count_collapsed(values: Sequence[float], floor: float, higher_is_better: bool | None) -> int:
    """How many runs lie on the worse side of a gap that cuts the values in two; 0 where there is none.

    A gap counts if it is larger than `floor` and than three times the range of each side. Ten normal values show one
    in 3 of 10,000 cells, five in 650; fewer than five are not judged. Where neither way is better,
    the smaller side is counted.
    """
    ordered = sorted(values)
    if len(ordered) < 5:
        return 0
    gaps = [right - left for left, right in zip(ordered, ordered[1:], strict=False)]
    below = max(range(len(gaps)), key=gaps.__getitem__) + 1
    widest = max(ordered[below - 1] - ordered[0], ordered[-1] - ordered[below])
    if gaps[below - 1] <= max(floor, 3 * widest):
        return 0
    above = len(ordered) - below
    return min(below, above) if higher_is_better is None else below if higher_is_better else above


def smallest_notable_gap(values: Sequence[float], percent: bool) -> float:
    """The smallest gap worth a note: 5 percentage points, else a quarter of the median."""
    return 5.0 if percent else abs(median(values)) / 4 if values else inf
