"""The mean entropy of the predictions.

Needs: nothing but counts.
"""

from __future__ import annotations

from spurbench.bench.plugins.metric import CountedMetric, Seen


class Entropy(CountedMetric):
    unit = "nats"
    limits = (0.0, None)

    def of_counts(self, seen: Seen) -> float | None:
        return float(seen.counts.entropy_sum) / float(sum(seen.counts.n))
