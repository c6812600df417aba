"""Balanced softmax: logits are raised by the log of their class's count in training, and only there.

Source: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, arXiv 2007.10740, Eq. 3;
with `tau` the logit adjustment of Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, arXiv
2007.07314, Eq. 10.
Needs: nothing beyond labels.
Differs: nothing; no meta sampler.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from spurbench.bench.plugins.method import Batch, Method, class_logits, hyper


@dataclass(frozen=True)
class BalancedSoftmax(Method):
    tau: float = hyper(1.0, low=0.25, high=4.0, scale="log", symbol="τ")

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        counts = batch.problem.class_counts.clamp(min=1).to(logits)
        return cross_entropy(class_logits(logits) + self.tau * counts.log(), batch.y)
