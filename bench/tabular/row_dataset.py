"""Base classes of datasets whose examples are rows of a file: from the file to prepared splits."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from spurbench.bench.core.errors import BadData, UserError, cut
from spurbench.bench.plugins.registry import SHARED_OPTIONS
from spurbench.bench.prepared.folder import Prepared
from spurbench.bench.prepared.prepared_dataset import WORD, PreparedDataset

if TYPE_CHECKING:
    from spurbench.bench.tabular.codes import Codes, Integers
    from spurbench.bench.tabular.reading import Columns
    from spurbench.bench.tabular.writing import Rows


@dataclass(frozen=True)
class RowDataset(PreparedDataset):
    """A dataset of rows in one file, prepared in seconds."""

    source: ClassVar[str] = "FILE"
    kinds: ClassVar[tuple[str, ...]]  # endings of files that can be read
    keep_duplicates: ClassVar[bool] = True  # of rows in several splits, which are counted
    other_name: ClassVar[str] = ""  # how to give other rows another name, if that can be
    run_only: ClassVar[tuple[str, ...]] = ()  # options that do not change what is prepared
    defaults: ClassVar[Mapping[str, Any]] = {}  # of options that are None

    @abstractmethod
    def rows(self, file: Path) -> Rows:
        """What the file holds; raises BadData if that cannot be used."""

    @property
    def asked(self) -> str:
        return "original"

    def find(self) -> Prepared | None:
        found = Prepared.find(self.home, self.asked)
        if found and (other := self.find_differences(found)):
            otherwise = self.other_name and f", or give the rows another name, {self.other_name}"
            raise BadData(
                f"{found.folder} was prepared with {other}: leave these options out, delete it and prepare it again"
                f"{otherwise}"
            )
        return found

    def find_differences(self, found: Prepared) -> str:
        """Which options were others when it was prepared; those that are None are taken from there."""
        made = found.facts.get("options", {})
        return ", ".join(
            f"{name} {made[name]}, not {value}"
            for name, value in self.options().items()
            if getattr(self, name) is not None and made.get(name, value) != value
        )

    def options(self) -> dict[str, str]:
        """The options that decide what is prepared, as texts."""
        names = [f.name for f in fields(self) if f.name not in (*self.run_only, *SHARED_OPTIONS)]
        return {name: "" if (value := self.option(name)) is None else str(value) for name in names}

    def option(self, name: str) -> Any:
        """The value of an option, where it is not given its default in preparing."""
        given = getattr(self, name)
        return self.defaults.get(name) if given is None else given

    def prepare(self, source: Path | None = None, allow_bad: bool = False, processes: int | None = None) -> str:
        """Prepare from the file; says what was done. Raises UserError for a file that cannot be used."""
        from spurbench.bench.tabular import writing

        here = self.find()
        if source is None and here is None:
            raise UserError(f"{self.called} is prepared from a file: --from {self.source} ({', '.join(self.kinds)})")
        if source is None:
            assert here is not None
            return f"already prepared: {here} ({here.folder}, from {here.facts['from']}){self.shares_hint()}"
        file = self.find_file(Path(os.path.realpath(source)))
        if here:
            return self.confirm(here, file)
        rows = self.rows(file)
        rows.files = [file, *self.files_beside(file)]
        made = writing.prepare_rows(self.home, self.asked, rows, self.options(), self.keep_duplicates)
        return f"prepared {made} ({made.folder}){self.run_hint}{self.shares_hint()}"

    @property
    def run_hint(self) -> str:
        """How to run what was prepared, if its options must be given."""
        return ""

    def files_beside(self, file: Path) -> list[Path]:
        """Further files that are read."""
        return []

    def find_file(self, source: Path) -> Path:
        """The file to read, of what the user gave; raises BadData if there is none."""
        from spurbench.bench.tabular.reading import check_file

        check_file(source, self.kinds)
        return source

    def confirm(self, here: Prepared, file: Path) -> str:
        """Says that this file is already prepared; raises UserError if its content is another."""
        from spurbench.bench.tabular.writing import content_of

        if content_of(file, *self.files_beside(file)) == here.facts.get("content"):
            return f"already prepared: {here} ({here.folder}){self.shares_hint()}"
        otherwise = self.other_name and f", or give the rows another name, {self.other_name}"
        raise UserError(
            f"{here.folder} holds {here}, from {here.facts['from']}, and {file} has another content: delete "
            f"{here.folder} to prepare it anew{otherwise}"
        )


@dataclass(frozen=True)
class PublishedTexts(RowDataset):
    """Published texts: tokenised as its protocol does, and its counts asserted unless they are called otherwise."""

    run_only: ClassVar[tuple[str, ...]] = ("origin",)
    published: ClassVar[Mapping[str, tuple[int, ...]]]  # split → how many rows, or how many of each group

    origin: str = "original"  # or what else the texts were prepared from, such as "twin"
    tokenizer: str | None = None  # a folder, or a name on the hub, where they are prepared; None: the protocol's
    length: int | None = None  # tokens of a text that are kept, at most; None: as the protocol has it

    @property
    def asked(self) -> str:
        return self.check_name(self.origin, self.origin)

    @property
    def other_name(self) -> str:  # type: ignore[override]
        return f"--set {self.called}.origin=NAME"

    @property
    def run_hint(self) -> str:
        return "" if self.origin == "original" else f"; run it with --set {self.called}.origin={self.origin}"

    def check_counts(self, file: Path, known: Known) -> None:
        """Raise BadData unless each split has as many rows, or as many of each group, as was published."""
        from spurbench.bench.tabular.codes import SPLITS

        group = joint(known.label, known.attributes.values())
        for place, split in enumerate(SPLITS if self.origin == "original" else ()):
            wanted, own = self.published[split], group[known.split == place]
            found = (len(own),) if len(wanted) == 1 else tuple((own == g).sum().item() for g in range(len(wanted)))
            if found != wanted:
                raise BadData(
                    f"{file}: {list(found)} {split} rows, expected {list(wanted)}. Is it complete? To use it as other "
                    f"data, name it: {self.other_name}"
                )


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


def known_of(
    file: Path, columns: Columns, label: str, attributes: Sequence[str], split_by: str, seed: int, option: str
) -> Known:
    """Labels, attributes and splits from columns; `option` is how options of the dataset begin.

    Raises BadData for columns that are not there or cannot be used.
    """
    from spurbench.bench.tabular import codes
    from spurbench.bench.tabular.reading import column

    shares = codes.parse_shares(split_by)
    chosen = [label, *attributes, *([] if shares else [split_by])]
    if twice := [name for name in chosen if chosen.count(name) > 1]:
        raise UserError(f"label, attributes and split must be different columns; '{cut(twice[0])}' is named twice")
    y = codes.codes(file, label, column(file, columns, label, f"{option}.label"))
    if odd := [name for name in attributes if not WORD.fullmatch(name)]:
        raise BadData(
            f"{file}: column '{odd[0]}' cannot name an attribute: rename it, with letters, digits, '_', '-', '.'"
        )
    of = {name: codes.codes(file, name, column(file, columns, name, f"{option}.attribute")) for name in attributes}
    if shares:
        split = codes.draw_splits(shares, joint(y, of.values()), seed)
    else:
        split = codes.splits(file, split_by, column(file, columns, split_by, f"{option}.split_by"))
    for name, length in [*((name, len(values.of_row)) for name, values in of.items()), (split_by, len(split))]:
        if length != len(y.of_row):
            raise BadData(f"{file}: '{name}' has {length:,} rows, '{label}' {len(y.of_row):,}")
    codes.check_classes(file, label, y, split)
    return Known(y, of, split)


def joint(label: Codes, attributes: Iterable[Codes]) -> Integers:
    """One number for each combination of label and attributes, [n]."""
    found = label.of_row
    for codes in attributes:
        found = found * len(codes.names) + codes.of_row
    return found
