"""Leaderboards: a pure function of records and plans, in every format, nothing hidden and nothing unescaped."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_cell, make_counts, make_plan, make_record, make_search

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.formats.render import format_names, render
from spurbench.bench.leaderboard import build
from spurbench.bench.leaderboard.cell_results import CellResult, make_labels_unique
from spurbench.bench.leaderboard.rows import Row
from spurbench.bench.leaderboard.view import parse_columns, sort_rows
from spurbench.bench.records.parsing import Unusable
from spurbench.bench.records.plan import Cell, Choice, Plan
from spurbench.bench.records.record import Counts, Look, Record
from spurbench.bench.records.run import Run

ERM = [23.0, 24.0, 22.5, 25.0, 23.5]
SD = [68.0, 69.0, 67.0, 68.5, 70.0]
OPTIONS = {"train_size": 50000}


BASE: dict[str, Any] = {
    "dataset": "colored_mnist",
    "dataset_options": OPTIONS,
    "protocol_version": 1,
    "hyper_parameters": {},
}


def run(method: str, seed: int, **fields: Any) -> Run:
    rest = {"method": method, "training": {"steps": 1000}, "precision": "bf16", "seed": seed}
    return Run(**(BASE | rest | fields))


def record(one: Run, test: float = 50.0, status: str = "done", train: float = 90.0, **fields: Any) -> Record:
    splits = {
        name: make_counts(share * 6, share * 4, n=(600, 400), loss=500.0, entropy=300.0)
        for name, share in (("test", test), ("train", train))
    }
    done = status == "done"
    rest = {
        "status": status, "cause": None if done else {"kind": "diverged", "message": "at step 3", "detail": ""},
        "splits": splits if done else {}, "headline": [["test", "accuracy"], ["train", "accuracy"]],
        "groups": ["y0", "y1"], "cost": {"seconds": 10.0, "seconds_per_step": 0.01, "peak_memory_mb": 100.0},
        "provenance": {"commit": "abc", "versions": {"torch": "2"}, "hardware": {"cpu": "x"}, "device": "cpu"},
    }  # fmt: skip
    return make_record(**one.to_dict() | rest | fields)


ORACLE = Choice("test_accuracy", True, "test-set oracle")
AS_GIVEN = Choice("none", text="as given")


def cell(method: str, seeds: list[int], label: str = "", **fields: Any) -> Cell:
    rest = {"label": label or method, "published": method, "seeds": seeds, "selection": ORACLE}
    return make_cell(**run(method, 0).to_dict() | rest | fields)


def plan(*cells: Cell, **fields: Any) -> Plan:
    return make_plan(**{"grid": "g", "notes": ["a smaller budget"], "cells": cells, "selection": AS_GIVEN} | fields)


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


def board(**options: Any) -> build.Leaderboard:
    return build.build(RECORDS, [PLAN], [Unusable("records/ab/abc.json", "truncated")], **options)


def by_label(metric: str = "accuracy", split: str = "test") -> dict[str, Row]:
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
    (row, _) = build.build([], [changed]).rows
    assert row.published_mean is None and (row.n, row.n_planned) == (0, 5)


def test_records_without_a_plan_are_told_apart_by_what_differs() -> None:
    records = [record(run("sd", 0, hyper_parameters={"coef": c})) for c in (0.1, 0.2)]
    labels = {row.label for row in build.build(records, []).rows}
    assert len(labels) == 2 and all("coef" in label for label in labels)


def test_all_metrics() -> None:
    found = {(row.split, row.metric) for row in board(all_metrics=True).rows}
    assert {("test", "worst_group_accuracy"), ("test", "entropy"), ("train", "loss")} <= found


def test_what_a_run_was_asked_for_is_shown() -> None:
    one = record(run("erm", 0), measures={"test": {"further_pgd_accuracy": 0.25, "pgd_accuracy": 0.5}})
    (table,) = build.build([one]).sections
    assert ("test", "further_pgd_accuracy") in table.columns and ("test", "pgd_accuracy") not in table.columns


def test_json_has_the_promised_keys() -> None:
    keys = "dataset method split metric selection n n_planned mean std ci95_low ci95_high".split()
    keys += ["published_mean", "published_std", "published_source"]
    rows = json.loads(render(board(), "json"))
    assert isinstance(rows, list) and all(set(keys) <= set(row) for row in rows)


@pytest.mark.parametrize("format_", format_names())
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
    page = render(build.build([], [plan(cell("erm", SEEDS, label=evil))]), "html")
    assert evil not in page and "&lt;script&gt;alert(1)" in page
    assert evil not in render(build.build([], [plan(cell("erm", SEEDS, label=evil))]), "markdown")
    assert r"a\_b\&c" in render(build.build([], [plan(cell("erm", SEEDS, label="a_b&c"))]), "latex")


def test_the_page_needs_no_network() -> None:
    page = render(board(), "html")
    assert "://" not in page and "src=" not in page and "@import" not in page


def test_ten_thousand_records_are_grouped_once() -> None:
    """Each experiment is one row however many seeds it has."""
    records = [record(run("sd", seed, hyper_parameters={"c": c})) for c in range(4) for seed in range(50)]
    rows = build.build(records, []).rows
    assert len(rows) == 8 and all(row.n == 50 for row in rows)
    assert len({fingerprint(row.hyper_parameters) for row in rows}) == 4


def test_a_rounded_random_guess_is_not_worse_than_chance() -> None:
    guess = [record(run("random", seed), 50.0, train=49.9) for seed in SEEDS]
    made = build.build(guess, [plan(cell("random", SEEDS))])
    assert all(row.reference and not row.below_chance for row in made.rows)


def test_a_method_worse_than_chance_in_training_does_not_compete() -> None:
    lff = [record(run("lff", seed), 90.0 + seed / 10, train=15.0) for seed in SEEDS]
    made = build.build([*RECORDS, *lff], [PLAN, plan(cell("lff", SEEDS))])
    rows = {row.method: row for row in made.rows if row.split == "test"}
    assert rows["lff"].below_chance and not rows["lff"].among_best
    assert rows["sd"].among_best and not rows["sd"].below_chance
    ordered = [row.method for row in sort_rows(made, "test/accuracy").rows if row.split == "test"]
    assert ordered.index("lff") > ordered.index("sd")
    assert "lff: worse than chance in training" in render(made, "markdown")


# ---- versions -----------------------------------------------------------------------------------------------------


def made_by(one: Record, method: str = "m1", dataset: str = "d1", data: str = "x", day: int = 1) -> Record:
    code = {"method": method, "dataset": dataset}
    return one.with_(provenance=replace(one.provenance, code=code, data=data, finished=f"2026-01-{day:02}"))


def main_rows(records: list[Record], *cells: Cell, changed: tuple[str, ...] = (), **options: Any) -> dict[str, Row]:
    """The rows of the main column, by label; of the versions `changed` the method's file has changed since."""

    def edited(one: Record) -> list[str]:
        return [f"{one.method}.py"] if one.provenance.code.get("method") in changed else []

    made = build.build(records, [plan(*cells)] if cells else [], edited=edited, **options)
    return {line[0].label: line[0] for section in made.sections for line in section.lines}


