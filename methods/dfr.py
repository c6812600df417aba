"""DFR, deep feature reweighting: a new last layer for a finished network, fitted to balanced validation examples.

Source: Kirichenko, Izmailov and Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations",
ICLR 2023, arXiv 2204.02937, and its released code: an L1 penalty, its strength chosen on half of validation by the
worst group of the other half, then the mean of 20 fits, each to another balanced subset of all of it.
Needs: validation groups, in training as in choosing the strength. Starts from ERM.
Differs: more than two classes are fitted by the saga solver, as liblinear has no such model. `scaler` is that of the
first repository ("train") or of its successor ("validation").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Finished, Head, Method, Seen, Start, balanced_rows, hyper

STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)  # of the data against the penalty, as scikit-learn's C


@dataclass(frozen=True)
class DFR(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"validation", "validation groups"})
    trains: ClassVar[bool] = False
    head_only: ClassVar[bool] = True
    base: ClassVar[Mapping[str, Any]] = {"method": "erm"}

    fits: int = hyper(20, choices=(1, 10, 20))
    scaler: str = hyper("train", choices=("train", "validation"))

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        seen = finished.known_validation
        held_out, own = torch.randperm(len(seen.y), generator=generator).tensor_split(2)
        own = own[balanced_rows(seen.known_group[own], generator)]
        scale = scale_of(seen.features[own])
        heads = [fit(seen.features[own], seen.y[own], scale, strength) for strength in STRENGTHS]
        strength = best_strength(heads, seen, held_out)
        scale = scale_of(finished.train.features if self.scaler == "train" else seen.features)
        return Start(network="head", head=self.fit_many(seen, scale, strength, finished.head, generator))

    def fit_many(self, seen: Seen, scale: Head, strength: float, like: Head, generator: torch.Generator) -> Head:
        """The mean of fits to balanced subsets, as a head of the network's own shape."""
        subsets = [balanced_rows(seen.known_group, generator) for _ in range(self.fits)]
        heads = [fit(seen.features[rows], seen.y[rows], scale, strength) for rows in subsets]
        weight, bias = (torch.stack(parts).mean(0) for parts in zip(*heads, strict=True))
        if len(weight) < len(like[0]):  # the logit of the second class against zero
            return torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
        return weight, bias

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()


def scale_of(features: Tensor) -> Head:
    """Mean and deviation of each feature, [D] each; the deviation of a constant one is 1."""
    deviation = features.std(0, correction=0)
    return features.mean(0), torch.where(deviation > 0, deviation, 1.0)


def fit(features: Tensor, y: Tensor, scale: Head, strength: float) -> Head:
    """Weight and bias of a logistic regression with an L1 penalty on scaled features, for features as they are."""
    mean, deviation = scale
    solver = "liblinear" if int(y.max()) < 2 else "saga"
    model = LogisticRegression(l1_ratio=1.0, C=strength, solver=solver, random_state=0)
    model.fit(((features - mean) / deviation).numpy(), y.numpy())
    weight = torch.as_tensor(model.coef_, dtype=torch.float32) / deviation
    return weight, torch.as_tensor(model.intercept_, dtype=torch.float32) - weight @ mean


def best_strength(heads: list[Head], seen: Seen, rows: Tensor) -> float:
    """The strength whose head has the best worst group among some examples; of equals the first."""
    group, scores = seen.known_group[rows], []
    for weight, bias in heads:
        z = seen.features[rows] @ weight.T + bias
        right = (z.argmax(1) if z.shape[1] > 1 else z[:, 0] > 0) == seen.y[rows]
        scores.append(min(right[group == one].float().mean().item() for one in group.bincount().nonzero()[:, 0]))
    return STRENGTHS[scores.index(max(scores))]
