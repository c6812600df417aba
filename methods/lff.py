"""Learning from failure: a network trained to be biased tells the other which examples are hard.

Source: Nam, Cha, Ahn, Lee and Shin, "Learning from Failure", NeurIPS 2020, arXiv 2007.02561, Algorithm 1.
Needs: a second network of the same architecture, stable example indices.
Differs: nothing from the released code, whose rules are: losses are averaged over time (EMA, `ema`) and divided by the
largest of their class before they are compared; the biased network's gradient is q times that of the generalised
cross-entropy (1 − p^q)/q.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, Problem, class_logits, hyper


@dataclass(frozen=True)
class LfF(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"second network", "index"})

    q: float = hyper(0.7, low=0.3, high=0.9, symbol="q")
    ema: float = hyper(0.7, choices=(0.5, 0.7, 0.9), symbol="α")

    def init_state(self, problem: Problem) -> dict[str, Tensor]:
        def table(value: float) -> Tensor:
            return torch.full((problem.examples,), value, device=problem.device)

        return {"biased": table(0.0), "debiased": table(0.0), "seen": table(0.0), "y": table(-1.0).long()}

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        assert batch.second_logits is not None and batch.index is not None
        losses, biased_losses = batch.losses(logits), batch.losses(batch.second_logits)
        state["y"] = state["y"].scatter(0, batch.index, batch.y)
        of_class = state["y"] == torch.arange(batch.problem.classes, device=batch.y.device)[:, None]  # [C, examples]
        fresh = 1 - self.ema * state["seen"][batch.index]  # the share of the new loss: all of it at first
        hard = self.relative(state, "biased", biased_losses.detach(), batch, of_class, fresh)
        easy = self.relative(state, "debiased", losses.detach(), batch, of_class, fresh)
        state["seen"] = state["seen"].scatter(0, batch.index, torch.ones_like(losses))
        weight = hard / (hard + easy + 1e-8)
        confidence = class_logits(batch.second_logits.detach()).softmax(-1).gather(1, batch.y[:, None])[:, 0]
        return (weight * losses).mean() + (self.q * confidence**self.q * biased_losses).mean()

    def relative(
        self, state: dict[str, Tensor], name: str, losses: Tensor, batch: Batch, of_class: Tensor, fresh: Tensor
    ) -> Tensor:
        """Loss of each example, averaged over time, as a share of the largest of its class, [B]."""
        table, index = state[name], batch.index
        assert index is not None
        table = table.scatter(0, index, self.ema * table[index] + fresh * losses)
        state[name] = table
        largest = torch.where(of_class, table, 0).amax(1).clamp(min=torch.finfo(table.dtype).tiny)
        return table[index] / largest[batch.y]