def test_a_mean_is_over_runs_of_one_version() -> None:
    old = [made_by(record(run("sd", seed), 10.0), "old") for seed in range(6)]
    new = [made_by(record(run("sd", seed), 90.0), "new") for seed in range(6, 8)]
    seeds = list(range(9))
    row = main_rows([*old, *new], cell("sd", seeds), changed=("old",))["sd"]
    assert (row.mean, row.n, row.n_planned, row.waiting, row.seeds) == (90.0, 2, 9, 1, [6, 7])
    assert row.left_out == [0, 1, 2, 3, 4, 5]
    assert "made by an earlier version of sd.py: seeds 0, 1, 2, 3, 4, 5" in row.notes[0] and "--fresh" in row.notes[0]
    row = main_rows([*old, *new], cell("sd", seeds), changed=("old", "new"))["sd"]
    assert (row.mean, row.n) == (10.0, 6), "of two versions of before, the one of most runs"
    assert "made before sd.py changed" in row.notes[1] and "--fresh" in row.notes[1]
    row = main_rows([*old, *new], cell("sd", seeds))["sd"]
    assert (row.mean, row.left_out) == (10.0, [6, 7]) and "another version of the method's file" in row.notes[0]


def test_of_versions_with_as_many_runs_the_newest_counts() -> None:
    records = [made_by(record(run("sd", s), 10.0 + s), f"v{s // 2}", day=9 - s) for s in range(4)]
    assert main_rows(records, cell("sd", SEEDS[:4]))["sd"].seeds == [0, 1]


