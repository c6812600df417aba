"""Rules choose a step of a run after training, and a draw of a search, by what they are allowed to look at."""

from __future__ import annotations

from typing import Any

import pytest

from spurbench.bench.leaderboard import build, columns_of, value
from spurbench.bench.selection import at_its_best, mean_score, unbiased
from tests.test_leaderboard import cell, plan, record, run


def counts(*right: int) -> dict[str, Any]:
    return {"n": [100] * len(right), "correct": list(right), "loss_sum": 1.0, "entropy_sum": 1.0}


def looked_at() -> dict[str, Any]:
    """Average validation is best at step 200, its worst group at 100, the test at 300; the last step is 1000."""
    seen = {100: ((80, 70), (60, 61)), 200: ((95, 60), (62, 63)), 300: ((70, 60), (99, 98)), 1000: ((90, 60), (50, 51))}
    looks = [{"step": s, "splits": {"validation": counts(*v), "test": counts(*t)}} for s, (v, t) in seen.items()]
    last = {**looks[-1]["splits"], "train": counts(100, 100)}
    return record(run("erm", 0)) | {"looks": looks[:-1], "splits": last}


@pytest.mark.parametrize(
    ("rule", "step", "test"),
    [("validation_accuracy", 200, 62.5), ("validation_worst_group", 100, 60.5), ("test_accuracy", 300, 98.5),
     ("worst_group", 300, 98.5), ("none", None, 50.5)],
)  # fmt: skip
def test_a_rule_chooses_the_step(rule: str, step: int | None, test: float) -> None:
    chosen = at_its_best(looked_at(), rule)
    assert chosen.get("chosen_step") == step and value(chosen, ("test", "accuracy")) == test
    assert value(chosen, ("train", "accuracy")) == 100.0  # of the last step


def test_searches_and_leaderboards_use_the_chosen_step() -> None:
    one = looked_at()
    assert mean_score("validation_accuracy", [one, one]) == pytest.approx(0.775)
    rule = {"rule": "validation_worst_group", "oracle": False, "text": "worst group on validation"}
    board = build([one], [plan(cell("erm", [0], selection=rule))], headlines={})
    assert board.rows[0].mean == 60.5 and board.rows[0].selection_oracle is False


def test_a_record_not_looked_at_keeps_its_last_step() -> None:
    one = record(run("erm", 0))
    assert at_its_best(one, "test_accuracy") == one and at_its_best(looked_at(), "worst_environment")["splits"]["test"]


def test_bias_conflicting_accuracy_is_over_the_groups_that_mislead() -> None:
    """Check N30: the mean of g0 and g3."""
    one = looked_at() | {"splits": {"test": counts(96, 99, 83, 40)}, "conflicting": [0, 3]}
    assert value(one, ("test", "bias_conflicting_accuracy")) == pytest.approx(68.0)
    assert value(looked_at(), ("test", "bias_conflicting_accuracy")) is None


def test_adjusted_accuracy_weighs_groups_as_training_does() -> None:
    """Check N30, with the groups of CelebA."""
    training = {"n": [71629, 66874, 22880, 1387], "correct": [0] * 4}
    one = looked_at() | {"splits": {"train": training, "test": counts(96, 99, 83, 40)}, "conflicting": [0, 3]}
    assert value(one, ("test", "adjusted_accuracy")) == pytest.approx(94.92800, abs=1e-5)
    assert ("test", "adjusted_accuracy") in columns_of(one)
    assert value(one | {"splits": {"test": counts(96, 99, 83, 40)}}, ("test", "adjusted_accuracy")) is None


def test_unbiased_accuracy_is_the_mean_over_groups() -> None:
    assert unbiased(counts(96, 99, 83, 40)) == pytest.approx(0.795)  # check N30
    assert unbiased({"n": [0, 10], "correct": [0, 5]}) == 0.5 and unbiased(None) is None
