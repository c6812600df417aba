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
from typing import ClassVar

from spurbench.bench.plugins.dataset import Training
from spurbench.bench.tabular.own_rows import OwnEmbeddings


@dataclass(frozen=True)
class OwnFeatures(OwnEmbeddings):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "accuracy"), ("train", "accuracy"))  # fmt: skip
    training: ClassVar[Training] = Training(
        network="mlp", hidden_layers=0, optimizer="adam", lr=0.001, steps=2000, batch=256)  # fmt: skip
