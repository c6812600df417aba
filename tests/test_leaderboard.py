"""Leaderboards: a pure function of records and plans, in every format, nothing hidden and nothing unescaped."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from spurbench.bench import leaderboard
from spurbench.bench.errors import UserError
from spurbench.bench.record import Run, fingerprint, sealed
from spurbench.bench.report import FORMATS, render
from spurbench.bench.store import Unusable

ERM = [23.0, 24.0, 22.5, 25.0, 23.5]
SD = [68.0, 69.0, 67.0, 68.5, 70.0]
OPTIONS = {"train_size": 50000}


BASE = {"dataset": "colored_mnist", "dataset_options": OPTIONS, "protocol_version": 1, "hyper_parameters": {}}


def run(method: str, seed: int, **fields: Any) -> Run:
    rest = {"method": method, "training": {"steps": 1000}, "precision": "bf16", "seed": seed}
    return Run(**(BASE | rest | fields))


def record(one: Run, test: float = 50.0, status: str = "done", train: float = 90.0) -> dict[str, Any]:
    splits = {
        name: {"n": [600, 400], "correct": [share * 6, share * 4], "loss_sum": 500.0, "entropy_sum": 300.0}
        for name, share in (("test", test), ("train", train))
    }
    return sealed(
        {
            "schema": 1, "id": one.id, **one.to_dict(), "status": status, "needs": [],
            "headline": [["test", "accuracy"], ["train", "accuracy"]], "groups": ["y0", "y1"],
            "splits": splits if status == "done" else {}, "measures": {}, "history": [],
            "cause": None if status == "done" else {"kind": "diverged", "message": "at step 3", "detail": ""},
            "cost": {"seconds": 10.0, "seconds_per_step": 0.01, "peak_memory_mb": 100.0, "replicas": 1, "threads": 1},
            "provenance": {"commit": "abc", "versions": {"torch": "2"}, "hardware": {"cpu": "x"}, "device": "cpu"},
        }
    )  # fmt: skip


def cell(method: str, seeds: list[int], label: str = "", **fields: Any) -> dict[str, Any]:
    first = run(method, 0).to_dict()
    ids = [run(method, seed).id for seed in seeds]
    selection = {"rule": "test_accuracy", "oracle": True, "text": "test-set oracle"}
    rest = {"label": label or method, "published": method, "na": None, "seeds": seeds, "ids": ids, "search": None}
    return first | rest | {"selection": selection} | fields


def plan(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"schema": 1, "grid": "g", "description": "", "notes": ["a smaller budget"], "cells": list(cells),
            "selection": {"rule": "none", "oracle": False, "text": "as given"}}  # fmt: skip


SEEDS = list(range(5))
PLAN = plan(
    cell("erm", SEEDS),
    cell("sd", SEEDS),
    cell("irm", [], na="needs environments", published=None),
    cell("rex", SEEDS, published=None),
    cell("oracle", SEEDS),
)
RECORDS = [record(run(m, seed), value) for m, values in (("erm", ERM), ("sd", SD)) for seed, value in enumerate(values)]
RECORDS += [record(run("oracle", seed), 73.0 + seed / 10) for seed in SEEDS]
RECORDS += [record(run("rex", 0), 60.0), record(run("rex", 1), status="failed")]


def board(**options: Any) -> leaderboard.Leaderboard:
    return leaderboard.build(RECORDS, [PLAN], [Unusable("records/ab/abc.json", "truncated")], **options)


def by_label(metric: str = "accuracy", split: str = "test") -> dict[str, leaderboard.Row]:
    return {row.label: row for row in board().rows if (row.split, row.metric) == (split, metric)}


def test_numbers_of_a_row() -> None:
    row = by_label()["sd"]
    assert (row.n, row.n_planned, row.mean, row.unit) == (5, 5, pytest.approx(68.5), "%")
    assert row.std == pytest.approx(1.118034) and row.std_ddof0 == pytest.approx(1.0)
    assert (row.ci95_low, row.ci95_high) == (pytest.approx(67.1118, abs=1e-3), pytest.approx(69.8882, abs=1e-3))
    assert (row.published_mean, row.published_std, row.published_ddof) == (68.4, 1.2, 0)
    assert row.published_difference == pytest.approx(0.1) and "Table 2" in str(row.published_source)
    assert row.baseline == "erm" and row.baseline_difference == pytest.approx(44.9)
    assert row.p_sign_flip == pytest.approx(0.0625) and row.among_best


def test_nothing_is_silently_missing() -> None:
    rows = by_label()
    assert rows["irm"].na == "needs environments" and rows["irm"].n == 0
    assert (rows["rex"].n, rows["rex"].n_planned, rows["rex"].failed, rows["rex"].waiting) == (1, 5, 1, 3)
    assert rows["rex"].failures == [{"kind": "diverged", "message": "at step 3", "seeds": [1]}]
    assert list(rows) == ["erm", "sd", "irm", "rex", "oracle"] and rows["oracle"].reference
    assert not rows["oracle"].among_best


def test_published_numbers_only_beside_the_papers_own_budget() -> None:
    assert by_label()["rex"].published_mean is None
    changed = plan(cell("erm", SEEDS, dataset_options={"train_size": 10}))
    (row, _) = leaderboard.build([], [changed]).rows
    assert row.published_mean is None and (row.n, row.n_planned) == (0, 5)


def test_records_without_a_plan_are_told_apart_by_what_differs() -> None:
    records = [record(run("sd", 0, hyper_parameters={"coef": c})) for c in (0.1, 0.2)]
    labels = {row.label for row in leaderboard.build(records, []).rows}
    assert len(labels) == 2 and all("coef" in label for label in labels)


def test_all_metrics() -> None:
    found = {(row.split, row.metric) for row in board(all_metrics=True).rows}
    assert {("test", "worst_group_accuracy"), ("test", "entropy"), ("train", "loss")} <= found


def test_what_a_run_was_asked_for_is_shown() -> None:
    one = record(run("erm", 0))
    one["measures"] = {"test": {"further_pgd_accuracy": 0.25, "pgd_accuracy": 0.5}}
    (table,) = leaderboard.build([sealed(one)]).sections
    assert ("test", "further_pgd_accuracy") in table.columns and ("test", "pgd_accuracy") not in table.columns


def test_json_has_the_promised_keys() -> None:
    keys = "dataset method split metric selection n n_planned mean std ci95_low ci95_high".split()
    keys += ["published_mean", "published_std", "published_source"]
    rows = json.loads(render(board(), "json"))
    assert isinstance(rows, list) and all(set(keys) <= set(row) for row in rows)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_says_what_matters(format_: str) -> None:
    text = render(board(), format_)
    for words in ("68.4", "68.5", "rex") if format_ in ("csv", "json") else ("68.4 ±", "68.50", "1/5", "truncated"):
        assert words.replace("±", r"$\pm$") in text if format_ == "latex" else words in text, words
    if format_ not in ("csv", "json"):
        assert "needs environments" in text and "a smaller budget" in text and "diverged" in text


def test_csv_is_read_back() -> None:
    rows = list(csv.DictReader(io.StringIO(render(board(), "csv"))))
    assert (
        len(rows) == len(board().rows) and rows[2]["method"] == "sd" and float(rows[2]["mean"]) == pytest.approx(68.5)
    )


def test_unknown_format() -> None:
    with pytest.raises(UserError, match="did you mean html"):
        render(board(), "htm")


def test_names_of_plugins_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    page = render(leaderboard.build([], [plan(cell("erm", SEEDS, label=evil))]), "html")
    assert evil not in page and "&lt;script&gt;alert(1)" in page
    assert evil not in render(leaderboard.build([], [plan(cell("erm", SEEDS, label=evil))]), "markdown")
    assert r"a\_b\&c" in render(leaderboard.build([], [plan(cell("erm", SEEDS, label="a_b&c"))]), "latex")


def test_the_page_needs_no_network() -> None:
    page = render(board(), "html")
    assert "://" not in page and "src=" not in page and "@import" not in page


def test_ten_thousand_records_are_grouped_once() -> None:
    """Each experiment is one row however many seeds it has."""
    records = [record(run("sd", seed, hyper_parameters={"c": c})) for c in range(4) for seed in range(50)]
    rows = leaderboard.build(records, []).rows
    assert len(rows) == 8 and all(row.n == 50 for row in rows)
    assert len({fingerprint(row.hyper_parameters) for row in rows}) == 4


def test_a_method_worse_than_chance_in_training_does_not_compete() -> None:
    lff = [record(run("lff", seed), 90.0 + seed / 10, train=15.0) for seed in SEEDS]
    made = leaderboard.build([*RECORDS, *lff], [PLAN, plan(cell("lff", SEEDS))])
    rows = {row.method: row for row in made.rows if row.split == "test"}
    assert rows["lff"].below_chance and not rows["lff"].among_best
    assert rows["sd"].among_best and not rows["sd"].below_chance
    assert "lff: worse than chance in training" in render(made, "markdown")
