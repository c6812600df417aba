"""Class-balanced loss: cross-entropy weighted by the inverse of a class's effective number of examples.

Source: Cui, Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, arXiv
1901.05555, Eq. 8.
Needs: nothing beyond labels.
Differs: nothing; the weights of all classes sum to their number, and one without a training example counts as a single
one.
"""

from dataclasses import dataclass

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class ClassBalanced(Method):
    beta: float = hyper(0.9999, choices=(0.9, 0.99, 0.999, 0.9999), symbol="β")

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        weights = self.weights(batch.problem.class_counts).to(logits)
        return (weights[batch.y] * batch.losses(logits)).mean()

    def weights(self, counts: Tensor) -> Tensor:
        """The weight of each class, [C], by its training examples."""
        found = (1 - self.beta) / (1 - self.beta ** counts.clamp(min=1).double())
        return found * len(found) / found.sum()
