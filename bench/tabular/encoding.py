"""Columns of a table as the numbers that a network takes: imputed, scaled and one-hot, as training alone has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spurbench.bench.core.errors import BadData, cut
from spurbench.bench.core.terminal import plural
from spurbench.bench.tabular.codes import MOST_VALUES, as_arrow, first_row
from spurbench.bench.tabular.reading import column
from spurbench.bench.tabular.row_dataset import Known
from spurbench.bench.tabular.writing import Rows

NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
WITH_COMMAS = r"^\s*[+-]?(\d[\d .']*)?(,\d+)+(\.\d*)?\s*$"  # a decimal one, or between thousands
LARGEST = float(np.finfo(np.float32).max)
MISSING = "missing"  # the category of empty cells
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Category:
    """A column of words."""

    places: Array  # [n] int32, of each row the place of its word
    words: list[str]  # in alphabetical order; that of empty cells, if there are any, is the last one
    missing: int  # empty cells


@dataclass(frozen=True)
class Inputs:
    """The columns that become inputs: numbers, NaN where missing, and categories as places among their words."""

    numbers: Mapping[str, Array]  # name → [n] float64
    categories: Mapping[str, Category]

    def missing(self) -> Iterator[str]:
        """What of them is empty, in words."""
        for name, values in self.numbers.items():
            if count := int(np.isnan(values).sum()):
                yield f"{plural(count, 'empty cell')} of {cut(name)} given the median"
        for name, category in self.categories.items():
            if category.missing:
                yield f"{plural(category.missing, 'empty cell')} of {cut(name)} made a category"


def table_rows(
    file: Path, columns: Mapping[str, Any], known: Known, drop: Sequence[str], categorical: Sequence[str], option: str
) -> Rows:
    """The columns, but for those that are dropped, as inputs fitted on the training rows.

    `option` is how options of the dataset begin. Raises BadData for a column that is not there or cannot be used.
    """
    for name in drop:
        column(file, columns, name, f"{option}.drop")
    used = {name: values for name, values in columns.items() if name not in drop}
    if not used:
        raise BadData(f"{file}: no column is left for the inputs")
    for name in categorical:
        column(file, used, name, f"{option}.categorical")
    inputs = inputs_of(file, used, categorical, option)
    encoder = Encoder(inputs, np.flatnonzero(known.split == 0))
    width = len(encoder.columns)
    return Rows(
        file, known.label, known.attributes, known.split, {"x": ((width,), "float32")},
        lambda rows: {"x": encoder(rows)}, f"rows of {plural(width, 'number')}", columns=encoder.columns,
        notes=[*inputs.missing(), *known.notes],
    )  # fmt: skip


def inputs_of(file: Path, columns: Mapping[str, Any], categorical: Sequence[str], option: str) -> Inputs:
    """Which columns are numbers and which are categories: texts are, and those that are named as such.

    Raises BadData for a column that is nearly numbers, has infinities or NaN, or too many categories; `option` is the
    beginning of the options that help.
    """
    numbers, categories = {}, {}
    for name, values in columns.items():
        column = as_arrow(file, name, values)
        found = None if name in categorical else as_numbers(file, name, column, option)
        if found is None:
            categories[name] = as_category(file, name, column, option)
        else:
            numbers[name] = found
    return Inputs(numbers, categories)


def as_numbers(file: Path, name: str, column: pa.ChunkedArray, option: str) -> Array | None:
    """The column as floats, NaN where it is empty; None for one of texts."""
    if pa.types.is_temporal(column.type):
        raise BadData(f"{file}: column '{cut(name)}' holds dates ({column.type}): write numbers, or leave it out with "
                      f"--set {option}.drop={name}")  # fmt: skip
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        if not is_numeric(file, name, column, option):
            return None
        column = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), r"^\+", "")
    found: Array = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    given = column.is_valid().to_numpy()
    for what, wrong in (("NaN", np.isnan(found) & given), ("infinite in float32", np.abs(found) > LARGEST)):
        if count := int(wrong.sum()):
            raise BadData(
                f"{file}: {plural(count, 'value')} of column '{cut(name)}' {'are' if count > 1 else 'is'} {what}, the "
                f"first in row {first_row(wrong)}; leave missing values empty"
            )
    return found


def is_numeric(file: Path, name: str, column: pa.ChunkedArray, option: str) -> bool:
    """Whether texts are numbers; raises BadData if most of them are, or have commas."""
    texts = pc.utf8_trim_whitespace(column)
    odd = pc.invert(pc.or_(pc.match_substring_regex(texts, NUMBER), pc.is_in(pc.utf8_lower(texts), pa.array(WORDS))))
    wrong = odd.fill_null(False).to_numpy()
    given = len(column) - column.null_count
    if not wrong.any():
        return bool(given)
    row = first_row(wrong)
    word = cut(str(column[int(np.argmax(wrong))]))
    if pc.all(pc.match_substring_regex(texts.filter(odd), WITH_COMMAS)).as_py():
        raise BadData(
            f"{file}: column '{cut(name)}' has commas in its numbers, '{word}' in row {row}: write decimal points and "
            f"nothing between thousands, or make words of them: --set {option}.categorical={name}"
        )
    if wrong.sum() < given / 2:
        are = "are no numbers" if wrong.sum() > 1 else "is no number"
        raise BadData(
            f"{file}: {plural(int(wrong.sum()), 'value')} of column '{cut(name)}' {are}, the first '{word}' in row "
            f"{row}; leave missing values empty, or make words of it: --set {option}.categorical={name}"
        )
    return False


WORDS = ["nan", "inf", "-inf", "+inf", "infinity", "-infinity", "+infinity", "-nan", "+nan"]
"""Texts that stand for numbers which are refused later, with their count."""


def as_category(file: Path, name: str, column: pa.ChunkedArray, option: str) -> Category:
    """A column of words; raises BadData for one with too many different ones."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    if len(words) > MOST_VALUES:
        raise BadData(
            f"{file}: column '{cut(name)}' holds {len(words):,} different texts, such as '{cut(words[0])}'; a category "
            f"has at most {MOST_VALUES:,}: leave it out with --set {option}.drop={name}"
        )
    order = sorted(range(len(words)), key=words.__getitem__)
    place = np.empty(len(words) + 1, np.int32)
    place[order] = np.arange(len(words))
    place[-1] = len(words)
    missing = encoded.null_count
    places = place[encoded.indices.fill_null(len(words)).to_numpy()]
    return Category(places, [words[at] for at in order] + ([MISSING] if missing else []), missing)


class Encoder:
    """Fitted on training rows: medians for missing numbers, mean and deviation, and the categories that occur."""

    def __init__(self, inputs: Inputs, training: Array) -> None:
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        self.inputs, self.parts = inputs, []
        if inputs.numbers:
            scaled = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
            self.parts.append((self.numbers, scaled.fit(self.numbers(training))))
        if inputs.categories:
            self.one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
            self.parts.append((self.categories, self.one_hot.fit(self.categories(training))))

    def numbers(self, rows: Array) -> Array:
        return np.column_stack([values[rows] for values in self.inputs.numbers.values()])

    def categories(self, rows: Array) -> Array:
        return np.column_stack([category.places[rows] for category in self.inputs.categories.values()])

    def __call__(self, rows: Array) -> Array:
        """Rows as inputs of a network, [b, D] float32, numbers first."""
        return np.hstack([fitted.transform(raw(rows)).astype(np.float32, copy=False) for raw, fitted in self.parts])

    @property
    def columns(self) -> list[str]:
        """What each input is."""
        found = list(self.inputs.numbers)
        if self.inputs.categories:
            for (name, category), places in zip(self.inputs.categories.items(), self.one_hot.categories_, strict=True):
                found += [f"{name}={category.words[place]}" for place in places]
        return found
