"""DFR on training data: a new last layer on the features of a finished network, fitted to balanced training examples.

Source: Kirichenko, Izmailov and Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations",
ICLR 2023, arXiv 2204.02937; DFR on the training set as in the released code: the penalty's strength is chosen on all of
validation, then 10 fits to balanced subsets of the training set are averaged.
Needs: groups, and validation groups to choose the strength. Starts from ERM.
Differs: as DFR; class weights are not searched, as in the released default.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from spurbench.bench.plugins.method import Finished, Start, balanced_rows, hyper
from spurbench.methods.dfr import DFR, STRENGTHS, best_strength, fit, scale_of


@dataclass(frozen=True)
class DFRTrain(DFR):
    needs: ClassVar[frozenset[str]] = frozenset({"groups", "validation", "validation groups"})

    fits: int = hyper(10, choices=(1, 10, 20))

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        seen, held_out = finished.train, finished.known_validation
        scale = scale_of(seen.features if self.scaler == "train" else held_out.features)
        rows, every = balanced_rows(seen.known_group, generator), torch.arange(len(held_out.y))
        heads = [fit(seen.features[rows], seen.y[rows], scale, strength) for strength in STRENGTHS]
        strength = best_strength(heads, held_out, every)
        return Start(network="head", head=self.fit_many(seen, scale, strength, finished.head, generator))
