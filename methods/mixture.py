"""Mixture balancing: the largest classes are cut to `ratio` times the smallest, and classes are drawn equally often.

Source: LaBonte, Hill, Zhang, Muthukumar and Kumar, "The Group Robustness is in the Details: Revisiting Finetuning under
Spurious Correlations", NeurIPS 2024, arXiv 2407.13957, section 4 (mixture balancing).
Needs: nothing beyond labels.
Differs: nothing known; `ratio = 1` is SUBY, and a large one RWY.
"""

from dataclasses import dataclass

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Draw, Examples, Method, hyper, inverse_frequency, rows_of_each


@dataclass(frozen=True)
class Mixture(Method):
    ratio: float = hyper(2.0, low=1.0, high=20.0, scale="log")

    def draw(self, examples: Examples) -> Draw:
        counts = examples.y.bincount()
        most = int(self.ratio * int(counts[counts > 0].min()))
        rows = rows_of_each(examples.y, counts.clamp(max=most), examples.generator)
        return Draw(rows, inverse_frequency(examples.y[rows]))

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
