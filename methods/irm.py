"""Invariant risk minimisation (IRMv1): the risk of each environment must be stationary in the scale of its logits.

Source: Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", arXiv 1907.02893, Eq. (IRMv1).
Needs: environments.
Differs: nothing from the released code, whose rules are: penalty weight 1 before `anneal`; the whole loss, with the
squared norm of all parameters (no ½), divided by the penalty weight when that is above 1; Adam is not reset. The
derivative with respect to the dummy scale w = 1 is written out: d/dw mean BCE(w z, y) = mean z (σ(z) − y).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import one_hot

from spurbench.bench.method import Batch, Method, hyper


@dataclass(frozen=True)
class IRM(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"environments"})

    penalty_weight: float = hyper(1e4, low=1e2, high=1e6, scale="log", symbol="λ")
    anneal: int = hyper(100, low=50, high=249)
    l2: float = hyper(1e-3, low=1e-5, high=1e-2, scale="log")

    def weight(self, step: int) -> float:
        return self.penalty_weight if step >= self.anneal else 1.0

    def weight_penalty(self, step: int) -> float:
        return self.l2 / max(self.weight(step), 1.0)

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        risks = batch.environment_means(batch.losses(logits))
        slopes = batch.environment_means(scale_slope(logits, batch.y))
        weight = self.weight(step)
        return (risks.mean() + weight * slopes.square().mean()) / max(weight, 1.0)


def scale_slope(logits: Tensor, y: Tensor) -> Tensor:
    """d/dw of each example's cross-entropy of w · logits at w = 1, [B]."""
    if logits.ndim == 1:
        return logits * (logits.sigmoid() - y)
    return (logits * (logits.softmax(-1) - one_hot(y, logits.shape[-1]))).sum(-1)
