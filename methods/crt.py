"""cRT, classifier retraining: a new last layer on the frozen features of a finished network, its groups balanced.

Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, arXiv
1910.09217, in the forms of SubpopBench (Yang et al., ICML 2023, arXiv 2302.12254): every group is drawn equally often
(CRT there), weighs as much in the loss (ReWeightCRT), or neither (VanillaCRT).
Needs: groups (label and spurious attribute of every training example). Starts from ERM.
Differs: features are those of the evaluation mode; there batch statistics stay in training mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Draw, Finished, Method, Start, fresh_head, hyper, inverse_frequency


@dataclass(frozen=True)
class CRT(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})
    head_only: ClassVar[bool] = True
    base: ClassVar[Mapping[str, Any]] = {"method": "erm"}

    balance: str = hyper("draws", choices=("draws", "weights", "none"))

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        rare = inverse_frequency(finished.train.known_group)
        draw = Draw(weights=rare) if self.balance == "draws" else Draw()
        values = {"weight": rare / rare.mean()} if self.balance == "weights" else {}
        return Start("head", draw=draw, values=values, head=fresh_head(finished.head, generator))

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        losses = batch.losses(logits)
        return (losses * batch.values["weight"]).mean() if self.balance == "weights" else losses.mean()
