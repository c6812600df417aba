"""The mean of the accuracies of the groups that have examples.

Source: Bahng et al., "Learning De-biased Representations with Biased Representations", ICML 2020.
Needs: groups; where a split has no attribute they are its classes.
"""

from __future__ import annotations

from spurbench.bench.plugins.counts import unbiased_accuracy
from spurbench.bench.plugins.metric import CountedMetric, Seen


class UnbiasedAccuracy(CountedMetric):
    unit = "%"
    higher_is_better = True
    limits = (0.0, 100.0)
    per_group = True

    def of_counts(self, seen: Seen) -> float | None:
        return unbiased_accuracy(seen.counts)
