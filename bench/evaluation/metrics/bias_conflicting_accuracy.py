"""The mean of the accuracies of the groups whose attribute misleads about their label.

Source: Nam et al., "Learning from Failure", NeurIPS 2020, where it is the accuracy of the bias-conflicting examples.
Needs: groups, and a dataset that says which of them mislead.
"""

from __future__ import annotations

from spurbench.bench.plugins.metric import CountedMetric, Seen


class BiasConflictingAccuracy(CountedMetric):
    unit = "%"
    higher_is_better = True
    limits = (0.0, 100.0)
    per_group = True
    needs_conflicting = True

    def of_counts(self, seen: Seen) -> float | None:
        counts = seen.counts
        each = [counts.correct[g] / counts.n[g] for g in seen.conflicting if counts.n[g]]
        return sum(each) / len(each) if each else None
