"""Embeddings that another network has made: rows of numbers, and perhaps the embeddings of the classes' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spurbench.bench.core.errors import BadData, cut
from spurbench.bench.core.terminal import plural
from spurbench.bench.tabular.codes import first_row
from spurbench.bench.tabular.reading import Columns, column
from spurbench.bench.tabular.row_dataset import Known
from spurbench.bench.tabular.writing import Rows

Array = np.ndarray[Any, np.dtype[Any]]
PROTOTYPES = "prototypes"
CHECKED = 1 << 24  # numbers looked at together


def embedding_rows(file: Path, columns: Columns, known: Known, name: str, option: str) -> Rows:
    """The embeddings in the column `name`; `option` says how to name another.

    Raises BadData unless there is one of numbers for each label, all of one length and finite.
    """
    x = matrix(file, name, column(file, columns, name, option))
    if len(x) != len(known.split):
        raise BadData(f"{file}: '{cut(name)}' has {len(x):,} rows, but there are {len(known.split):,} labels")
    check_finite(file, name, x)
    shared = {}
    if PROTOTYPES in columns:
        prototypes = matrix(file, PROTOTYPES, columns[PROTOTYPES])
        wanted = (len(known.label.names), x.shape[1])
        if prototypes.shape != wanted:
            has = f"'{PROTOTYPES}' has the shape {list(prototypes.shape)}"
            raise BadData(f"{file}: {has}; expected {list(wanted)}, a row for each class")
        check_finite(file, PROTOTYPES, prototypes)
        shared[PROTOTYPES] = prototypes.astype(np.float32)
    return Rows(
        file, known.label, known.attributes, known.split, {"x": ((x.shape[1],), "float32")},
        lambda rows: {"x": x[rows].astype(np.float32)}, f"embeddings of {plural(x.shape[1], 'number')}",
        notes=[*([f"{plural(len(known.label.names), 'prototype')}"] if shared else []), *known.notes], shared=shared,
    )  # fmt: skip


def matrix(file: Path, name: str, values: Any) -> Array:
    """A column of lists, or an array, as [n, D]."""
    if isinstance(values, pa.ChunkedArray):
        values = from_lists(file, name, values.combine_chunks())
    if values.ndim != 2 or not values.shape[1] or values.dtype.kind not in "fiu":
        raise BadData(f"{file}: '{cut(name)}' is an array {list(values.shape)} of {values.dtype}; expected numbers "
                      "[rows, numbers of each]")  # fmt: skip
    found: Array = values
    return found


def from_lists(file: Path, name: str, values: pa.Array) -> Array:
    """A column of lists of numbers, all of one length."""
    kind = values.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise BadData(f"{file}: column '{cut(name)}' holds {kind}; expected a list of numbers in each row")
    lengths = pa.compute.list_value_length(values).to_numpy(zero_copy_only=False)
    length = int(next(iter(lengths[~np.isnan(lengths)]), 0))
    if (odd := lengths != length).any():
        raise BadData(f"{file}: {plural(int(odd.sum()), 'row')} of column '{cut(name)}' without {length} numbers, the "
                      f"first is row {first_row(odd)}")  # fmt: skip
    flat = values.flatten()
    if flat.null_count:
        odd = flat.is_null().to_numpy(zero_copy_only=False).reshape(len(values), -1).any(1)
        raise BadData(f"{file}: column '{cut(name)}' lacks {plural(flat.null_count, 'number')}, the first in row "
                      f"{first_row(odd)}")  # fmt: skip
    found: Array = flat.to_numpy(zero_copy_only=False).reshape(len(values), -1)
    return found


def check_finite(file: Path, name: str, x: Array) -> None:
    """Raise BadData, with their number and the first row, for numbers that are NaN or infinite as float32."""
    size = max(1, CHECKED // max(1, x.shape[1]))
    nan = infinite = 0
    first = None
    for at in range(0, len(x), size):
        with np.errstate(over="ignore"):
            part = x[at : at + size].astype(np.float32)
        bad = ~np.isfinite(part)
        if bad.any():
            first = first or at + int(np.argmax(bad.any(1))) + 1
            nan, infinite = nan + int(np.isnan(part).sum()), infinite + int(np.isinf(part).sum())
    if first:
        raise BadData(f"{file}: '{cut(name)}' holds {nan:,} NaN and {infinite:,} infinite numbers, the first in row "
                      f"{first:,}")  # fmt: skip
