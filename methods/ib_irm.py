"""IB-IRM: invariant risk minimisation whose features must also vary little, an information bottleneck.

Source: Ahuja et al., "Invariance Principle Meets Information Bottleneck for Out-of-Distribution Generalization",
NeurIPS 2021, arXiv 2106.06607, in the form of DomainBed (Gulrajani and Lopez-Paz, ICLR 2021).
Needs: features, environments.
Differs: nothing from DomainBed's: the IRM penalty is the product of the mean slopes over two halves of each
environment, variances are those of a sample (divided by n − 1), and the optimizer begins anew at both anneal steps.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper, members
from spurbench.methods.irm import scale_slope


@dataclass(frozen=True)
class IBIRM(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"features", "environments"})

    irm_weight: float = hyper(1e2, low=1e-1, high=1e5, scale="log")
    irm_anneal: int = hyper(500, low=1, high=10_000, scale="log")
    ib_weight: float = hyper(1e2, low=1e-1, high=1e5, scale="log")
    ib_anneal: int = hyper(500, low=1, high=10_000, scale="log")

    def resets(self) -> tuple[int, ...]:
        return self.irm_anneal, self.ib_anneal

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        risk = batch.environment_means(batch.losses(logits)).mean()
        first, second = batch.environment_halves(scale_slope(logits, batch.y))
        irm = self.irm_weight if step >= self.irm_anneal else 1.0
        bottleneck = self.ib_weight if step >= self.ib_anneal else 0.0
        return risk + irm * (first * second).mean() + bottleneck * self.spread(batch)

    def spread(self, batch: Batch) -> Tensor:
        """The variance of the features, averaged over them and over the environments with two examples or more."""
        variances, _ = batch.environment_variances(batch.known_features)
        counts = members(batch.known_environment, batch.problem.environments).to(variances.dtype).sum(0)
        unbiased = variances.mean(1) * counts / (counts - 1).clamp(min=1)
        known = (counts > 1).to(variances.dtype)
        return (known * unbiased).sum() / known.sum().clamp(min=1)