def test_failed_runs_of_another_version_are_not_counted_either() -> None:
    failed = made_by(record(run("sd", 0), status="failed"), "old")
    row = main_rows([failed, made_by(record(run("sd", 1)), "new")], cell("sd", [0, 1]), changed=("old",))["sd"]
    assert (row.failed, row.n, row.left_out, row.waiting) == (0, 1, [0], 0)


def test_a_row_of_an_earlier_version_keeps_its_number_with_a_word() -> None:
    records = [made_by(record(run("sd", seed), 50.0), "old") for seed in SEEDS]
    row = main_rows(records, cell("sd", SEEDS), changed=("old",))["sd"]
    assert (row.mean, row.n, row.left_out) == (50.0, 5, []) and row.notes == [
        "made before sd.py changed; `spurbench run` with --fresh trains its runs again"
    ]
    made = build.build(records, [plan(cell("sd", SEEDS))], edited=lambda one: ["sd.py"])
    for format_ in format_names():
        assert "made before sd.py changed" in render(made, format_), format_


def test_records_that_do_not_say_what_made_them_contradict_none_and_join_no_two() -> None:
    silent = [record(run("sd", seed), 10.0) for seed in (0, 1)]
    first, second = (made_by(record(run("sd", s), 20.0), v) for s, v in ((2, "m1"), (3, "m2")))
    row = main_rows([*silent, first], cell("sd", [0, 1, 2]))["sd"]
    assert row.n == 3 and row.notes == ["the records of seeds 0, 1 do not say which version of its files made them"]
    row = main_rows([*silent, first, second], cell("sd", [0, 1, 2, 3]))["sd"]
    assert row.n == 3 and len(row.left_out) == 1
    assert main_rows(silent, cell("sd", [0, 1]))["sd"].notes == []


@pytest.mark.parametrize(("part", "word"), [("dataset", "the dataset's file"), ("data", "the data")])
def test_rows_of_other_data_are_not_compared(part: str, word: str) -> None:
    erm = [made_by(record(run("erm", s), 20.0 + s)) for s in SEEDS]
    same = [made_by(record(run("lff", s), 30.0 + s)) for s in SEEDS]
    other = [made_by(record(run("sd", s), 90.0 + s), **{part: "another"}) for s in SEEDS]
    rows = main_rows([*erm, *same, *other], cell("erm", SEEDS), cell("lff", SEEDS), cell("sd", SEEDS))
    assert (rows["sd"].baseline, rows["sd"].p_holm, rows["sd"].among_best) == (None, None, None)
    assert rows["sd"].notes == [f"made with another version of {word} than erm; lff: not compared with these"]
    assert rows["lff"].baseline == "erm" and rows["lff"].among_best and rows["lff"].notes == []


