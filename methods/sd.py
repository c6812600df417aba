"""Spectral decoupling: an L2 penalty on the logits keeps every feature learning.

Source: Pezeshki, Kaba, Bengio, Courville, Precup and Lajoie, "Gradient Starvation: A Learning Proclivity in
Neural Networks", NeurIPS 2021, arXiv 2011.09468, Eq. 17; the delayed, rescaled rule is that of the authors'
Colored MNIST code.
Needs: nothing beyond labels.
Differs: `coef` multiplies the mean of z², so Eq. 17's λ is 2 · coef for one logit and 2 · coef / C for C.
With `rescale` the rule of the released code: the penalty is on from step 0, and from step `delay` the cross-entropy
is multiplied by `coef` too. Without it the text's reading: cross-entropy alone before `delay`, Eq. 17 after.
"""

from dataclasses import dataclass

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, hyper


@dataclass(frozen=True)
class SD(Method):
    coef: float = hyper(0.01, low=1e-5, high=1.0, scale="log", symbol="λ/2")
    delay: int = hyper(0, choices=(0, 150, 450), symbol="")
    rescale: bool = hyper(False, choices=(False, True), symbol="")

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        risk = batch.losses(logits).mean()
        penalty = logits.square().mean()
        if self.rescale:
            return risk + self.coef * penalty if step < self.delay else self.coef * (risk + penalty)
        return risk if step < self.delay else risk + self.coef * penalty
