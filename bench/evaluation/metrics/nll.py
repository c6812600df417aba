"""Negative log-likelihood of the labels: the mean cross-entropy, from predictions; `loss` is the same from counts.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
Needs: predictions.
"""

from __future__ import annotations

from spurbench.bench.plugins.metric import Metric, Predictions


class Nll(Metric):
    unit = "nats"
    higher_is_better = False
    limits = (0.0, None)

    def value(self, predictions: Predictions) -> float | None:
        log = predictions.log_probabilities
        return float(-log[range(len(log)), predictions.y].mean())
