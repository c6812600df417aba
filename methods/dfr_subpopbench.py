"""DFR as in SubpopBench: a new last layer trained by SGD on balanced validation examples, with an L1 penalty.

Source: Yang, Zhang, Katabi and Ghassemi, "Change is Hard: A Closer Look at Subpopulation Shift", ICML 2023, arXiv
2302.12254, and its code; the method is that of Kirichenko, Izmailov and Wilson, arXiv 2204.02937.
Needs: validation groups. Starts from ERM.
Differs: features are those of the evaluation mode; there batch statistics stay in training mode. A step is of SGD with
momentum 0.9 on `batch` examples drawn with replacement from a subset in which groups are as frequent as the rarest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from spurbench.bench.plugins.method import Batch, Finished, Head, Method, Start, balanced_rows, fresh_head, hyper


@dataclass(frozen=True)
class DFRSubpopBench(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"validation", "validation groups"})
    trains: ClassVar[bool] = False
    head_only: ClassVar[bool] = True
    base: ClassVar[Mapping[str, Any]] = {"method": "erm"}

    strength: float = hyper(0.1, low=0.01, high=3.0, scale="log")
    lr: float = hyper(1e-3, low=1e-4, high=1e-2, scale="log")
    batch: int = hyper(108, low=64, high=107, scale="log")
    steps: int = hyper(5000, choices=(5000,))  # not searched

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        seen = finished.known_validation
        rows = balanced_rows(seen.known_group, generator)
        head = fresh_head(finished.head, generator)
        moved = torch.zeros_like(head[0]), torch.zeros_like(head[1])
        for _ in range(self.steps):
            at = rows[torch.randint(len(rows), (self.batch,), generator=generator)]
            slopes = self.slopes(head, seen.features[at], seen.y[at])
            for part, velocity, slope in zip(head, moved, slopes, strict=True):
                part.sub_(velocity.mul_(0.9).add_(slope), alpha=self.lr)
        return Start(network="head", head=head)

    def slopes(self, head: Head, features: Tensor, y: Tensor) -> Head:
        """The gradient of the mean cross-entropy plus the penalty on the weight, by weight and bias."""
        z = features @ head[0].T + head[1]
        apart = z.sigmoid() - y[:, None] if z.shape[1] == 1 else z.softmax(1) - one_hot(y, z.shape[1])
        return apart.T @ features / len(y) + self.strength * head[0].sign(), apart.mean(0)

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
