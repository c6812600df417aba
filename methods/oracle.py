"""Oracle (reference row): ERM on pictures whose colour channels are summed, so that only the shape is left.

Source: Arjovsky et al., "Invariant Risk Minimization", arXiv 1907.02893, section 5 (grayscale model).
Needs: colour channels of which all but one are zero.
Differs: nothing; `l2` multiplies the squared norm of all parameters inside the loss, as in the released code.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class Oracle(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"colour channels"})

    l2: float = hyper(0.0, low=1e-5, high=1e-2, scale="log")

    def transform(self, x: Tensor) -> Tensor:
        return x.sum(1)

    def weight_penalty(self, step: int) -> float:
        return self.l2

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
