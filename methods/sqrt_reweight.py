"""Square-root reweighting: cross-entropy weighted by one over the square root of the class's training examples.

Source: the milder of the two reweightings by class in SubpopBench (Yang et al., "Change is Hard: A Closer Look at
Subpopulation Shift", ICML 2023, arXiv 2302.12254, appendix).
Needs: nothing beyond labels.
Differs: by class, as there when attributes are not known; the weights of all classes sum to their number, and one
without a training example counts as a single one. `power = 1` is reweighting by the counts themselves.
"""

from dataclasses import dataclass

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class SqrtReweight(Method):
    power: float = hyper(0.5, choices=(0.5, 1.0))

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        weights = self.weights(batch.problem.class_counts).to(logits)
        return (weights[batch.y] * batch.losses(logits)).mean()

    def weights(self, counts: Tensor) -> Tensor:
        """The weight of each class, [C], by its training examples."""
        found = counts.clamp(min=1).double() ** -self.power
        return found * len(found) / found.sum()
