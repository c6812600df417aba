"""Deep CORAL: the features of every two environments must have the same mean and covariance.

Source: Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016, arXiv 1607.01719, in
the form of DomainBed (Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021): means are
aligned, too, and the penalty is the mean over pairs of environments.
Needs: features, environments.
Differs: nothing from DomainBed's; an environment with fewer than two examples in the batch is in no pair.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper, members


@dataclass(frozen=True)
class CORAL(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"features", "environments"})

    gamma: float = hyper(1.0, low=0.1, high=10.0, scale="log", symbol="γ")

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        risk = batch.environment_means(batch.losses(logits)).mean()
        return risk + self.gamma * self.penalty(batch.known_features, batch)

    def penalty(self, h: Tensor, batch: Batch) -> Tensor:
        """Mean squared difference of means plus that of covariances, over pairs of environments."""
        member = members(batch.known_environment, batch.problem.environments).to(h.dtype)
        counts = member.sum(0)
        means = member.T @ h / counts.clamp(min=1)[:, None]
        covariances = [
            (own := (h - mean) * inside[:, None]).T @ own / (count - 1).clamp(min=1)
            for mean, inside, count in zip(means, member.T, counts, strict=True)
        ]
        total, pairs = h.new_zeros(()), h.new_zeros(())
        for e in range(len(covariances)):
            for f in range(e):
                both = ((counts[e] > 1) & (counts[f] > 1)).to(h.dtype)
                apart = (means[e] - means[f]).square().mean() + (covariances[e] - covariances[f]).square().mean()
                total, pairs = total + both * apart, pairs + both
        return total / torch.clamp(pairs, min=1)
