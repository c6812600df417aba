"""The smallest accuracy of a group that has examples.

Source: Sagawa et al., "Distributionally Robust Neural Networks", ICLR 2020.
Needs: groups; where a split has no attribute they are its classes.
"""

from __future__ import annotations

from spurbench.bench.plugins.counts import worst_group_accuracy
from spurbench.bench.plugins.metric import CountedMetric, Seen


class WorstGroupAccuracy(CountedMetric):
    unit = "%"
    higher_is_better = True
    limits = (0.0, 100.0)
    per_group = True

    def of_counts(self, seen: Seen) -> float | None:
        return worst_group_accuracy(seen.counts)
