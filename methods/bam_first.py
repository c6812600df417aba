"""The first stage of BAM: ERM with a free vector of logits for each example, which takes over what is easy to bias.

Source: Li, Liu and Hu, "Bias Amplification Enhances Minority Group Performance", TMLR 2024, arXiv 2309.06717,
section 3.1: the loss is that of f(x_i) + λ b_i, where the auxiliary b_i are trained, too.
Needs: stable example indices.
Differs: the auxiliary logits take plain gradient steps of the size `rate`, whatever the network's optimizer.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, Problem, class_logits, hyper


@dataclass(frozen=True)
class BAMFirst(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"index"})

    amplify: float = hyper(50.0, choices=(5.0, 20.0, 50.0), symbol="λ")
    rate: float = hyper(1e-3, low=1e-5, high=1e-1, scale="log")

    def init_state(self, problem: Problem) -> dict[str, Tensor]:
        return {"auxiliary": torch.zeros(problem.examples, problem.classes, device=problem.device)}

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        assert batch.index is not None
        at = batch.index[:, None].expand(-1, batch.problem.classes)
        own = state["auxiliary"].gather(0, at)
        z = class_logits(logits) + self.amplify * own
        slopes = (z.detach().softmax(1) - F.one_hot(batch.y, batch.problem.classes)) * self.amplify / len(batch.y)
        state["auxiliary"] = state["auxiliary"].scatter(0, at, own - self.rate * slopes)
        return F.cross_entropy(z, batch.y)
