"""The mean cross-entropy.

Needs: nothing but counts.
"""

from __future__ import annotations

from spurbench.bench.plugins.metric import CountedMetric, Seen


class Loss(CountedMetric):
    unit = "nats"
    higher_is_better = False
    limits = (0.0, None)

    def of_counts(self, seen: Seen) -> float | None:
        return float(seen.counts.loss_sum) / float(sum(seen.counts.n))
