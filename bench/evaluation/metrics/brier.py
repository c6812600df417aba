"""Brier score: the mean squared distance of the predicted class probabilities from the one-hot label.

Source: Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950: from 0 to 2.
For two classes, some call half of it the Brier score.
Needs: predictions.
"""

from __future__ import annotations

import numpy as np

from spurbench.bench.plugins.metric import Metric, Predictions


class Brier(Metric):
    higher_is_better = False
    limits = (0.0, 2.0)

    def value(self, predictions: Predictions) -> float | None:
        truth = np.eye(predictions.probabilities.shape[1])[predictions.y]
        return float(np.square(predictions.probabilities - truth).sum(-1).mean())