def test_a_search_by_runs_of_another_version_is_said() -> None:
    draw = run("sd", 7, hyper_parameters={"c": 1})
    records = [made_by(record(draw), "old"), made_by(record(run("sd", 0)), "new")]
    row = main_rows(records, cell("sd", [0], search=make_search(draw)), changed=("old",))["sd"]
    assert row.notes == ["its search was made by an earlier version of sd.py"]


# ---- what was used ------------------------------------------------------------------------------------------------


def four(share: float) -> Counts:
    return make_counts(*[share] * 4)


def looked(one: Run, value: float, needs: tuple[str, ...] = ()) -> Record:
    """A record of four groups that was scored after 500 of its 1,000 steps too; validation is better there."""
    looks = [Look(500, {"validation": four(90), "test": four(value)})]
    splits = {"validation": four(10), "test": four(1), "train": four(99)}
    names = ["y0a0", "y0a1", "y1a0", "y1a1"]
    return record(one, looks=looks, splits=splits, groups=names, needs=sorted(needs))


EVALUATED = {"steps": 1000, "evaluate": 500}
BY_GROUPS = Choice("validation_worst_group", text="worst-group accuracy on validation")


def chosen_cell(method: str, seeds: list[int] = SEEDS, rule: Choice = BY_GROUPS, **fields: Any) -> Cell:
    return cell(method, seeds, training=EVALUATED, selection=rule, **fields)


def test_what_was_used_in_training_search_and_selection_is_told_apart() -> None:
    draw = run("sd", 9, hyper_parameters={"c": 1}, training=EVALUATED)
    text = "1 draw; chosen by worst-group accuracy on validation"
    search = make_search(draw, rule="validation_worst_group", text=text)
    records = [looked(run("group_dro", s, training=EVALUATED), 70.0, ("groups",)) for s in SEEDS]
    records += [looked(run("sd", s, training=EVALUATED), 60.0) for s in SEEDS] + [looked(draw, 50.0)]
    records += [record(run("erm", s)) for s in SEEDS]
    rows = main_rows(records, cell("erm", SEEDS), chosen_cell("group_dro"), chosen_cell("sd", search=search))
    assert rows["erm"].regime == "train: labels", "a rule with nothing to choose used nothing"
    assert "said to be chosen by test-set oracle; last step scored" in rows["erm"].selection
    assert rows["group_dro"].regime == "train: labels + groups; selection: validation groups"
    assert rows["sd"].regime == "train: labels; search and selection: validation groups"
    assert rows["sd"].selection.endswith("; the step of each run likewise")
    assert rows["sd"].used == {
        "train": ["labels"], "search": ["validation groups"], "selection": ["validation groups"]
    }  # fmt: skip


def test_balanced_draws_use_groups_in_training() -> None:
    records = [record(run("erm", 0, training={"steps": 1000, "balanced": True}))]
    assert main_rows(records)["erm"].regime == "train: labels + groups"


def test_rows_that_other_information_chose_are_shown_beside_each_other_but_not_tested() -> None:
    plainly = [record(run("erm", s), 20.0 + s) for s in SEEDS]
    records = [looked(run("sd", s, training=EVALUATED), 60.0 + s) for s in SEEDS]
    row = main_rows([*plainly, *records], cell("erm", SEEDS), chosen_cell("sd"))["sd"]
    assert row.baseline_difference == pytest.approx(40.0) and row.baseline_used == {}
    assert (row.p_sign_flip, row.p_holm, row.comparisons) == (None, None, 0)
    alike = [looked(run("erm", s, training=EVALUATED), 30.0 + s) for s in SEEDS]
    cells = cell("erm", SEEDS), chosen_cell("erm", label="erm, chosen"), chosen_cell("sd")
    row = main_rows([*plainly, *alike, *records], *cells)["sd"]
    assert row.baseline == "erm, chosen" and row.baseline_difference == pytest.approx(30.0)
    assert row.p_sign_flip == pytest.approx(0.0625) and row.baseline_used is None


