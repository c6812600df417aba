"""mixup: the network is trained on averages of two examples and of their labels.

Source: Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv 1710.09412,
Eq. 1; default and range of α are those of SubpopBench (Yang et al., ICML 2023, arXiv 2302.12254).
Needs: nothing beyond labels.
Differs: nothing from the released code: one share for the batch, partners by a permutation of it. `shares = "each"`
draws one for every example, as LISA's code does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from spurbench.bench.plugins.method import Batch, Method, draw_beta, hyper, send


@dataclass(frozen=True)
class Mixup(Method):
    alpha: float = hyper(0.2, low=0.1, high=10.0, scale="log", symbol="α")
    shares: str | None = hyper(None, choices=("each",))  # None: one for the batch

    def mix(self, x: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        share = send(draw_beta(self.alpha, (len(x), 1) if self.shares == "each" else (1, 1), generator), x.device)
        partner = send(torch.randperm(len(x), generator=generator), x.device)
        labels = one_hot(batch.y, batch.problem.classes).float()
        of_x = share.view(-1, *[1] * (x.ndim - 1))
        return of_x * x + (1 - of_x) * x[partner], share * labels + (1 - share) * labels[partner]

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
