"""LLR, last-layer retraining without groups: a new last layer, trained on class-balanced held-out data.

Source: LaBonte, Muthukumar and Kumar, "Towards Last-layer Retraining for Group Robustness with Fewer Annotations",
NeurIPS 2023, arXiv 2309.08534, section 4 (class-balanced last-layer retraining).
Needs: validation: its first half, shuffled, is trained on, the other half stays held out. Starts from ERM.
Differs: features are those of the evaluation mode, without random changes of the pictures; the released code leaves
batch statistics and augmentation in training mode. Its ERM draws classes equally often: `base: {method: rwy}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Draw, Finished, Method, Start, fresh_head, inverse_frequency


@dataclass(frozen=True)
class LLR(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"validation"})
    head_only: ClassVar[bool] = True
    base: ClassVar[Mapping[str, Any]] = {"method": "erm"}

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        y = finished.known_validation.y
        rows = torch.randperm(len(y), generator=generator)[: len(y) // 2]
        draw = Draw(rows, inverse_frequency(y[rows]))
        return Start("head", "validation", draw, head=fresh_head(finished.head, generator))

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
