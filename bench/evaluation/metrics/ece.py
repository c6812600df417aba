"""Expected calibration error: |accuracy − confidence| in equal-width bins of confidence, weighted by their size.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; its bins exclude their lower bound.
Needs: predictions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spurbench.bench.plugins.metric import Metric, Predictions, setting


@dataclass(frozen=True)
class Ece(Metric):
    higher_is_better = False
    limits = (0.0, 1.0)

    bins: int = setting(15, low=1)

    def value(self, predictions: Predictions) -> float | None:
        confidence = predictions.probabilities.max(-1)
        place = np.clip(np.ceil(confidence * self.bins).astype(int) - 1, 0, self.bins - 1)
        gaps = np.bincount(place, predictions.correct - confidence, minlength=self.bins)  # n (accuracy − confidence)
        return float(np.abs(gaps).sum() / len(confidence))
