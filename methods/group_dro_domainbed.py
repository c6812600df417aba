"""Group DRO as in DomainBed: the training environments are the groups.

Source: Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021, arXiv 2007.01434, and its code;
the method is that of Sagawa, Koh, Hashimoto and Liang, arXiv 1911.08731.
Needs: environments.
Differs: nothing from the code, in which every environment has a batch of its own; here it has its share of one, and one
that is not in the batch keeps its weight before all are normalised, and adds nothing to the loss.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, Problem, hyper


@dataclass(frozen=True)
class GroupDRODomainBed(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"environments"})

    eta: float = hyper(0.01, low=1e-3, high=1e-1, scale="log", symbol="η")

    def init_state(self, problem: Problem) -> dict[str, Tensor]:
        return {"q": torch.full((problem.environments,), 1 / problem.environments, device=problem.device)}

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        risks = batch.environment_means(batch.losses(logits)).filled(0.0)  # where absent, q is multiplied by 1
        q = state["q"] * (self.eta * risks.detach()).exp()
        state["q"] = q / q.sum()
        return state["q"] @ risks
