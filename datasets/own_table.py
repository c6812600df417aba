"""A table of your own: a CSV or Parquet file with a row per example, without writing any code.

`spurbench data prepare own_table --from FILE --set own_table.name=mine --set own_table.label=COLUMN`, then run it with
`--set own_table.name=mine`. All columns are inputs but for the label, the split and those to `drop`; so is the
attribute, as a background is part of a picture. Numbers are scaled to mean 0 and deviation 1, empty cells given the
median, and texts become one input for each word, all as training has them.

Source: yours.
Licence: yours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from spurbench.bench.plugins.dataset import Training
from spurbench.bench.tabular.own_rows import OwnRows
from spurbench.bench.tabular.row_dataset import Known


@dataclass(frozen=True)
class OwnTable(OwnRows):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "accuracy"), ("train", "accuracy"))  # fmt: skip
    training: ClassVar[Training] = Training(
        network="mlp", width=256, hidden_layers=2, optimizer="adam", lr=0.001, steps=2000, batch=256)  # fmt: skip
    kinds: ClassVar[tuple[str, ...]] = (".csv", ".parquet")

    drop: str | None = None  # columns that are no inputs, as "id,date"; None: all are
    categorical: str | None = None  # columns of numbers that are names, such as codes: "ward,postcode"; None: none

    def inputs(self, file: Path, columns: Any, known: Known) -> Any:
        from spurbench.bench.tabular.encoding import table_rows

        held = self.option("label"), self.option("split_by")
        used = {name: values for name, values in columns.items() if name not in held}
        drop, categorical = (text.split(",") if text else [] for text in (self.drop, self.categorical))
        return table_rows(file, used, known, drop, categorical, self.called)
