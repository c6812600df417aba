"""CutMix: a rectangle of each picture is replaced by that of another, and labels are averaged by their areas.

Source: Yun, Han, Oh, Chun, Choe and Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
Features", ICCV 2019, arXiv 1905.04899, Eqs. 1 and 2.
Needs: nothing beyond labels; pictures [channels, height, width].
Differs: every batch is mixed; the released code does so with a probability that its ImageNet runs set to 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from spurbench.bench.plugins.method import Batch, Method, draw_beta, hyper, send


@dataclass(frozen=True)
class CutMix(Method):
    alpha: float = hyper(1.0, low=0.1, high=10.0, scale="log", symbol="α")

    def mix(self, x: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if x.ndim != 4:
            raise ValueError(f"cutmix takes pictures; these inputs have the shape {list(x.shape[1:])}")
        inside = send(rectangle(x.shape[-2:], draw_beta(self.alpha, (), generator).item(), generator), x.device)
        partner = send(torch.randperm(len(x), generator=generator), x.device)
        share = 1 - inside.float().mean()
        labels = one_hot(batch.y, batch.problem.classes).float()
        return torch.where(inside, x[partner], x), share * labels + (1 - share) * labels[partner]

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()


def rectangle(shape: torch.Size, share: float, generator: torch.Generator) -> Tensor:
    """A mask [height, width] of a rectangle around a random pixel whose area, uncut, is 1 − share of the picture."""
    within = []
    for size in shape:
        half = int(size * (1 - share) ** 0.5) // 2
        centre = int(torch.randint(size, (), generator=generator))
        place = torch.arange(size)
        within.append((place >= centre - half) & (place < centre + half))
    return within[0][:, None] & within[1]
