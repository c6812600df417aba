"""WordLlama: the mean of token embeddings taken from a language model, 256 features; they come with the package.

Texts must be tokenised as it does: `own_text.tokenizer=wordllama`.

Source: Miller, "WordLlama", 2024, https://github.com/dleemiller/WordLlama.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.network import DICT, Network
from spurbench.bench.training.networks.bag_of_words import Bag

FILE = "weights/l2_supercat_256.safetensors"


@dataclass(frozen=True)
class Wordllama(Network):
    takes: ClassVar[frozenset[str]] = frozenset({DICT})

    def build(self, shape: Any, outputs: int) -> nn.Module:
        """Errors: UserError also if the package is not installed."""
        self.check_tokens(shape)
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise UserError(f"the network {self.called} needs the package safetensors") from None
        package = find_spec("wordllama")
        if package is None or package.origin is None:
            raise UserError(f"the network {self.called} needs the package wordllama: pip install 'spurbench[features]'")
        table = load_file(str(Path(package.origin).parent / FILE))["embedding.weight"].float()
        return Bag(nn.Embedding(len(table), table.shape[1], _weight=table), nn.Linear(table.shape[1], outputs))

    def head(self, module: nn.Module) -> str:
        return "1"
