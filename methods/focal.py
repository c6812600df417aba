"""Focal loss: the cross-entropy of each example times (1 − p)^γ, so that what is predicted well counts little.

Source: Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002,
Eq. 4; default and range of γ are those of SubpopBench (Yang et al., ICML 2023, arXiv 2302.12254).
Needs: nothing beyond labels.
Differs: no weight α for a class.
"""

from dataclasses import dataclass

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class Focal(Method):
    gamma: float = hyper(1.0, low=0.5, high=5.0, scale="log", symbol="γ")

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        losses = batch.losses(logits)
        missing = -(-losses).expm1()  # 1 − p of the true class
        return (missing.clamp(min=TINY) ** self.gamma * losses).mean()


TINY = 1e-12  # where the power's slope is finite
