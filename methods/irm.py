"""Invariant risk minimisation (IRMv1): the risk of each environment must be stationary in the scale of its logits.

Source: Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", arXiv 1907.02893, Eq. (IRMv1).
Needs: environments.
Differs: nothing from the released code, whose rules are: penalty weight 1 before `anneal`; the whole loss, with the
squared norm of all parameters (no ½), divided by the penalty weight when that is above 1; Adam is not reset. The
derivative with respect to the dummy scale w = 1 is written out: d/dw mean BCE(w z, y) = mean z (σ(z) − y).
The square of that mean is biased in minibatches, upwards by the variance of the mean over batches. `penalty = "two
halves"` is not: the product of the means over two halves of each environment in the batch, as in the code of
Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021. Means are over the environments in the
batch; one with a single example there has no second half and so no product.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import one_hot

from spurbench.bench.plugins.method import Batch, Means, Method, hyper


@dataclass(frozen=True)
class IRM(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"environments"})

    penalty_weight: float = hyper(1e4, low=1e2, high=1e6, scale="log", symbol="λ")
    anneal: int = hyper(100, low=50, high=249)
    l2: float = hyper(1e-3, low=1e-5, high=1e-2, scale="log")
    penalty: str | None = hyper(None, choices=("two halves",))  # None: squared, biased in minibatches

    def weight(self, step: int) -> float:
        return self.penalty_weight if step >= self.anneal else 1.0

    def weight_penalty(self, step: int) -> float:
        return self.l2 / max(self.weight(step), 1.0)

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        risks = batch.environment_means(batch.losses(logits))
        weight, slopes = self.weight(step), scale_slope(logits, batch.y)
        return (risks.mean() + weight * self.squared(slopes, batch).mean()) / max(weight, 1.0)

    def squared(self, slopes: Tensor, batch: Batch) -> Means:
        """The square of each environment's mean slope, or its estimate without bias."""
        if self.penalty is None:
            return batch.environment_means(slopes).square()
        first, second = batch.environment_halves(slopes)
        return first * second


def scale_slope(logits: Tensor, y: Tensor) -> Tensor:
    """d/dw of each example's cross-entropy of w · logits at w = 1, [B]."""
    if logits.ndim == 1:
        return logits * (logits.sigmoid() - y)
    return (logits * (logits.softmax(-1) - one_hot(y, logits.shape[-1]))).sum(-1)