def test_the_best_are_those_that_no_row_with_as_little_information_beats() -> None:
    values = {"erm": (20.0, ()), "sd": (60.0, ()), "irm": (50.0, ("environments",)), "group_dro": (70.0, ("groups",))}
    records = [record(run(m, s), v + s, needs=n) for m, (v, n) in values.items() for s in SEEDS]
    rows = main_rows(records)
    assert {name: row.among_best for name, row in rows.items()} == {
        "erm": False, "sd": True, "irm": False, "group_dro": True,
    }  # fmt: skip
    alone = main_rows([one for one in records if one.method in ("erm", "group_dro")])
    assert (alone["erm"].among_best, alone["group_dro"].among_best) == (None, True)


# ---- of one step, or marked ---------------------------------------------------------------------------------------


def test_what_is_of_another_step_than_the_row_is_marked_in_every_format() -> None:
    records = [looked(run("sd", s, training=EVALUATED), 60.0) for s in SEEDS]
    made = build.build(records, [plan(chosen_cell("sd"))])
    rows = {(row.split, row.metric): row for row in made.rows}
    test, train = rows["test", "accuracy"], rows["train", "accuracy"]
    assert (test.mean, test.steps, test.chosen_steps, test.other_step) == (60.0, [500] * 5, [500] * 5, False)
    assert (train.mean, train.steps, train.chosen_steps, train.other_step) == (99.0, [1000] * 5, [500] * 5, True)
    for format_, sign in (("table", "§"), ("markdown", "§"), ("html", "§"), ("latex", r"\S{}")):
        text = render(made, format_)
        assert f"99.00 ± 0.00{sign}".replace("±", r"$\pm$" if format_ == "latex" else "±") in text, format_
        assert "step scored" in text and "60.00 ± 0.00§" not in text
    assert json.loads(render(made, "json"))[1]["other_step"] is True
    assert [line["other_step"] for line in csv.DictReader(io.StringIO(render(made, "csv")))] == ["False", "True"]


def test_a_number_of_several_splits_is_of_one_step() -> None:
    """Training environments are scored after the last step only, so the least of them and test is of that step."""
    one = looked(run("sd", 0, training=EVALUATED), 60.0)
    splits = one.splits | {"train_e0": four(99), "train_e1": four(99)}
    one = one.with_(splits=splits, headline=[("environments", "worst_accuracy"), ("test", "accuracy")])
    (worst, test) = build.build([one], [plan(chosen_cell("sd", [0]))]).rows
    assert (worst.mean, worst.steps, worst.other_step) == (1.0, [1000], True) and test.mean == 60.0


def test_unplanned_seeds_are_scored_by_the_rule_of_their_row() -> None:
    records = [looked(run("sd", s, training=EVALUATED), 60.0) for s in SEEDS]
    assert main_rows(records, chosen_cell("sd", [0, 1]))["sd"].values == [60.0] * 5


def test_two_rules_for_the_steps_of_the_same_runs_are_two_rows() -> None:
    records = [looked(run("sd", s, training=EVALUATED), 60.0) for s in SEEDS]
    rows = main_rows(records, chosen_cell("sd"), chosen_cell("sd", rule=AS_GIVEN))
    assert {label: row.mean for label, row in rows.items()} == {
        "sd (selection=validation_worst_group)": 60.0, "sd (selection=none)": 1.0,
    }  # fmt: skip


def test_ties_are_counted() -> None:
    records = [looked(run("sd", s, training=EVALUATED), 60.0) for s in SEEDS]
    for one in records[:3]:  # the last step is as good by the worst group, two of them are in everything
        one.looks[0].splits["validation"] = make_counts(10, 10, 10, 50)
    for one in records[:2]:
        one.splits["validation"] = make_counts(10, 10, 10, 50)
    made = build.build(records, [plan(chosen_cell("sd"))])
    assert (made.rows[0].tied, made.rows[0].latest) == (3, 2) and made.rows[0].steps == [1000, 1000, 500, 500, 500]
    said = "sd: 3 of 5 runs chose among tied steps; ties broken by average accuracy, then lower loss; 2 of them tied in"
    assert said in render(made, "markdown")


