"""Base class of datasets whose examples are rows of a file: from the file to prepared splits, known by a name."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.prepared.folder import Prepared
from spurbench.bench.prepared.prepared_dataset import PreparedDataset

if TYPE_CHECKING:
    from spurbench.bench.tabular.codes import Codes, Integers
    from spurbench.bench.tabular.reading import Columns
    from spurbench.bench.tabular.writing import Rows

DUPLICATES = ("refuse", "keep")


@dataclass(frozen=True)
class RowDataset(PreparedDataset):
    """A dataset of rows: the options matter when it is prepared, after that its name is enough."""

    source: ClassVar[str] = "FILE"
    kinds: ClassVar[tuple[str, ...]]  # endings of files that can be read

    name: str = ""  # what the prepared rows are called
    label: str = "y"  # the column of the class
    attribute: str = "a"  # columns of spurious attributes, as "a,b"; without a column a there are none
    split_by: str = "split"  # the column of the split, or shares to draw it by: "0.6,0.2,0.2"
    split_seed: int = 0  # of that draw
    duplicates: str = "refuse"  # of rows in several splits: refuse or keep

    @abstractmethod
    def rows(self, file: Path, columns: Columns, known: Known) -> Rows:
        """What the columns hold beside the labels."""

    # ---- which version ------------------------------------------------------------------------------------------

    @property
    def asked(self) -> str:
        if not self.name:
            raise UserError(f"which rows? --set {self.called}.name=NAME says what they are called")
        return self.check_name(self.name, self.name)

    def find(self) -> Prepared | None:
        found = Prepared.find(self.home, self.asked)
        if found and (other := self.find_differences(found)):
            raise BadData(
                f"{found.folder} was prepared with {other}: leave these options out, delete it and prepare it again, "
                f"or give the rows another name, --set {self.called}.name=NAME"
            )
        return found

    def find_differences(self, found: Prepared) -> str:
        """Which options were others when it was prepared; those at their defaults are taken from there."""
        made = found.facts.get("options", {})
        return ", ".join(f"{name} {made[name]}, not {value}" for name, value in self.given().items()
                         if name in made and made[name] != value)  # fmt: skip

    def given(self) -> dict[str, str]:
        """The options beside the name that are not at their defaults, as texts."""
        own = [f for f in fields(self) if f.name != "name" and getattr(self, f.name) != f.default]
        return {f.name: str(getattr(self, f.name)) for f in own}

    # ---- preparing ----------------------------------------------------------------------------------------------

    def prepare(self, source: Path | None = None, allow_bad: bool = False, processes: int | None = None) -> str:
        """Prepare from the file; says what was done. Raises UserError for a file that cannot be used."""
        from spurbench.bench.tabular import reading, writing

        here = self.find()
        if source is None:
            if here is None:
                raise UserError(f"{self.called} is prepared from a file: --from FILE ({', '.join(self.kinds)})")
            return f"already prepared: {here} ({here.folder}, from {here.facts['from']})"
        file = self.find_file(Path(os.path.realpath(source)))
        if here:
            return self.confirm(here, file)
        if self.duplicates not in DUPLICATES:
            raise UserError(f"{self.called}.duplicates is {self.duplicates!r}; expected {' or '.join(DUPLICATES)}")
        columns = reading.read_columns(file, self.kinds)
        rows = self.rows(file, columns, self.labels(file, columns))
        options = {f.name: str(getattr(self, f.name)) for f in fields(self) if f.name != "name"}
        made = writing.prepare_rows(self.home, self.asked, rows, options, self.duplicates == "keep")
        return f"prepared {made} ({made.folder}); run it with --set {self.called}.name={self.name}"

    def find_file(self, source: Path) -> Path:
        """The file to read, which may lie in the folder given."""
        return source

    def confirm(self, here: Prepared, file: Path) -> str:
        """Says that this file is already prepared; raises UserError if its content is another."""
        from spurbench.bench.tabular.reading import check_file
        from spurbench.bench.tabular.writing import content_of

        check_file(file, self.kinds)
        if content_of(file) == here.facts.get("content"):
            return f"already prepared: {here} ({here.folder})"
        raise UserError(
            f"{here.folder} holds {here}, from {here.facts['from']}, which had another content than {file} has: delete "
            f"{here.folder} to prepare it anew, or give the rows another name, --set {self.called}.name=NAME"
        )

    # ---- labels -------------------------------------------------------------------------------------------------

    def labels(self, file: Path, columns: Columns) -> Known:
        """Classes, attributes and splits of all rows; raises BadData for columns that cannot be."""
        from spurbench.bench.tabular import codes
        from spurbench.bench.tabular.reading import column

        label = codes.codes(file, self.label, column(file, columns, self.label, f"{self.called}.label"))
        attributes = {
            name: codes.codes(file, name, column(file, columns, name, f"{self.called}.attribute"))
            for name in self.attribute_columns(columns)
        }
        if not (shares := codes.parse_shares(self.split_by)):
            values = column(file, columns, self.split_by, f"{self.called}.split_by")
            split = codes.splits(file, self.split_by, values)
        else:
            split = codes.draw_splits(shares, joint(label, attributes.values()), self.split_seed)
        codes.check_classes(file, self.label, label, split)
        return Known(label, attributes, split)

    def attribute_columns(self, columns: Columns) -> list[str]:
        """The columns of attributes; the default one may be absent."""
        if self.attribute == "a" and "a" not in columns:
            return []
        return [name for name in self.attribute.split(",") if name]


@dataclass(frozen=True)
class Known:
    """What is known of rows beside their inputs."""

    label: Codes
    attributes: Mapping[str, Codes]
    split: Integers  # [n]

    @property
    def notes(self) -> list[str]:
        """What is to be said of it."""
        absent = [] if self.attributes else ["no attribute: groups are the classes"]
        return absent + ([] if (self.split == 1).any() else ["no validation split"])


def joint(label: Codes, attributes: Any) -> Integers:
    """One number for each combination of label and attributes, [n]."""
    found = label.of_row
    for codes in attributes:
        found = found * len(codes.names) + codes.of_row
    return found
