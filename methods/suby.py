"""SUBY: ERM on a random subset in which every class is as large as the smallest one.

Source: Idrissi, Arjovsky, Pezeshki and Lopez-Paz, "Simple Data Balancing Achieves Competitive Worst-Group-Accuracy",
CLeaR 2022, arXiv 2110.14503, section 3 (subsampling large classes).
Needs: nothing beyond labels.
Differs: nothing from the released code: the subset is drawn once for a run, not for each epoch.
"""

from dataclasses import dataclass

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Draw, Examples, Method, balanced_rows


@dataclass(frozen=True)
class SUBY(Method):
    def draw(self, examples: Examples) -> Draw:
        return Draw(rows=balanced_rows(examples.y, examples.generator))

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
