"""The share of correct predictions, over all groups together.

Needs: nothing but counts.
"""

from __future__ import annotations

from spurbench.bench.plugins.counts import accuracy
from spurbench.bench.plugins.metric import CountedMetric, Seen


class Accuracy(CountedMetric):
    unit = "%"
    higher_is_better = True
    limits = (0.0, 100.0)

    def of_counts(self, seen: Seen) -> float | None:
        return accuracy(seen.counts)
