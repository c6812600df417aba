"""Embeddings of your own: an npz or Parquet file with what another network made of your examples, no code needed.

`spurbench data prepare own_features --from FILE --set own_features.name=mine`, then run it with the same `--set`. The
file has `x` (rows of numbers), `y`, `a` and `split`, and in npz perhaps `prototypes`: a row for each class, such as a
text encoder makes of its name. With `--set own_features.start=prototypes --set training.steps=0` these classify alone,
zero-shot; with more steps they are where training begins.

Source: yours.
Licence: yours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.dataset import BadData, Build, Data, Training
from spurbench.bench.tabular.row_dataset import Known, OwnRows


@dataclass(frozen=True)
class OwnFeatures(OwnRows):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "accuracy"), ("train", "accuracy"))  # fmt: skip
    training: ClassVar[Training] = Training(
        network="mlp", hidden_layers=0, optimizer="adam", lr=0.001, steps=2000, batch=256)  # fmt: skip
    kinds: ClassVar[tuple[str, ...]] = (".npz", ".parquet")
    run_only: ClassVar[tuple[str, ...]] = ("name", "groups", "start")

    column: str | None = None  # of the embeddings; None: x
    start: str | None = None  # the first weights of the head, of a run: prototypes; None: drawn from the seed

    def inputs(self, file: Path, columns: Any, known: Known) -> Any:
        from spurbench.bench.tabular.embeddings import embedding_rows

        return embedding_rows(file, columns, known, self.column or "x", f"{self.called}.column")

    def load(self, seed: int, build: Build) -> tuple[Data, nn.Module]:
        if self.start not in (None, "prototypes"):
            raise UserError(f"{self.called}.start is {self.start!r}; expected prototypes, or nothing")
        data, network = super().load(seed, build)
        if self.start == "prototypes":
            self.start_from_prototypes(network)
        return data, network

    def start_from_prototypes(self, network: nn.Module) -> None:
        """Make the network's one layer the classes' prototypes, each of length 1."""
        found = self.prepared().shared().get("prototypes")
        if found is None:
            raise BadData(f"{self.called}: {self.name} was prepared without prototypes: leave out start=prototypes")
        heads = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        if len(heads) != 1:
            raise UserError(f"prototypes are a linear network's first weights; this one has {len(heads)} layers")
        rows = nn.functional.normalize(torch.from_numpy(found).float())
        weight = rows if heads[0].out_features > 1 else rows[1:] - rows[:1]
        with torch.no_grad():
            heads[0].weight.copy_(weight)
            heads[0].bias.zero_()
