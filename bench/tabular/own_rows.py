"""Base classes of datasets of a user's own rows, which are known by the name that they are prepared under."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.plugins.dataset import Build, Data
from spurbench.bench.tabular.row_dataset import Known, RowDataset, known_of

if TYPE_CHECKING:
    from spurbench.bench.tabular.reading import Columns
    from spurbench.bench.tabular.writing import Rows

DUPLICATES = ("refuse", "keep")


@dataclass(frozen=True)
class OwnRows(RowDataset):
    """Rows of a user's: the options matter when they are prepared, after that their name is enough."""

    named: ClassVar[tuple[str, ...] | None] = None
    run_only: ClassVar[tuple[str, ...]] = ("name",)
    defaults: ClassVar[Mapping[str, Any]] = {
        "label": "y", "attribute": "a", "split_by": "split", "split_seed": 0, "duplicates": "refuse",
    }  # fmt: skip

    name: str = ""  # what the prepared rows are called; the following matter when they are prepared
    label: str | None = None  # the column of the class; None: y
    attribute: str | None = None  # columns of spurious attributes, as "a,b"; None: a, if there is that column
    split_by: str | None = None  # the column of the split, or shares to draw it by, "0.6,0.2,0.2"; None: split
    split_seed: int | None = None  # of that draw; None: 0
    duplicates: str | None = None  # of rows in several splits: refuse or keep; None: refuse

    @abstractmethod
    def inputs(self, file: Path, columns: Columns, known: Known) -> Rows:
        """What the columns hold beside the labels."""

    # ---- which version ------------------------------------------------------------------------------------------

    @property
    def asked(self) -> str:
        if not self.name:
            raise UserError(f"which rows? --set {self.called}.name=NAME says what they are called")
        return self.check_name(self.name, self.name)

    @property
    def other_name(self) -> str:  # type: ignore[override]
        return f"--set {self.called}.name=NAME"

    @property
    def run_hint(self) -> str:
        return f"; run it with --set {self.called}.name={self.name}"

    # ---- preparing ----------------------------------------------------------------------------------------------

    @property
    def keep_duplicates(self) -> bool:  # type: ignore[override]
        here = self.find() if self.name else None
        made = here.facts.get("options", {}).get("duplicates") if here else self.option("duplicates")
        return bool(made == "keep")

    def rows(self, file: Path) -> Rows:
        from spurbench.bench.tabular.reading import read_columns

        if (duplicates := self.option("duplicates")) not in DUPLICATES:
            raise UserError(f"{self.called}.duplicates is {duplicates!r}; expected {' or '.join(DUPLICATES)}")
        if (seed := self.option("split_seed")) < 0:
            raise UserError(f"{self.called}.split_seed is {seed}; expected 0 or more")
        columns = read_columns(file, self.kinds)
        return self.inputs(file, columns, self.labels(file, columns))

    def labels(self, file: Path, columns: Columns) -> Known:
        """Classes, attributes and splits of all rows; raises BadData for columns that cannot be."""
        name, split_by = self.option("label"), self.option("split_by")
        named = self.option("attribute")
        absent = self.attribute is None and named not in columns
        attributes = [] if absent else [each for each in named.split(",") if each]
        return known_of(file, columns, name, attributes, split_by, self.option("split_seed"), self.called)


@dataclass(frozen=True)
class OwnEmbeddings(OwnRows):
    """What another network made of examples, and perhaps of the classes' names."""

    run_only: ClassVar[tuple[str, ...]] = ("name", "start")
    kinds: ClassVar[tuple[str, ...]] = (".npz", ".parquet")
    defaults: ClassVar[Mapping[str, Any]] = {**OwnRows.defaults, "column": "x"}

    column: str | None = None  # of the embeddings; None: x
    start: str | None = None  # the first weights of the head, of a run: prototypes; None: drawn from the seed

    def inputs(self, file: Path, columns: Columns, known: Known) -> Rows:
        from spurbench.bench.tabular.embeddings import embedding_rows

        return embedding_rows(file, columns, known, self.option("column"), f"{self.called}.column")

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
