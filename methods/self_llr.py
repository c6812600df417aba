"""SELF, selective last-layer finetuning: the last layer trains on at the few held-out examples that matter most.

Source: LaBonte, Muthukumar and Kumar, "Towards Last-layer Retraining for Group Robustness with Fewer Annotations",
NeurIPS 2023, arXiv 2309.08534, section 5; `score` is the disagreement between the finished and an earlier network, the
loss of either, or "random", the paper's control.
Needs: validation: of its first half, shuffled, `points` examples are trained on; the rest stays held out. Starts from
ERM, which is also looked at after the share `early`.
Differs: no dropout on the features, which the released code searches; features are those of the evaluation mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Draw, Finished, Method, Start, hyper, inverse_frequency


@dataclass(frozen=True)
class SelfLLR(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"validation"})
    head_only: ClassVar[bool] = True
    base: ClassVar[Mapping[str, Any]] = {"method": "erm", "earlier": "early"}

    points: int = hyper(100, choices=(20, 100, 500))
    early: float = hyper(0.2, choices=(0.1, 0.2, 0.5))
    score: str = hyper("disagreement", choices=("disagreement", "early loss", "loss", "random"))

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        y = finished.known_validation.y
        own = torch.randperm(len(y), generator=generator)[: len(y) // 2]
        rows = own[self.scores(finished, generator)[own].argsort(descending=True, stable=True)[: self.points]]
        return Start("head", "validation", Draw(rows, inverse_frequency(y[rows])))

    def scores(self, finished: Finished, generator: torch.Generator) -> Tensor:
        """How much each example of validation matters, [n]."""
        last, early = finished.known_validation, finished.known_earlier.known_validation
        if self.score == "random":
            return torch.rand(len(last.y), generator=generator)
        if self.score == "disagreement":
            return disagreement(last.class_logits, early.class_logits)
        return (last if self.score == "loss" else early).losses

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()


def disagreement(last: Tensor, early: Tensor) -> Tensor:
    """The divergence of the last network's probabilities from the early one's, the mean over classes, [n]."""
    return F.kl_div(last.log_softmax(1), early.softmax(1), reduction="none").mean(1)
