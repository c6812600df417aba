"""Group distributionally robust optimisation: groups with a high loss gain weight from step to step.

Source: Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020,
arXiv 1911.08731, Algorithm 1.
Needs: groups (label and spurious attribute of every training example).
Differs: as in the released code the adjustment C/√n_g enters the update of q, not the gradient. There a group that is
absent has a loss of 0; here it has none. One without a training example has weight 0 from the start. One that is not in
the batch is not updated before q is normalised (there it is, by exp(η C/√n_g)) and adds nothing to the loss; its weight
is not dealt out to the others, which would favour them most when the rarest group is absent.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, Problem, hyper


@dataclass(frozen=True)
class GroupDRO(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    eta: float = hyper(0.01, low=1e-3, high=1.0, scale="log", symbol="η")
    adjustment: float = hyper(0.0, choices=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0), symbol="C")

    def init_state(self, problem: Problem) -> dict[str, Tensor]:
        assert problem.group_counts is not None
        present = (problem.group_counts > 0).float()
        return {"q": present / present.sum()}

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        assert batch.problem.group_counts is not None
        means = batch.group_means(batch.losses(logits))
        losses = means.filled(0.0)  # to be weighed; where there is none, by a q that is not updated
        adjusted = losses.detach() + self.adjustment / batch.problem.group_counts.clamp(min=1).to(losses).sqrt()
        q = torch.where(means.present, state["q"] * (self.eta * adjusted).exp(), state["q"])
        state["q"] = q / q.sum()
        return state["q"] @ losses
