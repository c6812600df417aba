"""The smallest accuracy over each training environment and test, all after the last step.

Needs: environments in training.
"""

from __future__ import annotations

from spurbench.bench.plugins.metric import CountedMetric, Seen
from spurbench.bench.plugins.rule import least_accuracy


class WorstAccuracy(CountedMetric):
    unit = "%"
    higher_is_better = True
    limits = (0.0, 100.0)
    over = "environments"

    def of_counts(self, seen: Seen) -> float | None:
        each = [counts for name, counts in seen.splits.items() if name.startswith("train_e")]
        return least_accuracy([*each, seen.splits["test"]]) if each and "test" in seen.splits else None
