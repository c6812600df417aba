"""BAM, bias amplification: the network that was trained to be biased trains on, with more of what it gets wrong.

Source: Li, Liu and Hu, "Bias Amplification Enhances Minority Group Performance", TMLR 2024, arXiv 2309.06717: the first
stage trains an auxiliary logit vector for each example (`bam_first`); the second one continues from its network, errors
drawn `upweight` times as often.
Needs: nothing beyond labels. Starts from bam_first, at the share `stop` of its training.
Differs: nothing known beyond the first stage.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, CannotBegin, Draw, Finished, Method, Start, hyper


@dataclass(frozen=True)
class BAM(Method):
    base: ClassVar[Mapping[str, Any]] = {"method": "bam_first", "step": "stop"}

    stop: float = hyper(0.2, low=0.02, high=1.0, symbol="T")
    upweight: float = hyper(50.0, choices=(20.0, 50.0, 140.0), symbol="μ")

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        errors = finished.train.errors
        if not errors.any():
            raise CannotBegin(f"the error set is empty: all {len(errors):,} training examples are right")
        return Start("base", draw=Draw(weights=torch.where(errors, self.upweight, 1.0)), marked=errors)

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
