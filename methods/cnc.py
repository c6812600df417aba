"""CnC, correct-n-contrast: features of a class are drawn together across what a first network confuses them with.

Source: Zhang, Sohoni, Zhang, Finn and Ré, "Correct-N-Contrast: A Contrastive Approach for Improving Robustness to
Spurious Correlations", ICML 2022, arXiv 2203.01517: an anchor is an example that the first network gets right; its
positives are those of its class that it gets wrong, its negatives those of other classes that it takes for its own.
Needs: features. Starts from ERM, with a fresh network.
Differs: all pairs of a minibatch are contrasted, in which right and wrong examples of a class are equally frequent; the
released code builds a batch around each anchor. An anchor without positives or negatives in the batch has no term.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from spurbench.bench.plugins.method import Batch, CannotBegin, Draw, Finished, Method, Start, hyper, inverse_frequency


@dataclass(frozen=True)
class CnC(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    base: ClassVar[Mapping[str, Any]] = {"method": "erm", "step": "stop"}

    stop: float = hyper(0.5, low=0.02, high=1.0)
    temperature: float = hyper(0.1, low=0.05, high=0.5, scale="log", symbol="τ")
    contrast: float = hyper(0.75, low=0.25, high=0.9, symbol="λ")

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        errors = finished.train.errors
        if not errors.any():
            raise CannotBegin(f"nothing to contrast: the base has no error among {len(errors):,} training examples")
        draw = Draw(weights=inverse_frequency(2 * finished.train.y + errors))
        return Start(draw=draw, values={"predicted": finished.train.predictions}, marked=errors)

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        similarity = F.normalize(batch.known_features, dim=1)
        terms = contrast(similarity @ similarity.T / self.temperature, batch.y, batch.values["predicted"])
        return self.contrast * terms + (1 - self.contrast) * batch.losses(logits).mean()


def contrast(similarity: Tensor, y: Tensor, predicted: Tensor) -> Tensor:
    """The mean supervised contrastive loss of the anchors of a batch, of similarities [B, B] over the temperature."""
    wrong = (predicted != y)[None, :]
    positive = (y[:, None] == y[None, :]) & wrong
    negative = (y[:, None] != y[None, :]) & wrong & (predicted[:, None] == predicted[None, :])
    anchor = (predicted == y) & positive.any(1) & negative.any(1)
    total = torch.where(positive | negative, similarity, -1e9).logsumexp(1)
    each = torch.where(positive, total[:, None] - similarity, 0).sum(1) / positive.sum(1).clamp(min=1)
    return torch.where(anchor, each, 0).sum() / anchor.sum().clamp(min=1)
