"""V-REx as in DomainBed: the mean of the environments' risks plus their variance.

Source: Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021, arXiv 2007.01434, and its code;
the method is that of Krueger et al., arXiv 2003.00688.
Needs: environments.
Differs: nothing from the code: penalty weight 1 before `anneal`, where the optimizer begins anew; the loss is not
divided by the weight, nor has it a norm of the parameters. There each environment has a batch, here its share of one.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class RExDomainBed(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"environments"})

    penalty_weight: float = hyper(1e1, low=1e-1, high=1e5, scale="log", symbol="λ")
    anneal: int = hyper(500, low=1, high=10_000, scale="log")

    def resets(self) -> tuple[int, ...]:
        return (self.anneal,)

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        risks = batch.environment_means(batch.losses(logits))
        return risks.mean() + (self.penalty_weight if step >= self.anneal else 1.0) * risks.var()