def test_a_rule_that_could_choose_no_step_is_said() -> None:
    records = [looked(run("sd", s, training=EVALUATED), 60.0) for s in SEEDS]
    row = main_rows(records, chosen_cell("sd", rule=Choice("train_accuracy", text="training accuracy")))["sd"]
    assert row.mean == 1.0 and row.notes == [
        "rule train_accuracy needs the split train to choose a step: the last is scored"
    ]
    assert row.regime == "train: labels"


# ---- few runs, few groups, few percent -----------------------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "tested"), [(4, False), (5, True)])
def test_below_five_seeds_nothing_is_tested_and_nothing_is_the_best(seeds: int, tested: bool) -> None:
    records = [record(run(m, s), v + s) for m, v in (("erm", 20.0), ("sd", 60.0)) for s in range(seeds)]
    row = main_rows(records)["sd"]
    assert (row.p_sign_flip is not None, row.p_holm is not None, row.among_best is not None) == (tested,) * 3
    assert row.baseline_difference == pytest.approx(40.0)
    text = render(build.build(records), "markdown")
    assert ("no p, fewer than 5 seeds in common with the baseline: sd" in text) is not tested
    assert ("*" in text.replace("**", "")) is tested and (
        "* among best" in render(build.build(records), "html")
    ) is tested


def test_seeds_count_only_where_both_rows_have_them() -> None:
    records = [record(run("erm", s), 20.0 + s) for s in range(6)] + [
        record(run("sd", s), 60.0 + s) for s in range(2, 9)
    ]
    row = main_rows(records)["sd"]
    assert (row.n, row.baseline_n, row.p_holm, row.among_best) == (7, 4, None, None)


def test_a_row_that_beats_the_best_on_all_seeds_they_share_is_starred_beside_it() -> None:
    """The one with the best mean has further seeds, which were easier."""
    erm = [record(run("erm", s), 80 + s / 10 if s < 5 else 90.0) for s in range(10)]
    sd = [record(run("sd", s), 83 + s / 9) for s in range(5)]
    rows = main_rows(erm + sd)
    assert (rows["erm"].mean or 0) > (rows["sd"].mean or 0) and rows["erm"].among_best and rows["sd"].among_best


def test_a_number_of_fewer_runs_than_the_row_is_said() -> None:
    records = [record(run("erm", s), measures={"test": {"margin": 0.1}} if s < 2 else {}) for s in SEEDS]
    for columns in ("test/accuracy,test/margin", "test/margin,test/accuracy"):
        made = build.build(records, [plan(cell("erm", SEEDS))], columns=parse_columns(columns))
        assert "erm: 3 finished runs without test margin" in render(made, "markdown")


def test_rows_that_share_a_label_are_told_apart() -> None:
    """By what they start from, and by numbers that look alike when they are rounded."""

    def result(gamma: float, base: str = "", grid: str = "g") -> CellResult:
        return CellResult("d", {}, 1, "afr", {"gamma": gamma}, {}, "float32", "afr", grids=[grid],
                          base={"method": base, "step": grid} if base else None)  # fmt: skip

    results = [result(1.0), result(1.0000001), result(1.0, "erm"), result(1.0, "erm", "h")]
    make_labels_unique(results)
    assert [one.label for one in results] == [
        "afr (gamma=1, base=None)", "afr (gamma=1.0000001, base=None)", "afr (gamma=1, base=erm) [g]",
        "afr (gamma=1, base=erm) [h]",
    ]  # fmt: skip


def test_intervals_of_accuracies_stay_within_what_is_possible() -> None:
    records = [record(run(m, s), v) for m, both in (("erm", (5, 95)), ("sd", (95, 5))) for s, v in enumerate(both)]
    rows = main_rows(records)
    assert (rows["erm"].ci95_low, rows["erm"].ci95_high) == (0.0, 100.0)
    assert (rows["sd"].baseline_ci95_low, rows["sd"].baseline_ci95_high) == (-100.0, 100.0)


