"""Generalised cross-entropy: (1 − p^q) / q, between cross-entropy (q → 0) and the mean absolute error (q = 1).

Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
NeurIPS 2018, arXiv 1805.07836, Eq. 6.
Needs: nothing beyond labels.
Differs: no truncation.
"""

from dataclasses import dataclass

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class GCE(Method):
    q: float = hyper(0.7, low=0.05, high=0.95, symbol="q")

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return (-(-self.q * batch.losses(logits)).expm1() / self.q).mean()
