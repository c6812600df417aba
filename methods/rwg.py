"""RWG: ERM on examples drawn with replacement, every group equally often.

Source: Idrissi, Arjovsky, Pezeshki and Lopez-Paz, "Simple Data Balancing Achieves Competitive Worst-Group-Accuracy",
CLeaR 2022, arXiv 2110.14503, section 3 (reweighting the sampling probability of groups).
Needs: groups (label and spurious attribute of every training example).
Differs: nothing from the released code: an epoch is as many draws as there are examples. ReSample in SubpopBench (Yang
et al., ICML 2023) is meant to be this; its released code draws evenly, as the switch is misspelt for that name.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spurbench.bench.plugins.method import Batch, Draw, Examples, Method, inverse_frequency


@dataclass(frozen=True)
class RWG(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    def draw(self, examples: Examples) -> Draw:
        return Draw(weights=inverse_frequency(examples.known_group))

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
