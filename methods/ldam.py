"""Label-distribution-aware margins: the rarer a class, the larger the margin that its logit must win by.

Source: Cao, Wei, Gaidon, Arechiga and Ma, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
NeurIPS 2019, arXiv 1906.07413, Eq. 13; default and ranges are those of SubpopBench (Yang et al., ICML 2023, arXiv
2302.12254).
Needs: nothing beyond labels.
Differs: no reweighting that begins late, and features and weights of the head are not normalised, as in SubpopBench.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from spurbench.bench.plugins.method import Batch, Method, class_logits, hyper


@dataclass(frozen=True)
class LDAM(Method):
    margin: float = hyper(0.5, low=0.1, high=0.8, scale="log", symbol="C")  # of the rarest class
    scale: float = hyper(30.0, choices=(10.0, 30.0), symbol="s")

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        margins = self.margins(batch.problem.class_counts)
        logits = class_logits(logits)
        lowered = logits - one_hot(batch.y, logits.shape[-1]) * margins.to(logits)
        return cross_entropy(self.scale * lowered, batch.y)

    def margins(self, counts: Tensor) -> Tensor:
        """The margin of each class, [C], by its training examples; a class without one has that of a single one."""
        found = counts.clamp(min=1) ** -0.25
        return self.margin * found / found.max()
