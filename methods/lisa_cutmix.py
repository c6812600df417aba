"""LISA with CutMix: a rectangle of each picture is replaced by that of its partner, and labels are averaged by area.

Source: Yao, Wang, Li, Zhang, Liang, Zou and Finn, "Improving Out-of-Distribution Robustness via Selective
Augmentation", ICML 2022, arXiv 2201.00299, section 3, as in its runs on CelebA and MetaShift; default and ranges are
those of SubpopBench (Yang et al., ICML 2023, arXiv 2302.12254).
Needs: groups (label and spurious attribute of every training example); pictures [channels, height, width].
Differs: as LISA. There two partners give two pictures, each with the other's rectangle, and α is 0.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from spurbench.bench.plugins.method import Batch, draw_beta, send
from spurbench.methods.cutmix import rectangle
from spurbench.methods.lisa import LISA, partners


@dataclass(frozen=True)
class LISACutMix(LISA):
    def mix(self, x: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if x.ndim != 4:
            raise ValueError(f"lisa_cutmix takes pictures; these inputs have the shape {list(x.shape[1:])}")
        fits = partners(batch, torch.rand((), generator=generator).item() < self.p_sel)
        score = send(torch.rand(fits.shape, generator=generator), x.device) * fits
        partner = torch.where(fits.any(1), score.argmax(1), torch.arange(len(x), device=x.device))
        inside = send(rectangle(x.shape[-2:], draw_beta(self.alpha, (), generator).item(), generator), x.device)
        share = 1 - inside.float().mean()
        labels = one_hot(batch.y, batch.problem.classes).float()
        return torch.where(inside, x[partner], x), share * labels + (1 - share) * labels[partner]
