"""What of a leaderboard is shown: of several stores, some rows, other columns, another order, in which format."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_cell, make_counts, make_plan, make_record

from spurbench.bench.records.record import Record
from spurbench.bench.store.store import Store

LEVELS = {"erm": 60, "sd": 80, "lff": 70, "oracle": 90}


def record(method: str, seed: int, right: float, dataset: str = "pairs", **fields: Any) -> Record:
    splits = {name: make_counts(right + seed, right - 10, loss=200 - right) for name in ("test", "train")}
    return make_record(dataset=dataset, method=method, seed=seed, splits=splits, groups=["y0", "y1"],
                       headline=[("test", "accuracy"), ("train", "accuracy")], **fields)  # fmt: skip


def fill(root: Path, methods: dict[str, float], seeds: range, grid: str = "g", dataset: str = "pairs") -> Store:
    store = Store.open(root, create=True)
    for method, right in methods.items():
        for seed in seeds:
            store.write_record(record(method, seed, right, dataset))
    cells = [make_cell(dataset=dataset, method=method, seeds=list(seeds)) for method in methods]
    store.write_plan(make_plan(grid=grid, cells=cells))
    return store


@pytest.fixture
def rows(command: Any) -> Any:
    """The rows that `leaderboard` gives, as they come."""

    def asked(*arguments: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(command("leaderboard", *arguments, "--format", "json").stdout)
        return found

    return asked


def test_several_stores_are_read_as_if_they_were_merged(tmp_path: Path, command: Any, rows: Any) -> None:
    fill(tmp_path / "a", LEVELS, range(0, 3), "here")
    fill(tmp_path / "b", {"erm": 60, "sd": 80}, range(2, 6), "there").pack(tmp_path / "b.jsonl.gz")
    before = sorted(path for path in tmp_path.rglob("*"))
    found = rows(tmp_path / "a", tmp_path / "b.jsonl.gz")
    assert sorted(path for path in tmp_path.rglob("*")) == before, "nothing is written"
    counts = {row["method"]: row["n"] for row in found}
    assert counts == {"erm": 6, "sd": 6, "lff": 3, "oracle": 3}
    command("merge", tmp_path / "c", tmp_path / "a", tmp_path / "b.jsonl.gz")
    assert found == rows(tmp_path / "c")
    said = command("leaderboard", tmp_path / "a", tmp_path / "b", "--grid", "nowhere", code=2).stderr
    assert f"no grid in {tmp_path / 'a'} and {tmp_path / 'b'} 'nowhere'" in said


def test_contradictions_between_stores_are_named(tmp_path: Path, command: Any) -> None:
    fill(tmp_path / "a", {"erm": 60}, range(2))
    other = fill(tmp_path / "b", {"erm": 60}, range(1))
    other.write_record(record("erm", 1, 61))
    (id,) = (one.id for one in other.records()[0] if one.seed == 1)
    said = command("leaderboard", tmp_path / "a", tmp_path / "b", code=2).stderr
    assert f"1 run with finished records that differ: {id} of {tmp_path / 'a'} and {tmp_path / 'b'}" in said
    assert said.count("\n") == 1 and "`spurbench merge` with --keep" in said


def test_what_is_not_used_of_several_stores_says_of_which(tmp_path: Path, command: Any) -> None:
    fill(tmp_path / "a", {"erm": 60}, range(2))
    fill(tmp_path / "b", {"sd": 60}, range(2), "h")
    (damaged, _) = sorted((tmp_path / "b").glob("records/*/*.json"))
    damaged.write_text("{")
    said = " ".join(command("leaderboard", tmp_path / "a", tmp_path / "b").stdout.split())
    assert f"not used: {tmp_path / 'b'}: records/" in said


def test_only_shows_some_rows_and_leaves_their_numbers_alone(tmp_path: Path, command: Any, rows: Any) -> None:
    fill(tmp_path / "s", LEVELS, range(6))
    fill(tmp_path / "s", LEVELS, range(6), "h", "triples")
    whole = rows(tmp_path / "s")
    some = rows(tmp_path / "s", "--only", "pairs/s*", "--only", "triples")
    wanted = [row for row in whole if row["dataset"] == "triples" or row["method"] == "sd"]
    assert some == wanted and {row["method"] for row in some if row["p_holm"] is not None} == {"sd", "lff"}
    said = command("leaderboard", tmp_path / "s", "--only", "sd").stdout
    assert "6 of 8 rows are not shown" in said and "lff" not in said
    said = command("leaderboard", tmp_path / "s", "--only", "sdd", code=2).stderr
    assert "no dataset, method or label in the leaderboard 'sdd'; did you mean sd?" in said


def test_columns_are_shown_instead_of_the_main_ones(tmp_path: Path, command: Any, rows: Any) -> None:
    store = fill(tmp_path / "s", LEVELS, range(2))
    store.write_record(record("erm", 0, 50, "triples", measures={"test": {"margin": 1.0}}))
    found = rows(store.root, "--columns", "test/worst_group_accuracy, test/loss")
    assert {(row["split"], row["metric"]) for row in found} == {("test", "worst_group_accuracy"), ("test", "loss")}
    assert [row["metric"] for row in found[:2]] == ["worst_group_accuracy", "loss"], "in this order"
    assert {row["dataset"] for row in rows(store.root, "--columns", "test/margin")} == {"triples"}
    assert "pairs has none of these columns" in command("leaderboard", store.root, "--columns", "test/margin").stdout
    for text, words in [
        ("test/acuracy", "no column 'test/acuracy'; did you mean test/accuracy? there are: test/accuracy, "),
        ("accuracy", "no column 'accuracy': expected split/metric"),
        ("", "no column '': expected split/metric"),
        ("test/loss,test/loss", "the column test/loss is given twice"),
    ]:
        said = command("leaderboard", store.root, "--columns", text, code=2).stderr
        assert words in said and said.count("\n") == 1


def test_rows_are_ordered_by_a_column(tmp_path: Path, command: Any, rows: Any) -> None:
    store = fill(tmp_path / "s", LEVELS, range(3))
    store.write_plan(make_plan(grid="h", cells=[make_cell(dataset="pairs", method="irm", seeds=[], na="needs it")]))

    def order(*options: str) -> list[str]:
        return list(dict.fromkeys(row["method"] for row in rows(store.root, *options)))

    assert order() == ["erm", "sd", "lff", "irm", "oracle"]
    assert order("--sort", "test/accuracy") == ["sd", "lff", "erm", "irm", "oracle"], "references stay below"
    assert order("--columns", "test/loss", "--sort", "test/loss") == ["sd", "lff", "erm", "irm", "oracle"]
    assert order("--sort", "method") == ["erm", "irm", "lff", "sd", "oracle"]
    said = command("leaderboard", store.root, "--sort", "test/acc", code=2).stderr
    assert "no column to sort by 'test/acc'; did you mean test/accuracy? there are: method, test/accuracy," in said


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("b.md", "##"), ("b.MD", "##"), ("b.tex", r"\begin"), ("b.csv", "dataset,method,"), ("b.json", "["),
        ("b.html", "<!doctype"), ("b.htm", "<!doctype"), ("b.txt", "pairs"), ("b", "pairs"), ("b.html.bak", "pairs"),
    ],
)  # fmt: skip
def test_the_format_follows_the_files_ending(tmp_path: Path, command: Any, name: str, begins: str) -> None:
    fill(tmp_path / "s", {"erm": 60}, range(2))
    command("leaderboard", tmp_path / "s", "--out", tmp_path / name)
    assert begins in (tmp_path / name).read_text().lower()[:200]
    command("leaderboard", tmp_path / "s", "--out", tmp_path / name, "--format", "csv")
    assert (tmp_path / name).read_text().startswith("dataset,method,"), "unless it is named"
