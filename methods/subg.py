"""SUBG: ERM on a random subset in which every group is as large as the smallest one.

Source: Idrissi, Arjovsky, Pezeshki and Lopez-Paz, "Simple Data Balancing Achieves Competitive Worst-Group-Accuracy",
CLeaR 2022, arXiv 2110.14503, section 3 (subsampling large groups).
Needs: groups (label and spurious attribute of every training example).
Differs: nothing from the released code: the subset is drawn once for a run, not for each epoch.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Draw, Examples, Method, balanced_rows


@dataclass(frozen=True)
class SUBG(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    def draw(self, examples: Examples) -> Draw:
        return Draw(rows=balanced_rows(examples.known_group, examples.generator))

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
