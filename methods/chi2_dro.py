"""χ²-DRO: the mean loss under the worst reweighting of the batch within a χ² ball of size ρ around equal weights.

Source: Levy, Carmon, Duchi and Sidford, "Large-Scale Methods for Distributionally Robust Optimization", NeurIPS 2020,
arXiv 2010.05893, section 2 (χ² divergence ball).
Needs: nothing beyond labels.
Differs: the worst weights p ∝ max(0, loss − η), with ½ mean (m p − 1)² = ρ over the m examples, are found in closed
form and not by bisection. As in the released code they are equal where losses hardly differ.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper

FLAT = 1e-5  # (largest − smallest) / largest below which losses count as equal


@dataclass(frozen=True)
class Chi2DRO(Method):
    rho: float = hyper(1.0, low=0.1, high=10.0, scale="log", symbol="ρ")

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        losses = batch.losses(logits).sort(descending=True).values
        return losses @ self.weights(losses.detach())

    def weights(self, v: Tensor) -> Tensor:
        """The worst weights of losses [m], the highest first.

        Of the k highest alone, with mean μ and variance σ², the ball is reached at η = μ − σ √(m / (k (1 + 2ρ) − m)).
        They are k where that is not below the next loss, and no smaller number of them would do.
        """
        m, k, u = len(v), torch.arange(1, len(v) + 1, device=v.device), v - v.mean()  # so that variances keep digits
        mean = u.cumsum(0) / k
        variance = ((u.square().cumsum(0) / k) - mean.square()).clamp(min=0)
        room = k * (1 + 2 * self.rho) - m
        eta = torch.where(room > 0, mean - (variance * m / room.clamp(min=1e-12)).sqrt(), -torch.inf)
        following = torch.cat([u[1:], u.new_full((1,), -torch.inf)])
        first = (eta >= following).to(torch.uint8).argmax()
        excess = torch.where(k <= first + 1, u - eta.gather(0, first[None]), 0).clamp(min=0)
        worst = torch.where(excess.sum() > 0, excess, (v == v[0]).to(v))  # no others fit in where the ball is large
        found = torch.where(v[0] - v[-1] <= FLAT * v[0], torch.ones_like(v), worst)
        return found / found.sum()
