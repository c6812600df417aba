"""IRM as in SubpopBench: that of DomainBed, with the values of the spurious attribute as environments.

Source: Yang, Zhang, Katabi and Ghassemi, "Change is Hard: A Closer Look at Subpopulation Shift", ICML 2023, arXiv
2302.12254, and its code.
Needs: groups (label and spurious attribute of every training example).
Differs: nothing from the code: as DomainBed's but that the optimizer goes on at `anneal`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from spurbench.bench.plugins.method import Batch
from spurbench.methods.irm_domainbed import IRMDomainBed


@dataclass(frozen=True)
class IRMSubpopBench(IRMDomainBed):
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    def resets(self) -> tuple[int, ...]:
        return ()

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        assert batch.group is not None and batch.problem.group_counts is not None
        attributes = len(batch.problem.group_counts) // batch.problem.classes
        problem = replace(batch.problem, environments=attributes)
        return super().loss(logits, replace(batch, problem=problem, environment=batch.group % attributes), state, step)
