"""EVaLS, environment-based validation and loss-based sampling: a new head on the easiest and hardest held-out examples.

Source: Ghaznavi et al., "Trained Models Tell Us How to Make Them Robust to Spurious Correlation without Group
Annotation", arXiv 2410.05345, from its abstract: equally many examples of high and of low loss of each class are taken
for last-layer retraining. To choose by environments that EIIL infers: `groups: eiil`, with the rule
`validation_inferred_worst_group`.
Needs: validation: from its first half, shuffled, the examples are taken; the other half stays held out. Starts from
ERM.
Differs: the authors' code is not public; how many examples are taken is the hyper-parameter `share` here, and the head
is trained as the other methods are, beginning at the base's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Draw, Finished, Method, Start, hyper


@dataclass(frozen=True)
class EVaLS(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"validation"})
    head_only: ClassVar[bool] = True
    base: ClassVar[Mapping[str, Any]] = {"method": "erm"}

    share: float = hyper(0.1, low=0.01, high=0.5, scale="log")

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        seen = finished.known_validation
        own = torch.randperm(len(seen.y), generator=generator)[: len(seen.y) // 2]
        count = max(1, round(self.share * int(seen.y[own].bincount(minlength=1).min())))
        rows = []
        for y in seen.y[own].bincount().nonzero()[:, 0]:
            ordered = own[seen.y[own] == y]
            ordered = ordered[seen.losses[ordered].argsort(stable=True)]
            rows += [ordered[:count], ordered[count:][-count:]]
        return Start("head", "validation", Draw(torch.cat(rows)))

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
