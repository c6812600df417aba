"""The mean over classes of the share of their examples predicted correctly (recall), without classes that have none.

Source: Brodersen et al., "The Balanced Accuracy and Its Posterior Distribution", ICPR 2010.
Needs: predictions.
"""

from __future__ import annotations

from spurbench.bench.plugins.metric import Metric, Predictions


class BalancedAccuracy(Metric):
    unit = "%"
    higher_is_better = True
    limits = (0.0, 100.0)

    def value(self, predictions: Predictions) -> float | None:
        of_class = [predictions.correct[predictions.y == y] for y in range(predictions.classes)]
        each = [float(correct.mean()) for correct in of_class if len(correct)]
        return sum(each) / len(each)
