"""Points in the plane: a dataset for tests that start processes, since it imports nothing but torch.

Source: these tests. Groups: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from spurbench.bench.plugins.dataset import Build, Data, Dataset, Score, Split, Training


@dataclass(frozen=True)
class Points(Dataset):
    training: ClassVar[Training] = Training(
        width=20, hidden_layers=1, optimizer="sgd", lr=0.01, momentum=0.9, steps=20)  # fmt: skip

    examples: int = 60

    def load(self, seed: int, build: Build) -> tuple[Data, nn.Module]:
        y = torch.arange(self.examples) % 2
        x = torch.randn(self.examples, 2, generator=torch.Generator().manual_seed(seed)) + y[:, None]
        torch.manual_seed(seed)
        return Data(Split(x, y), {}), build(x)

    def drawings(self, score: Score, data: Data) -> dict[str, Tensor]:
        return {"logits": score(data.train.x)}
