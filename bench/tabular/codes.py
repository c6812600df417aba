"""Labels, attributes and splits: columns as whole numbers from 0, each value with its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spurbench.bench.core.errors import BadData, UserError, cut
from spurbench.bench.core.terminal import plural

Integers = np.ndarray[Any, np.dtype[np.int64]]
MOST_VALUES = 1000  # of a label or an attribute
WHOLE = re.compile(r"\s*[+-]?\d+(\.0*)?\s*")
SPLITS = {
    "train": ("0", "train", "training"),
    "validation": ("1", "validation", "valid", "val", "dev"),
    "test": ("2", "test", "testing"),
}
"""Split → what a column may call it."""


@dataclass(frozen=True)
class Codes:
    """A column of classes or of an attribute's values."""

    of_row: Integers  # [n] from 0
    names: list[str]


def codes(file: Path, name: str, values: Any) -> Codes:
    """A column's values as numbers from 0; words are numbered in alphabetical order.

    Raises BadData for missing values, numbers that are not whole or do not count from 0 without gaps, and too many.
    """
    indices, words = distinct(file, name, values)
    if all(WHOLE.fullmatch(word) for word in words):
        return whole_numbers(file, name, indices, words)
    if any(is_number(word) for word in words):
        odd = next(at for at, word in enumerate(words) if not WHOLE.fullmatch(word))
        row = first_row(indices == odd)
        expected = "whole numbers from 0, or words that are no numbers"
        raise BadData(f"{file}: column '{cut(name)}' holds '{cut(words[odd])}' in row {row}; expected {expected}")
    order = sorted(range(len(words)), key=words.__getitem__)
    place = np.empty(len(words), np.int64)
    place[order] = np.arange(len(words))
    return Codes(place[indices], [words[at] for at in order])


def distinct(file: Path, name: str, values: Any) -> tuple[Integers, list[str]]:
    """Of each row which of the column's values it has, and these as texts."""
    column = as_arrow(file, name, values)
    if column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        raise BadData(f"{file}: column '{cut(name)}' is empty in {plural(column.null_count, 'row')}, the first is row "
                      f"{first_row(missing)}")  # fmt: skip
    encoded = column.combine_chunks().dictionary_encode()
    words = [str(int(word) if isinstance(word, bool) else word) for word in encoded.dictionary.to_pylist()]
    if len(words) > MOST_VALUES:
        raise BadData(
            f"{file}: column '{cut(name)}' holds {len(words):,} different values, such as '{cut(words[0])}'; expected "
            f"at most {MOST_VALUES:,}: is it another column, or can values be put together?"
        )
    return encoded.indices.to_numpy().astype(np.int64), words


def as_arrow(file: Path, name: str, values: Any) -> pa.ChunkedArray:
    """A column as pyarrow's, with plain values."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise BadData(f"{file}: '{cut(name)}' has the shape {list(values.shape)}; expected one value a row")
        values = pa.chunked_array([pa.array(values)])
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        raise BadData(f"{file}: column '{cut(name)}' holds {values.type}; expected one number or text a row")
    return values


def whole_numbers(file: Path, name: str, indices: Integers, words: list[str]) -> Codes:
    """A column of whole numbers, which must count from 0 without gaps."""
    numbers = np.clip([float(word) for word in words], -1, MOST_VALUES).astype(np.int64)  # further ones are refused
    least, most = int(numbers.argmin()), int(numbers.argmax())
    if numbers[least] < 0:
        holds = f"holds {cut(words[least])} in row {first_row(indices == least)}"
        raise BadData(f"{file}: column '{cut(name)}' {holds}; its values count from 0")
    if gaps := sorted(set(range(numbers[most])) - set(numbers.tolist())):
        holds = f"holds {cut(words[most])} in row {first_row(indices == most)}"
        raise BadData(
            f"{file}: column '{cut(name)}' {holds}, but no {gaps[0]}; its values count from 0 without gaps (write "
            "words for other numbers)"
        )
    return Codes(numbers[indices], [str(number) for number in range(numbers[most] + 1)])


def is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def first_row(chosen: Any) -> str:
    """The number of the first row that is chosen."""
    return f"{int(np.argmax(chosen)) + 1:,}"


def splits(file: Path, name: str, values: Any) -> Integers:
    """The split of each row, as its place in SPLITS."""
    indices, words = distinct(file, name, values)
    known = {word: place for place, names in enumerate(SPLITS.values()) for word in names}
    plain = [word.strip().lower().removesuffix(".0") for word in words]
    wrong = [word for word, each in zip(words, plain, strict=True) if each not in known]
    if wrong:
        near = get_close_matches(wrong[0].lower(), known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        row = first_row(indices == words.index(wrong[0]))
        raise BadData(f"{file}: column '{cut(name)}' holds '{cut(wrong[0])}' in row {row}; {hint}expected 0, 1, 2 or "
                      f"{', '.join(SPLITS)}")  # fmt: skip
    return np.array([known[word] for word in plain], np.int64)[indices]


def parse_shares(text: str) -> list[float] | None:
    """The shares in "0.6,0.2,0.2", of training, validation and test, or in "0.8,0.2", without validation.

    None for a text that is a column's name. Errors: UserError for shares that do not sum to 1.
    """
    parts = text.split(",")
    if len(parts) not in (2, 3) or not all(is_number(part) for part in parts):
        return None
    found = [float(part) for part in parts]
    if not all(share > 0 for share in found) or abs(sum(found) - 1) > 1e-6:
        raise UserError(f"the shares {text} do not sum to 1, or not all are above 0: write 0.6,0.2,0.2")
    return found if len(found) == 3 else [found[0], 0.0, found[1]]


def draw_splits(shares: Sequence[float], groups: Integers, seed: int) -> Integers:
    """The split of each row, drawn so that each group [n] is parted by the shares."""
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    sizes = np.bincount(groups)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = (np.arange(len(groups)) - starts + 0.5) / np.repeat(sizes, sizes)
    found = np.empty(len(groups), np.int64)
    found[order] = np.searchsorted(np.cumsum(shares[:-1]), place, side="right")
    return found


def check_classes(file: Path, name: str, label: Codes, split: Integers) -> None:
    """Raise BadData unless there are examples to train and to test on, and training has every class."""
    for place, part in enumerate(SPLITS):
        if part != "validation" and not (split == place).any():
            raise BadData(f"{file}: no rows in the {part} split")
    if len(label.names) < 2:
        raise BadData(f"{file}: column '{cut(name)}' holds '{cut(label.names[0])}' alone; expected two classes or more")
    counts = np.bincount(label.of_row[split == 0], minlength=len(label.names))
    for y, word in enumerate(label.names):
        if not counts[y]:
            rows = label.of_row == y
            raise BadData(
                f"{file}: the label '{cut(word)}' appears in no training row, but in "
                f"{plural(int(rows.sum()), 'other')}, the first is row {first_row(rows)}"
            )
