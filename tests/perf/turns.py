"""Several ways of doing the same, timed in turn, so that all meet the same disturbances."""

from __future__ import annotations

import statistics
from collections.abc import Callable

ROUNDS = 3


def in_turn(ways: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The median of what each way gives in a number of rounds."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            found[name].append(way())
    return {name: statistics.median(values) for name, values in found.items()}
