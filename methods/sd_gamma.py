"""Spectral decoupling with a target logit per class: raw logits are pulled towards γ of their label.

Source: Pezeshki et al., "Gradient Starvation", NeurIPS 2021, arXiv 2011.09468, section 4.4 and appendix B.5.
Needs: nothing beyond labels; two classes, one logit.
Differs: the text form is divided by the number of examples. The released form takes the mean of (z − γ)² over each
class, without ½, so a class weighs `coef` whatever its size: the opposite order of the text's λ_0 > λ_1. A class
absent from the batch adds nothing (in the released code it gives NaN). Its modes spw1 and spw2, the former the one
that Figure 4's script names, multiply one class's logits by r before squaring: the text form with γ = 0, λ = 2 sp for
the other class and λ = 2 sp r² for that one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class SDGamma(Method):
    form: str = hyper("text", choices=("text", "released"))
    coef: float = hyper(0.1, low=1e-4, high=1.0, scale="log", symbol="sp", only={"form": "released"})
    lambda_0: float = hyper(0.088, low=1e-3, high=1.0, scale="log", symbol="λ_0", only={"form": "text"})
    lambda_1: float = hyper(0.012, low=1e-3, high=1.0, scale="log", symbol="λ_1", only={"form": "text"})
    gamma_0: float = hyper(0.44, low=-3.0, high=3.0, symbol="γ_0")
    gamma_1: float = hyper(2.5, low=-3.0, high=3.0, symbol="γ_1")

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        if logits.ndim > 1:
            raise ValueError(
                f"γ is a target of one logit, this network gives {logits.shape[-1]}: two classes, logits 1"
            )
        risk = batch.losses(logits).mean()
        distance = (logits - torch.where(batch.y == 1, self.gamma_1, self.gamma_0)).square()
        if self.form == "released":
            return risk + self.coef * batch.class_means(distance).filled(0.0).sum()
        weight = torch.where(batch.y == 1, self.lambda_1, self.lambda_0)
        return risk + (weight / 2 * distance).mean()
