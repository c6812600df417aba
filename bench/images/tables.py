"""Lists of images as text tables: columns by name, numbers in them. An ambiguous table is refused."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from spurbench.bench.core.errors import BadData

Integers = np.ndarray[Any, np.dtype[np.int64]]
NUMBER = re.compile(r"-?[0-9]{1,6}")  # of a class, an attribute or a split
MOST_BYTES = 512 << 20  # of a list; CelebA's has 26 MB


def columns(file: Path, wanted: Sequence[str]) -> dict[str, list[str]]:
    """Columns of a comma-separated file, by name.

    Raises BadData for a column that is missing or there twice, for a row with more or fewer columns, and for unpaired
    quotation marks.
    """
    rows = csv.reader(io.StringIO(readable(file), newline=""), strict=True)
    try:
        return picked(file, next(rows, []), ((rows.line_num, row) for row in rows), wanted)
    except csv.Error as error:
        raise BadData(f"{file}:{rows.line_num}: {error} (an unclosed quotation mark?)") from None


def readable(file: Path) -> str:
    """The text of a list; raises BadData if it is not text."""
    try:
        if not file.is_file():
            raise BadData(f"{file} is not a file that can be read")
        if (size := file.stat().st_size) > MOST_BYTES:
            raise BadData(f"{file} has {size:,} bytes; a list of images has at most {MOST_BYTES:,}")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8, or fetch it again") from None
    except OSError as error:
        raise BadData(f"{file} cannot be read ({error.strerror})") from None


def picked(
    file: Path, header: Sequence[str], rows: Iterable[tuple[int, list[str]]], wanted: Sequence[str]
) -> dict[str, list[str]]:
    """The wanted columns of rows that come with their line numbers."""
    names = [name.strip() for name in header]
    found: dict[str, list[str]] = {name: [] for name in wanted}
    at = [(column_index(file, names, name, wanted), values) for name, values in found.items()]
    named = max((i + 1 for i, name in enumerate(names) if name), default=0)
    for line, row in rows:
        if not any(row):
            continue
        if len(row) != len(names) or any(row[named:]):
            raise BadData(f"{file}:{line}: {explain_row_length(len(row), names, named)}")
        for i, values in at:
            values.append(row[i])
    return found


def column_index(file: Path, names: Sequence[str], name: str, wanted: Sequence[str]) -> int:
    """The place of the column of that name. Raises BadData if there is none, or another that differs only in case."""
    if not set(wanted) & set(names):
        line = ",".join(names)[:80]
        hint = next((f" (separated by {word}?)" for mark, word in SEPARATORS.items() if mark in line), "")
        expected = f"column names separated by commas, {', '.join(wanted)} among them"
        raise BadData(f"{file}: its first line is {line!r}{hint}; expected {expected}")
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"the nearest is '{near[0]}'" if near else f"there are: {', '.join(names[:12]) or 'none'}"
        raise BadData(f"{file}: no column '{name}'; {hint}")
    alike = [each for each in names if each.casefold() == name.casefold()]
    if len(alike) > 1:
        raise BadData(f"{file}: {len(alike)} columns are called {' and '.join(alike)}; which one? keep only that")
    return names.index(name)


SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def explain_row_length(count: int, names: Sequence[str], named: int) -> str:
    """What is wrong with a row of this many columns."""
    if count < len(names):
        return f"{count} columns, expected {len(names)} (truncated?)"
    more = f"{count} columns, expected {named}"
    return f"{more} (a decimal comma, or one in a name or at the end? put values with commas in quotation marks)"


def integers(file: Path, name: str, values: Sequence[str], allowed: Sequence[int] | None = None) -> Integers:
    """A column as whole numbers, 0 or more, or among `allowed`."""
    for row, value in enumerate(values):
        text = value.strip()
        number = int(text) if NUMBER.fullmatch(text) else None
        right = number is not None and (number in allowed if allowed else number >= 0)
        if not right:
            expected = f"one of {', '.join(map(str, allowed))}" if allowed else "a whole number, 0 or more"
            raise BadData(f"{file}: column '{name}' of image {row + 1} holds {value[:40]!r}, expected {expected}")
    return np.array([int(value) for value in values], np.int64)
