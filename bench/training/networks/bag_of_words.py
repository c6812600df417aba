"""The mean of the embeddings of a text's tokens, then ReLU layers; ids beyond the vocabulary share its rows in turn.

Source: Joulin et al., "Bag of Tricks for Efficient Text Classification", EACL 2017, arXiv 1607.01759; hidden layers are
ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from spurbench.bench.plugins.network import DICT, Network, setting


@dataclass(frozen=True)
class BagOfWords(Network):
    takes: ClassVar[frozenset[str]] = frozenset({DICT})

    vocabulary: int = setting(30_522, low=1, high=10_000_000)  # rows of the table of embeddings
    embedding: int = setting(64, low=1, high=65_536)  # numbers of an embedding
    depth: int = setting(0, low=0, high=1000)  # hidden layers, each as wide as an embedding

    def build(self, shape: Any, outputs: int) -> nn.Module:
        self.check_tokens(shape)
        layers = [layer for _ in range(self.depth) for layer in (nn.Linear(self.embedding, self.embedding), nn.ReLU())]
        return Bag(nn.Embedding(self.vocabulary, self.embedding), *layers, nn.Linear(self.embedding, outputs))

    def head(self, module: nn.Module) -> str:
        return [name for name, _ in module.named_children()][-1]


class Bag(nn.Sequential):
    """Layers on the mean of the embeddings, the first of the layers."""

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Logits [B, C] of ids and mask [B, T]."""
        layers: list[Any] = list(self)
        table = layers.pop(0)
        words = table(x["ids"].long() % table.num_embeddings)
        there = x["mask"].to(words.dtype)[..., None]
        z: Tensor = (words * there).sum(-2) / there.sum(-2).clamp(min=1)
        for layer in layers:
            z = layer(z)
        return z
