"""The smallest accuracy of a class of a subset of the split; subsets may overlap, such as the identities of a comment.

Source: Koh et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021, for CivilComments: the worst
over each identity and label; an example with several identities counts in each, one without any in none.
Needs: subsets.
"""

from __future__ import annotations

from spurbench.bench.plugins.counts import worst_group_accuracy
from spurbench.bench.plugins.metric import CountedMetric, Seen


class WorstSubsetAccuracy(CountedMetric):
    unit = "%"
    higher_is_better = True
    limits = (0.0, 100.0)
    needs_subsets = True

    def of_counts(self, seen: Seen) -> float | None:
        each = [worst_group_accuracy(counts) for counts in seen.subsets.values()]
        return min((accuracy for accuracy in each if accuracy is not None), default=None)
