"""Area under the ROC curve: how often an example of class 1 has a higher logit than one of class 0, ties counting half.

Source: Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve", Radiology 1982.
Needs: predictions of two classes, and examples of both.
"""

from __future__ import annotations

from spurbench.bench.plugins.metric import Metric, Predictions


class Auroc(Metric):
    higher_is_better = True
    limits = (0.0, 1.0)

    def value(self, predictions: Predictions) -> float | None:
        if predictions.classes != 2 or len(set(predictions.y.tolist())) < 2:
            return None
        from sklearn.metrics import roc_auc_score

        z = predictions.logits
        return float(roc_auc_score(predictions.y, z if z.ndim == 1 else z[:, 1] - z[:, 0]))
