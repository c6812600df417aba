"""EIIL, environment inference for invariant learning: IRM on the environments that a finished network violates most.

Source: Creager, Jacobsen and Zemel, "Environment Inference for Invariant Learning", ICML 2021, arXiv 2010.07249, and
its released code: a soft partition ascends the IRMv1 penalty of ERM's logits by Adam for 10,000 steps.
Needs: nothing beyond labels. Starts from ERM.
Differs: with several classes the penalty is that of the cross-entropy; the released code is for two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Finished, Seen, Start, hyper
from spurbench.methods.irm import IRM, scale_slope


@dataclass(frozen=True)
class EIIL(IRM):
    needs: ClassVar[frozenset[str]] = frozenset({"environments"})
    base: ClassVar[Mapping[str, Any]] = {"method": "erm"}

    updates: int = hyper(10_000, choices=(1_000, 10_000))

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        environment = self.infer(finished.train, generator)
        return Start(environment=environment, marked=environment == 1)

    def infer(self, seen: Seen, generator: torch.Generator) -> Tensor:
        """Which of two environments each example is in, [n]: 1 the rarer one."""
        slopes = scale_slope(seen.logits, seen.y)
        chances = torch.randn(len(seen.y), generator=generator)
        optimizer = torch.optim.Adam([chances], lr=1e-3, foreach=False)
        for _ in range(self.updates):
            chances.grad = -ascent(slopes, chances.sigmoid())
            optimizer.step()
        second = chances > 0
        return (second if second.float().mean() < 0.5 else ~second).long()


def violation(slopes: Tensor, share: Tensor) -> Tensor:
    """The mean over both environments of the squared slope of their risks, each over all examples."""
    return ((share * slopes).mean().square() + ((1 - share) * slopes).mean().square()) / 2


def ascent(slopes: Tensor, share: Tensor) -> Tensor:
    """The derivative of the violation by the logit of each example's share, [n]."""
    apart = (share * slopes).mean() - ((1 - share) * slopes).mean()
    return apart * slopes / len(slopes) * share * (1 - share)
