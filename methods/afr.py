"""AFR, automatic feature reweighting: the last layer trains on, with more weight where it was unsure of the label.

Source: Qiu, Potapczynski, Izmailov and Wilson, "Simple and Fast Group Robustness by Automatic Feature Reweighting",
ICML 2023, arXiv 2306.11074, in the form of the released script: training starts at the finished head, and the penalty
is on the distance from it.
Needs: nothing beyond labels. Starts from ERM.
Differs: the released code keeps a fifth of the training set from ERM and weighs that; here `share` of the examples is
weighed, which ERM has seen. Gradients are not clipped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Draw, Finished, Method, Seen, Start, hyper


@dataclass(frozen=True)
class AFR(Method):
    head_only: ClassVar[bool] = True
    base: ClassVar[Mapping[str, Any]] = {"method": "erm"}

    gamma: float = hyper(4.0, low=1.0, high=20.0, symbol="γ")
    distance: float = hyper(0.0, choices=(0.0, 0.001, 0.01, 0.1, 0.2, 0.3), symbol="λ")
    share: float = hyper(0.2, low=0.05, high=1.0)

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        n = len(finished.train.y)
        rows = torch.randperm(n, generator=generator)[: max(1, round(self.share * n))]
        weights = torch.zeros(n)
        weights[rows] = self.weights(finished.train, rows)
        return Start(network="head", draw=Draw(rows), values={"weight": len(rows) * weights}, from_base=True)

    def weights(self, seen: Seen, rows: Tensor) -> Tensor:
        """Of each of these examples, [m]: exp(−γ p) of the label's probability p, classes balanced; they sum to one."""
        y = seen.y[rows]
        confidence = seen.class_logits[rows].softmax(1).gather(1, y[:, None])[:, 0]
        weights = torch.exp(-self.gamma * confidence) * len(y) / y.bincount()[y]
        return weights / weights.sum()

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return (batch.values["weight"] * batch.losses(logits)).mean()

    def weight_penalty(self, step: int) -> float:
        return self.distance
