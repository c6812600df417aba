"""Rules choose a step of a run after training, and a draw of a search, by what they are allowed to look at."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_counts

from spurbench.bench.jobs.scoring import score_random_guess
from spurbench.bench.leaderboard.build import build
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.counts import unbiased_accuracy
from spurbench.bench.plugins.dataset import Data, Split
from spurbench.bench.records.metrics import columns_of, value
from spurbench.bench.records.plan import Choice
from spurbench.bench.records.record import Counts, Look, Record
from spurbench.bench.records.selection import Selected, at_its_best, lack, mean_scores, used_by
from tests.test_leaderboard import cell, plan, record, run

GROUPS = ["y0a0", "y0a1", "y1a0", "y1a1"]


def trained(looks: Mapping[int, tuple[Counts, Counts]], steps: int = 1000) -> Record:
    """A record scored on validation and test at these steps, the last of which is its end."""
    points = [Look(step, {"validation": v, "test": t}) for step, (v, t) in looks.items()]
    ended = points[-1].splits | {"train": make_counts(100, 100)}
    points = points if points[-1].step < steps else points[:-1]
    return record(run("erm", 0, training={"steps": steps, "evaluate": 100}), looks=points, splits=ended)


def looked_at() -> Record:
    """Average validation is best at step 200, its worst group at 100, the test at 300; the last step is 1000."""
    seen = {100: ((80, 70), (60, 61)), 200: ((95, 60), (62, 63)), 300: ((70, 60), (99, 98)), 1000: ((90, 60), (50, 51))}
    looks = {step: (make_counts(*v), make_counts(*t)) for step, (v, t) in seen.items()}
    return trained(looks)


def chosen(one: Record, rule: str) -> Selected:
    """The record at the step that the rule chooses."""
    found = at_its_best(one, rule)
    assert isinstance(found, Selected)
    return found


@pytest.mark.parametrize(
    ("rule", "step", "test"),
    [("validation_accuracy", 200, 62.5), ("validation_worst_group", 100, 60.5), ("test_accuracy", 300, 98.5),
     ("worst_group", 300, 98.5), ("none", None, 50.5)],
)  # fmt: skip
def test_a_rule_chooses_the_step(rule: str, step: int | None, test: float) -> None:
    found = at_its_best(looked_at(), rule)
    assert getattr(found, "chosen_step", None) == step and value(found, ("test", "accuracy")) == test
    assert value(found, ("train", "accuracy")) == 100.0  # of the last step


def test_searches_and_leaderboards_use_the_chosen_step() -> None:
    one = looked_at()
    scores = mean_scores("validation_accuracy", [one, one])
    assert scores is not None and scores[0] == pytest.approx(0.775)
    rule = Choice("validation_worst_group", text="worst group on validation")
    board = build([one], [plan(cell("erm", [0], training=one.training, selection=rule))], headlines={})
    assert board.rows[0].mean == 60.5 and board.rows[0].selection_oracle is False


def test_a_record_not_looked_at_keeps_its_last_step() -> None:
    one = record(run("erm", 0))
    assert at_its_best(one, "test_accuracy") == one and at_its_best(looked_at(), "worst_environment").splits["test"]


def test_bias_conflicting_accuracy_is_over_the_groups_that_mislead() -> None:
    """Check N30: the mean of g0 and g3."""
    one = looked_at().with_(splits={"test": make_counts(96, 99, 83, 40)}, conflicting=[0, 3])
    assert value(one, ("test", "bias_conflicting_accuracy")) == pytest.approx(68.0)
    assert value(looked_at(), ("test", "bias_conflicting_accuracy")) is None


def test_a_random_guess_has_it_too() -> None:
    split = Split(torch.zeros(8, 1), torch.arange(8) % 2, torch.arange(8) // 2 % 2)
    dataset: Any = SimpleNamespace(misleading=lambda: (1, 2))
    guess = score_random_guess(record(run("random", 0)), Data(split, {"test": split}, attributes=2), dataset)
    assert value(guess, ("test", "bias_conflicting_accuracy")) == pytest.approx(50.0)


def test_a_split_without_the_attribute_has_no_number_over_groups_that_mislead() -> None:
    """It is counted by class, beside splits that are counted by group."""
    splits = {"train": make_counts(5, 5, n=9), "test": make_counts(20, 40, 60, 80)}
    one = looked_at().with_(splits=splits, conflicting=[0, 3], groups=GROUPS)
    assert value(one, ("test", "bias_conflicting_accuracy")) == pytest.approx(50.0)
    columns = [("train", "bias_conflicting_accuracy"), ("train", "adjusted_accuracy"), ("test", "adjusted_accuracy")]
    assert [value(one, column) for column in columns] == [None] * 3


def test_adjusted_accuracy_weighs_groups_as_training_does() -> None:
    """Check N30, with the groups of CelebA."""
    training, test = make_counts(0, 0, 0, 0, n=(71629, 66874, 22880, 1387)), make_counts(96, 99, 83, 40)
    one = looked_at().with_(splits={"train": training, "test": test}, conflicting=[0, 3])
    assert value(one, ("test", "adjusted_accuracy")) == pytest.approx(94.92800, abs=1e-5)
    assert ("test", "adjusted_accuracy") in columns_of(one)
    assert value(one.with_(splits={"test": test}), ("test", "adjusted_accuracy")) is None


def test_unbiased_accuracy_is_the_mean_over_groups() -> None:
    assert unbiased_accuracy(make_counts(96, 99, 83, 40)) == pytest.approx(0.795)  # check N30
    assert unbiased_accuracy(make_counts(0, 5, n=(0, 10))) == 0.5 and unbiased_accuracy(None) is None


# ---- equal scores -------------------------------------------------------------------------------------------------


def test_tied_worst_groups_are_decided_by_the_average_and_then_the_loss() -> None:
    """A worst group of 0 at every look says nothing of the step."""
    untrained, better = make_counts(0, 50), make_counts(0, 90)
    looks = {100: (untrained, make_counts(0, 80)), 200: (better, make_counts(20, 95))}
    one = trained(looks | {1000: (make_counts(0, 80), make_counts(1, 2))})
    found = chosen(one, "validation_worst_group")
    assert (found.chosen_step, found.ties) == (200, (3, 1))
    low, high = make_counts(50, 50, loss=2.0), make_counts(50, 50, loss=9.0)
    two = trained({100: (high, untrained), 200: (low, better), 1000: (high, untrained)})
    assert chosen(two, "validation_worst_group").chosen_step == 200
    assert chosen(two, "validation_accuracy").ties == (3, 1)


def test_of_steps_equal_in_everything_the_latest_is_taken() -> None:
    """An equal score never goes to the model that was trained least."""
    same = make_counts(0, 50)
    one = trained({100 * i: (same, make_counts(i, i)) for i in (1, 2, 3)}, steps=300)
    found = chosen(one, "validation_worst_group")
    assert (found.chosen_step, found.ties) == (300, (3, 3)) and found.splits == one.splits


def test_a_last_look_is_not_counted_beside_the_end_it_is() -> None:
    one = trained({100: (make_counts(50, 60), make_counts(1, 1)), 1000: (make_counts(70, 60), make_counts(2, 2))})
    one.looks.append(Look(1000, {name: one.splits[name] for name in ("validation", "test")}))
    assert chosen(one, "validation_accuracy").ties == (1, 1)


@pytest.mark.parametrize("name", [name for name in registry.rules() if not registry.rule(name).oracle])
def test_what_parts_equal_scores_does_not_look_at_the_test_set(name: str) -> None:
    splits = {"validation": make_counts(0, 50), "train": make_counts(0, 50), "test": make_counts(1, 2)}
    blind = {split: found for split, found in splits.items() if split != "test"}
    others = splits | {"test": make_counts(99, 98, loss=0.1)}
    scores = registry.rule(name).scores
    assert scores(splits) == scores(blind) == scores(others)


def test_choosing_twice_is_choosing_once() -> None:
    once = chosen(looked_at(), "validation_accuracy")
    assert at_its_best(once, "validation_accuracy") == once
    assert chosen(once, "validation_worst_group").chosen_step == 100


def test_a_failed_run_that_was_scored_on_the_way_has_no_step() -> None:
    failed = looked_at().with_(status="failed", splits={})
    assert at_its_best(failed, "validation_accuracy") == failed
    assert mean_scores("validation_accuracy", [failed]) is None


def test_tied_draws_are_decided_by_the_next_criterion() -> None:
    def draw(*right: int) -> Record:
        return record(run("erm", 0), splits={"validation": make_counts(*right)})

    first, second = (mean_scores("validation_worst_group", [draw(*right), draw(*right[::-1])])
                     for right in ((0, 50), (0, 90)))  # fmt: skip
    assert first is not None and second is not None and first[0] == second[0] and second > first
    thirds = [mean_scores("validation_accuracy", [draw(a, b) for a, b in pairs])
              for pairs in ([(10, 20), (30, 33)], [(30, 33), (10, 20)])]  # fmt: skip
    assert thirds[0] == thirds[1], "the same means in another order are equal"


@pytest.mark.parametrize(
    ("rule", "splits", "needs"),
    [("validation_accuracy", ["train", "test"], "needs the split validation"),
     ("worst_environment", ["train", "validation"], "needs environments in training and the split test"),
     ("worst_environment", ["train", "train_e0", "test"], None), ("none", [], None)],
)  # fmt: skip
def test_what_a_rule_lacks_is_said(rule: str, splits: list[str], needs: str | None) -> None:
    found = lack(rule, splits)
    assert found == needs if needs is None else needs in str(found)


def test_a_rule_uses_groups_only_where_there_are_groups() -> None:
    one = looked_at().with_(groups=GROUPS)
    assert used_by("validation_worst_group", one) == ["validation groups"]
    assert used_by("validation_worst_group", one.with_(classes=4)) == ["validation labels"]
    assert used_by("validation_worst_group", looked_at()) == ["validation labels"]  # y0, y1
