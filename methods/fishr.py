"""Fishr: the gradients of the examples' losses must have the same variance in every environment.

Source: Rame, Dancette and Cord, "Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization", ICML
2022, arXiv 2109.02934, Eq. 4; the gradients are those by the last layer, known in closed form from its inputs.
Needs: features, environments.
Differs: nothing from the Colored MNIST script: penalty weight 1 before `anneal`, squared distances summed over
environments and coordinates, the whole loss, with the squared norm of all parameters, divided by the penalty weight
when that is above 1. `form = "domainbed"`: no penalty before `anneal`, distances averaged, and variances averaged over
time with `ema`, undivided, so that they count 1 / (1 − ema) times; the optimizer begins anew at `anneal`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from spurbench.bench.plugins.method import Batch, Method, Problem, hyper


@dataclass(frozen=True)
class Fishr(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"features", "environments"})

    penalty_weight: float = hyper(91257.18613115903, low=1e1, high=1e6, scale="log", symbol="λ")
    anneal: int = hyper(190, low=0, high=5000)
    l2: float = hyper(0.00110794568, low=1e-5, high=1e-2, scale="log")
    form: str = hyper("script", choices=("script", "domainbed"))
    ema: float = hyper(0.95, low=0.9, high=0.99, symbol="γ", only={"form": "domainbed"})

    def weight(self, step: int) -> float:
        before = 1.0 if self.form == "script" else 0.0
        return self.penalty_weight if step >= self.anneal else before

    def divisor(self, step: int) -> float:
        return max(self.weight(step), 1.0) if self.form == "script" else 1.0

    def weight_penalty(self, step: int) -> float:
        return self.l2 / self.divisor(step)

    def resets(self) -> tuple[int, ...]:
        return (self.anneal,) if self.form == "domainbed" else ()

    def init_state(self, problem: Problem) -> dict[str, Tensor]:
        if self.form == "script":
            return {}
        shape = problem.environments, problem.outputs * (problem.features + 1)
        return {"variances": torch.zeros(shape, device=problem.device)}

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        risk = batch.environment_means(batch.losses(logits)).mean()
        variances, present = batch.environment_variances(head_gradients(logits, batch.known_features, batch.y))
        if self.form == "domainbed":
            moving = self.ema * state["variances"] + (1 - self.ema) * variances
            state["variances"] = torch.where(present[:, None], moving, state["variances"]).detach()
            variances = moving / (1 - self.ema)
        penalty = self.distance(variances, present.to(logits.dtype))
        return (risk + self.weight(step) * penalty) / self.divisor(step)

    def distance(self, variances: Tensor, present: Tensor) -> Tensor:
        """Squared distance of each environment's variances [E, K] from their mean over those present."""
        mean = present @ variances / present.sum().clamp(min=1)
        apart = present @ (variances - mean).square()
        return apart.sum() if self.form == "script" else apart.mean() / present.sum().clamp(min=1)


def head_gradients(logits: Tensor, features: Tensor, y: Tensor) -> Tensor:
    """The gradient of each example's cross-entropy by weights and bias of the last layer, [B, C · (D + 1)]."""
    inputs = torch.cat([features, torch.ones_like(features[:, :1])], 1)
    if logits.ndim == 1:
        return (logits.sigmoid() - y)[:, None] * inputs
    slopes = logits.softmax(-1) - one_hot(y, logits.shape[-1])
    return (slopes[:, :, None] * inputs[:, None]).flatten(1)
