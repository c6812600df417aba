"""IRM as in DomainBed: risk plus the product of the risk's slopes over two halves of each environment in the batch.

Source: Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021, arXiv 2007.01434, and its code;
the method is that of Arjovsky, Bottou, Gulrajani and Lopez-Paz, arXiv 1907.02893.
Needs: environments.
Differs: nothing from the code: penalty weight 1 before `anneal`, where the optimizer begins anew; the loss is not
divided by the weight, nor has it a norm of the parameters. There each environment has a batch, here its share of one.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper
from spurbench.methods.irm import scale_slope


@dataclass(frozen=True)
class IRMDomainBed(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"environments"})

    penalty_weight: float = hyper(1e2, low=1e-1, high=1e5, scale="log", symbol="λ")
    anneal: int = hyper(500, low=1, high=10_000, scale="log")

    def resets(self) -> tuple[int, ...]:
        return (self.anneal,)

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        risk = batch.environment_means(batch.losses(logits)).mean()
        first, second = batch.environment_halves(scale_slope(logits, batch.y))
        return risk + (self.penalty_weight if step >= self.anneal else 1.0) * (first * second).mean()
