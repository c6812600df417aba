"""The mean of the groups' accuracies, weighted by their numbers of training examples, as is usual for Waterbirds.

Source: Sagawa et al., "Distributionally Robust Neural Networks", ICLR 2020.
Needs: groups of training, and a dataset that says which groups mislead.
"""

from __future__ import annotations

from spurbench.bench.plugins.metric import CountedMetric, Seen


class AdjustedAccuracy(CountedMetric):
    unit = "%"
    higher_is_better = True
    limits = (0.0, 100.0)
    needs_conflicting = True

    def of_counts(self, seen: Seen) -> float | None:
        counts, training = seen.counts, seen.training
        if not training or len(training.n) != len(counts.n):
            return None
        if any(weight and not n for weight, n in zip(training.n, counts.n, strict=True)):
            return None  # a group of training has no example here
        parts = zip(training.n, counts.correct, counts.n, strict=True)
        return float(sum(weight * right / n for weight, right, n in parts if n) / sum(training.n))
