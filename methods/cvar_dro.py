"""CVaR-DRO: the mean loss of the share α of the batch that has the highest losses.

Source: Levy, Carmon, Duchi and Sidford, "Large-Scale Methods for Distributionally Robust Optimization", NeurIPS 2020,
arXiv 2010.05893, section 2 (conditional value at risk).
Needs: nothing beyond labels.
Differs: nothing from the released code; it depends on the size of the batch, of which α times as many examples count,
the last of them in part, and at least the single worst one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class CVaRDRO(Method):
    alpha: float = hyper(0.1, low=0.01, high=1.0, scale="log", symbol="α")

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        losses = batch.losses(logits).sort(descending=True).values
        return losses @ self.weights(len(losses)).to(losses)

    def weights(self, examples: int) -> Tensor:
        """The share of each example in the loss, [B], of those with the highest losses first."""
        counted = max(self.alpha * examples, 1.0)
        return (counted - torch.arange(examples, dtype=torch.float64)).clamp(0, 1) / counted
