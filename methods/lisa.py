"""LISA: mixup of examples that share the label but not the attribute, or the attribute but not the label.

Source: Yao, Wang, Li, Zhang, Liang, Zou and Finn, "Improving Out-of-Distribution Robustness via Selective
Augmentation", ICML 2022, arXiv 2201.00299, section 3; default and ranges are those of SubpopBench (Yang et al., ICML
2023, arXiv 2302.12254).
Needs: groups (label and spurious attribute of every training example).
Differs: partners are sought in the batch, where groups are drawn equally often, as the released code has a loader for
each group; an example without a partner stays as it is. With CutMix: `lisa_cutmix`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from spurbench.bench.plugins.method import Batch, Draw, Examples, Method, draw_beta, hyper, inverse_frequency, send


@dataclass(frozen=True)
class LISA(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    alpha: float = hyper(2.0, low=0.1, high=10.0, scale="log", symbol="α")
    p_sel: float = hyper(0.5, low=0.0, high=1.0)  # how often partners share the label

    def draw(self, examples: Examples) -> Draw:
        return Draw(weights=inverse_frequency(examples.known_group))

    def mix(self, x: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        same_label = torch.rand((), generator=generator).item() < self.p_sel
        fits = partners(batch, same_label)
        score = send(torch.rand(fits.shape, generator=generator), x.device) * fits
        partner = torch.where(fits.any(1), score.argmax(1), torch.arange(len(x), device=x.device))
        share = send(draw_beta(self.alpha, (len(x), 1), generator), x.device)
        labels = one_hot(batch.y, batch.problem.classes).float()
        of_x = share.view(-1, *[1] * (x.ndim - 1))
        return of_x * x + (1 - of_x) * x[partner], share * labels + (1 - share) * labels[partner]

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()


def partners(batch: Batch, same_label: bool) -> Tensor:
    """Which examples may be mixed, [B, B]: of one label and two attributes, or of one attribute and two labels."""
    assert batch.group is not None and batch.problem.group_counts is not None
    attribute = batch.group % (len(batch.problem.group_counts) // batch.problem.classes)
    label, colour = (of[:, None] == of for of in (batch.y, attribute))
    return label & ~colour if same_label else colour & ~label