def test_a_worst_group_without_one_of_the_groups_is_marked() -> None:
    one = looked(run("sd", 0), 60.0)
    without, by_classes = make_counts(90, 80, 0, 70, n=(100, 100, 0, 100)), make_counts(100, 50, n=200)
    splits = one.splits | {"test": without, "validation": by_classes}
    columns = [("test", "worst_group_accuracy"), ("test", "accuracy"), ("validation", "worst_group_accuracy")]
    made = build.build([one.with_(splits=splits, headline=columns)])
    worst, average, by_class = made.rows
    assert (worst.mean, worst.partial) == (70.0, "over 3 of 4 groups: test has no y1a0") and average.partial == ""
    assert by_class.partial == "over 2 classes: validation has no attribute"
    for format_ in ("table", "markdown", "html"):
        text = render(made, format_)
        assert "70.00‡" in text and "test worst group accuracy over 3 of 4 groups: test has no y1a0" in text, format_
    assert r"70.00$^\ddagger$" in render(made, "latex")
    one = one.with_(splits=splits | {"train": without}, headline=columns)
    assert build.build([one]).rows[0].partial == "", "no group is missed that training has not"


def test_the_number_of_classes_is_the_records_own() -> None:
    def named(classes: int | None) -> Record:
        names = {"groups": ["left", "right"]} if classes else {}
        return record(run("sd", 0), train=40.0, classes=classes, **names)

    assert not main_rows([named(3)])["sd"].below_chance
    assert main_rows([named(2)])["sd"].below_chance and main_rows([named(None)])["sd"].below_chance


# ---- several plans ------------------------------------------------------------------------------------------------


def searching(grid: str, chosen: int | None, rule: str = "test_accuracy") -> tuple[Plan, list[Record]]:
    """The plan of a search by seed 9 for the settings that seeds 0 to 2 run with, and the records of its draws."""
    draws = [run("sd", 9, hyper_parameters={"c": c}) for c in (1, 2)]
    search = make_search(*draws, rule=rule, chosen=chosen)
    one = cell("sd", [0, 1, 2], hyper_parameters=None if chosen is None else {"c": 1}, search=search)
    return plan(one, grid=grid), [record(draw, 40.0) for draw in draws]


def test_draws_of_a_plan_that_was_replaced_are_no_results() -> None:
    _, draws = searching("g", 0)
    own = [record(run("sd", s, hyper_parameters={"c": 1}), 60.0) for s in range(3)]
    replaced = plan(cell("erm", [0]), superseded=[draw.id for draw in draws])
    rows = {row.label: row for row in build.build([*draws, *own], [replaced]).rows if row.split == "test"}
    assert (rows["sd"].n, rows["sd"].mean) == (3, 60.0) and set(rows) == {"erm", "sd"}


@pytest.mark.parametrize("chosen", [[0, 0], [None, None], [None, 0], [0, None]])
def test_two_plans_of_the_same_cells_are_one(chosen: list[int | None]) -> None:
    """Also where one is an older copy, from before its search ended."""
    plans, draws = zip(*(searching(f"g{i}", one) for i, one in enumerate(chosen)), strict=True)
    own = [record(run("sd", s, hyper_parameters={"c": 1}), 60.0) for s in range(3)] if 0 in chosen else []
    made = build.build([*draws[0], *own], list(plans))
    assert len(made.sections[0].lines) == 1 and made.rows[0].n == len(own)
    assert made.notes == ["g0, g1: a smaller budget"]


def test_different_searches_are_different_rows() -> None:
    (one, draws), (other, _) = searching("g", None), searching("h", None, "worst_environment")
    assert len(build.build(draws, [one, other]).sections[0].lines) == 2
