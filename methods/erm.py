"""Empirical risk minimisation: the mean cross-entropy over all training examples.

Source: Vapnik, "Principles of risk minimization for learning theory", NeurIPS 1991.
Needs: nothing beyond labels.
Differs: nothing.
"""

from dataclasses import dataclass

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method


@dataclass(frozen=True)
class ERM(Method):
    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
