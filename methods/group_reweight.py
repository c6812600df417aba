"""Reweighting by group: cross-entropy weighted by the inverse of what a group's number of training examples counts.

Source: SubpopBench (Yang et al., "Change is Hard: A Closer Look at Subpopulation Shift", ICML 2023, arXiv 2302.12254)
where attributes are known: the number itself (ReWeight there), its square root (SqrtReWeight), or the effective number
of Cui et al., CVPR 2019, with `beta` (CBLoss).
Needs: groups (label and spurious attribute of every training example).
Differs: nothing from the code: the weights of all groups sum to their number, and one without examples has none.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class GroupReweight(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    by: str = hyper("number", choices=("number", "square root", "effective number"))
    beta: float = hyper(0.9999, choices=(0.99, 0.999, 0.9999, 0.99999), symbol="β", only={"by": "effective number"})

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        assert batch.group is not None and batch.problem.group_counts is not None
        weights = self.weights(batch.problem.group_counts).to(logits)
        return (weights[batch.group] * batch.losses(logits)).mean()

    def weights(self, counts: Tensor) -> Tensor:
        """The weight of each group, [G], by its training examples."""
        n = counts.double()
        size = {"number": n, "square root": n.sqrt(), "effective number": 1 - self.beta**n}[self.by]
        found = torch.where(n > 0, 1 / size.clamp(min=1e-30), 0.0)
        return found * len(found) / found.sum()
