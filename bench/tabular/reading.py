"""Rows of a file as columns: CSV, JSON lines, Parquet or NumPy's npz. An ambiguous file is refused in one line.

Rows are counted from 1, without the header of a CSV file.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from spurbench.bench.core.errors import BadData, cut
from spurbench.bench.core.terminal import plural

BLOCK = 16 << 20  # bytes parsed at a time; a row may have as many
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
TEXTS = (".csv", ".jsonl", ".ndjson")
FORMATS = (*TEXTS, ".parquet", ".npz")
BOM = codecs.BOM_UTF8

Columns = Mapping[str, Any]
"""Column name → its values: a pyarrow column, or an array [n, ...] of an npz file."""


def read_columns(file: Path, kinds: Sequence[str] = FORMATS) -> Columns:
    """The columns of a file, by name; cells of a CSV file are texts, and null where they are empty.

    Raises BadData for a file of another kind than these, that is damaged, is not UTF-8, or has no rows.
    """
    check_file(file, kinds)
    readers = {".csv": read_csv, ".parquet": read_parquet, ".npz": read_npz}
    try:
        found = readers.get(file.suffix.lower(), read_json)(file)
    except OSError as error:
        raise BadData(f"{file} cannot be read ({error.strerror or first_line(error)})") from None
    except pa.ArrowException as error:
        if file.suffix.lower() in TEXTS:
            check_encoding(file)
        empty = re.search("Empty (CSV|JSON) file", str(error))
        raise BadData(f"{file} has no rows" if empty else f"{file} cannot be read: {first_line(error)}") from None
    if not found or not len(next(iter(found.values()))):
        raise BadData(f"{file} has no rows")
    return found


def check_file(file: Path, kinds: Sequence[str]) -> None:
    """Raise BadData unless there is a file of one of these kinds."""
    if not file.is_file():
        raise BadData(f"{file} is a folder: give the file in it" if file.is_dir() else f"no file {file}")
    if file.suffix.lower() not in kinds:
        raise BadData(f"{file}: expected a file that ends in {' or '.join(kinds)}")


def read_csv(file: Path) -> Columns:
    names = read_header(file)
    wrong: list[Any] = []

    def skip(row: Any) -> str:
        wrong.append(row)
        return "skip"

    table = pyarrow.csv.read_csv(
        file,
        pyarrow.csv.ReadOptions(block_size=BLOCK),
        pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )
    if wrong:
        text, has, expected = wrong[0].text, wrong[0].actual_columns, wrong[0].expected_columns
        why = "a decimal comma, or one in a text? put values with commas in quotation marks" if has > expected else ""
        raise BadData(
            f"{file}: {plural(len(wrong), 'row')} without exactly {expected} columns; the first has {has}: "
            f"'{cut(text)}' ({why or 'truncated, or an unclosed quotation mark?'})"
        )
    with open(file, "rb") as opened:
        if sum(part.count(b'"') for part in iter(lambda: opened.read(BLOCK), b"")) % 2:
            raise BadData(f"{file}: its quotation marks are not in pairs: one in a text is written twice")
    return columns_of(file, table)


def read_header(file: Path) -> list[str]:
    """The names in the first line of a CSV file; raises BadData if it separates columns by something else."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            names = next(csv.reader(opened), [])
    except (UnicodeDecodeError, csv.Error):
        check_encoding(file)
        raise BadData(f"{file}: its first line is no list of column names") from None
    line = ",".join(names)
    if len(names) < 2 and (hint := next((word for mark, word in SEPARATORS.items() if mark in line), "")):
        raise BadData(f"{file}: its first line is '{cut(line)}' (separated by {hint}?); expected commas")
    return names


def read_json(file: Path) -> Columns:
    with open(file, "rb") as opened:
        if opened.read(len(BOM)) != BOM:
            opened.seek(0)
        table = pyarrow.json.read_json(
            pa.PythonFile(opened), pyarrow.json.ReadOptions(block_size=BLOCK), pyarrow.json.ParseOptions()
        )
    return columns_of(file, table)


def read_parquet(file: Path) -> Columns:
    return columns_of(file, pyarrow.parquet.ParquetFile(file, memory_map=True).read())


def read_npz(file: Path) -> Columns:
    """The arrays of an npz file; raises BadData for another file, or for single numbers."""
    if not is_zipfile(file):
        raise BadData(f"{file} cannot be read: it is no npz file, or a part of one; numpy.savez writes them")
    try:
        with np.load(file, allow_pickle=False) as opened:
            found = dict(opened)
    except (ValueError, EOFError, BadZipFile) as error:
        why = "it holds Python objects" if "pickle" in str(error) else first_line(error)
        raise BadData(f"{file} cannot be read: {why}; expected arrays of numbers and texts by name") from None
    if single := [name for name, values in found.items() if not values.ndim]:
        raise BadData(f"{file}: '{cut(single[0])}' is a single value; expected arrays with a row for each example")
    return found


def columns_of(file: Path, table: pa.Table) -> Columns:
    """The columns of a table, without the row numbers that pandas writes into an unnamed first one.

    Raises BadData for two columns of one name, or for text that is not UTF-8.
    """
    names = table.column_names
    if names and not names[0]:
        table, names = table.remove_column(0), names[1:]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadData(f"{file}: {names.count(twice[0])} columns are called '{cut(twice[0])}'; keep only one")
    if unnamed := [i for i, name in enumerate(names, 1) if not name.strip()]:
        raise BadData(f"{file}: column {unnamed[0]} has no name")
    table.validate(full=True)
    return dict(zip(names, table.columns, strict=True))


def check_encoding(file: Path) -> None:
    """Raise BadData, with the place of the first wrong byte, for text that is not UTF-8."""
    decoder, before = codecs.getincrementaldecoder("utf-8")(), 0
    with open(file, "rb") as opened:
        while part := opened.read(BLOCK):
            try:
                decoder.decode(part)
            except UnicodeDecodeError as error:
                at = before + error.start
                raise BadData(f"{file} is not UTF-8 text (byte {at:,}): save it as UTF-8, or fetch it again") from None
            before += len(part) - len(decoder.getstate()[0])


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def column(file: Path, columns: Columns, name: str, option: str) -> Any:
    """The column of that name. Raises BadData, with the nearest name and the option that names another."""
    if name not in columns:
        near = get_close_matches(name, columns, n=1)
        hint = f"the nearest is '{near[0]}'" if near else f"there are: {', '.join(map(cut, list(columns)[:12]))}"
        raise BadData(f"{file}: no column '{cut(name)}'; {hint}; name it with --set {option}=COLUMN")
    return columns[name]


def join_columns(parts: Mapping[Path, Columns], names: Sequence[str], option: str) -> Columns:
    """Columns of several files one after another; errors as for `column`."""
    found = {name: [column(file, columns, name, option) for file, columns in parts.items()] for name in names}
    return {name: pa.chunked_array([chunk for part in each for chunk in part.chunks]) for name, each in found.items()}


def keep_rows(columns: Columns, kept: Any) -> Columns:
    """The rows of columns that are kept, [n] bool."""
    return {name: values.filter(pa.array(kept)) for name, values in columns.items()}
