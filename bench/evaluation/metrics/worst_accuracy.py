"""The smallest accuracy over each training environment and test, all after the last step.

Needs: environments in training.
"""

from __future__ import annotations

from spurbench.bench.plugins.counts import accuracy
from spurbench.bench.plugins.metric import CountedMetric, Seen


class WorstAccuracy(CountedMetric):
    unit = "%"
    higher_is_better = True
    limits = (0.0, 100.0)
    over = "environments"

    def of_counts(self, seen: Seen) -> float | None:
        environments = [counts for name, counts in seen.splits.items() if name.startswith("train_e")]
        each = [accuracy(counts) for counts in (*environments, seen.splits.get("test"))]
        known = [share for share in each if share is not None]
        return min(known) if environments and len(known) == len(each) else None
