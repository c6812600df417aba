"""Risk extrapolation (V-REx): the risks of the training environments must be equal.

Source: Krueger et al., "Out-of-Distribution Generalization via Risk Extrapolation", ICML 2021, arXiv 2003.00688,
Eq. (V-REx).
Needs: environments.
Differs: as the released Colored MNIST code, defaults included: the SUM of the risks plus `penalty_weight` times the
squared difference of the two (four times their population variance, which is what is used for any number of
environments), penalty weight 1 before `anneal`, everything divided by the penalty weight when that is above 1. An
environment that is not in the batch counts in the sum as the mean of the others, and not in the variance.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class REx(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"environments"})

    penalty_weight: float = hyper(1e4, low=1e2, high=1e6, scale="log", symbol="β/4")
    anneal: int = hyper(100, low=50, high=249)
    l2: float = hyper(1e-3, low=1e-5, high=1e-2, scale="log")

    def weight(self, step: int) -> float:
        return self.penalty_weight if step >= self.anneal else 1.0

    def weight_penalty(self, step: int) -> float:
        return self.l2 / max(self.weight(step), 1.0)

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        risks = batch.environment_means(batch.losses(logits))
        total, weight = risks.filled(risks.mean()).sum(), self.weight(step)
        return (total + weight * 4 * risks.var()) / max(weight, 1.0)
