"""JTT, "just train twice": a second network sees the examples that a first one gets wrong many times as often.

Source: Liu et al., "Just Train Twice: Improving Group Robustness without Training Group Information", ICML 2021, arXiv
2107.09044, algorithm 1; `form` is that of the released code, of the paper's text, or of SubpopBench (Yang et al., ICML
2023).
Needs: nothing beyond labels. Starts from ERM, at the share `stop` of its training.
Differs: the errors are those of one pass in evaluation mode; the released code collects the predictions of an epoch
while the network changes. Both networks train with the same settings unless `base` gives the first its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, CannotBegin, Draw, Finished, Method, Start, hyper


@dataclass(frozen=True)
class JTT(Method):
    base: ClassVar[Mapping[str, Any]] = {"method": "erm", "step": "stop"}

    stop: float = hyper(0.5, low=0.02, high=0.8, symbol="T")
    upweight: int = hyper(20, choices=(4, 6, 20, 50, 100), symbol="λ")
    form: str = hyper("released", choices=("released", "paper", "subpopbench"))

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        errors = finished.train.errors
        if not errors.any():
            right = f"all {len(errors):,} training examples are right"
            raise CannotBegin(f"the error set is empty: {right} at the share {self.stop:g}; a smaller 'stop'")
        if self.form == "subpopbench":
            return Start(values={"weight": torch.where(errors, self.upweight, 1.0)}, marked=errors)
        copies = self.upweight - (self.form == "paper")
        rows = torch.cat([torch.arange(len(errors)), errors.nonzero()[:, 0].repeat(copies)])
        return Start(draw=Draw(rows), marked=errors)

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        losses = batch.losses(logits)
        return (losses * batch.values["weight"]).mean() if self.form == "subpopbench" else losses.mean()
