"""Metrics by the numbers of their formulas; each is one file, of ours or of a user."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import inf, log
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_counts

from spurbench.bench.core.errors import UserError
from spurbench.bench.evaluation.counting import count
from spurbench.bench.plugin_files.discovery import FOLDERS
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data, Split
from spurbench.bench.plugins.metric import CountedMetric, Metric, Predictions, tally
from spurbench.bench.records import metrics
from tests.test_leaderboard import record, run
from tests.test_selection import looked_at

METRIC = '''"""The share of examples whose confidence is above a threshold.

Needs: predictions.
"""
from dataclasses import dataclass
from spurbench.bench.plugins.metric import Metric, Predictions, setting

@dataclass(frozen=True)
class Sure(Metric):
    unit = "%"
    higher_is_better = False
    limits = (0.0, 100.0)
    threshold: float = setting(0.89, low=0, high=1)

    def value(self, predictions: Predictions) -> float | None:
        return float((predictions.probabilities.max(-1) > self.threshold).mean())
'''


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    registry.forget_plugins()


def metric(name: str) -> Metric:
    found = registry.metric(name)
    assert found is not None
    return found


def logit(p: float) -> float:
    return log(p / (1 - p))


# probability of class 1, label, group: of group 0 and 1 (label 0), 2 and 3 (label 1)
EXAMPLES = [(0.1, 0, 0), (0.2, 0, 0), (0.7, 0, 1), (0.9, 1, 2), (0.6, 1, 3), (0.4, 1, 3)]


def one_logit() -> Predictions:
    z, y, group = ([logit(p) for p, _, _ in EXAMPLES], [y for _, y, _ in EXAMPLES], [g for *_, g in EXAMPLES])
    return Predictions(np.array(z, np.float32), np.array(y), np.array(group), classes=2, attributes=2)


def two_logits() -> Predictions:
    one = one_logit()
    return Predictions(np.stack([one.logits * 0 + 3, one.logits + 3], -1), one.y, one.group, 2, 2)


def three_classes() -> Predictions:
    p = np.array([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.3, 0.6]])
    return Predictions(np.log(p).astype(np.float32), np.array([0, 0, 1, 2]), np.array([0, 0, 1, 2]), classes=3)


@pytest.mark.parametrize("predictions", [one_logit(), two_logits()], ids=["one logit", "two logits"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 4 / 6),
        ("balanced_accuracy", (2 / 3 + 2 / 3) / 2),
        ("worst_group_accuracy", 0.0),
        ("unbiased_accuracy", (1 + 0 + 1 + 1 / 2) / 4),
        ("auroc", 7 / 9),  # of 9 pairs, 0.7 is above 0.6 and 0.4
        ("brier", 2 * (0.1**2 + 0.2**2 + 0.7**2 + 0.1**2 + 0.4**2 + 0.6**2) / 6),
        ("nll", -log(0.9 * 0.8 * 0.3 * 0.9 * 0.6 * 0.4) / 6),
        ("loss", -log(0.9 * 0.8 * 0.3 * 0.9 * 0.6 * 0.4) / 6),
        # bins of a fifteenth: 0.9 twice, both right; 0.8 right; 0.7 wrong; 0.6 twice, one right
        ("ece", (2 * 0.1 + 0.2 + 0.7 + abs(1 - 1.2)) / 6),
        ("worst_group_nll", -log(0.3)),
        ("worst_group_brier", 2 * 0.7**2),
        ("worst_group_ece", 0.7),
        ("worst_group_balanced_accuracy", 0.0),
        ("worst_group_auroc", None),  # a group has examples of one class
        ("worst_environment_ece", "no metric"),
        ("worst_group_entropy", "no metric"),  # neither way is better
    ],
)
def test_two_classes(predictions: Predictions, name: str, expected: float | str | None) -> None:
    if expected == "no metric":
        assert registry.metric(name) is None
        return
    assert metric(name).value(predictions) == (None if expected is None else pytest.approx(expected, abs=1e-6))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 3 / 4),
        ("balanced_accuracy", (1 / 2 + 1 + 1) / 3),
        ("auroc", None),
        ("brier", (0.5**2 + 2 * 0.25**2 + 0.8**2 + 0.7**2 + 3 * 0.1**2 + 0.2**2 + 0.1**2 + 0.3**2 + 0.4**2) / 4),
        ("nll", -log(0.5 * 0.2 * 0.8 * 0.6) / 4),
        ("ece", (0.5 + 0.7 + 0.2 + 0.4) / 4),
        ("worst_group_nll", -log(0.6)),
    ],
)  # fmt: skip
def test_three_classes(name: str, expected: float | None) -> None:
    if name == "worst_group_nll":  # of classes 0, 1, 2
        expected = max(-log(0.5 * 0.2) / 2, -log(0.8), -log(0.6))
    assert metric(name).value(three_classes()) == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_calibration_has_bins_that_are_open_below() -> None:
    """Confidences 1 and just above 1/2: a bin each; a sure network that is right is calibrated."""
    sure = Predictions(np.array([50.0, -50.0]), np.array([1, 0]), np.array([1, 0]), 2)
    assert metric("ece").value(sure) == pytest.approx(0.0)
    many = Predictions(np.full(10, logit(0.75)), np.array([1] * 7 + [0] * 3), np.zeros(10, int), 2)
    assert metric("ece").value(many) == pytest.approx(0.05)


def test_numbers_of_logits_that_are_very_sure() -> None:
    wrong = Predictions(np.array([200.0], np.float32), np.array([0]), np.array([0]), 2)
    assert metric("nll").value(wrong) == pytest.approx(200.0)
    assert metric("brier").value(wrong) == pytest.approx(2.0) and metric("entropy").value(wrong) == pytest.approx(0.0)


def test_one_class_alone_has_no_roc_curve() -> None:
    one = one_logit()
    assert metric("auroc").value(one.only(one.y == 1)) is None
    assert metric("balanced_accuracy").value(one.only(one.y == 1)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("predictions", [one_logit(), three_classes()], ids=["one logit", "three"])
def test_predictions_are_counted_as_in_records(predictions: Predictions) -> None:
    attribute = torch.tensor(predictions.group - predictions.y * 2) if predictions.attributes == 2 else None
    split = Split(torch.zeros(len(predictions.y), 1), torch.tensor(predictions.y), attribute)
    data = Data(split, {}, classes=predictions.classes, attributes=predictions.attributes)
    wanted, found = count(torch.tensor(predictions.logits), split, data), tally(predictions)
    assert (found.n, found.correct) == (wanted.n, wanted.correct)
    assert found.loss_sum == pytest.approx(wanted.loss_sum) and found.entropy_sum == pytest.approx(wanted.entropy_sum)


def test_ours_say_what_they_are() -> None:
    shown = {
        name: (metrics.unit_of(name), metrics.limits(name), metrics.direction(name)) for name in registry.metrics()
    }
    percent, of_loss = ("%", (0.0, 100.0), True), ("nats", (0.0, inf), False)
    shares = [name for name in shown if name.endswith("accuracy")]
    assert len(shares) == 8 and all(shown.pop(name) == percent for name in shares)
    assert shown == {
        "auroc": ("", (0.0, 1.0), True), "brier": ("", (0.0, 2.0), False), "ece": ("", (0.0, 1.0), False),
        "entropy": ("nats", (0.0, inf), None), "loss": of_loss, "nll": of_loss,
    }  # fmt: skip
    assert metrics.limits("worst_group_brier") == (0.0, 2.0) and metrics.direction("worst_group_ece") is False
    assert metrics.unit_of("worst_group_balanced_accuracy") == "%"
    assert metrics.direction("pgd_accuracy") is True and metrics.limits("some_share") == (0.0, 1.0), "a dataset's own"


def test_ours_are_read_as_they_are_imported() -> None:
    for name, info in registry.plugins("metric").items():
        assert info.problem is None and info.summary and info.sections["Needs"], name
        found, facts = metric(name), info.facts
        assert facts.get("unit", "") == found.unit and facts.get("higher_is_better") == found.higher_is_better
        assert facts["limits"] == found.limits
        assert facts.get("counted", False) == isinstance(found, CountedMetric)
    assert {one.stem for one in FOLDERS["metric"].glob("[a-z]*.py")} == set(registry.metrics())


def test_columns_stand_in_their_order() -> None:
    one = record(run("erm", 0)).with_(splits={"test": make_counts(1, 2), "train": make_counts(3, 4)})
    first = ["accuracy", "worst_group_accuracy", "unbiased_accuracy", "entropy", "loss"]
    assert metrics.columns_of(one) == [(split, name) for split in ("test", "train") for name in first]
    spoilt = one.with_(conflicting=[1], splits=one.splits | {"train_e0": make_counts(1, 1)})
    rest = metrics.columns_of(spoilt)[15:]
    assert rest[0] == ("environments", "worst_accuracy") and metrics.value(spoilt, rest[0]) == 1.0
    assert rest[1:3] == [("test", "bias_conflicting_accuracy"), ("test", "adjusted_accuracy")] and len(rest) == 7


def test_a_users_metric_is_one_file(tmp_path: Path) -> None:
    assert registry.metric("sure") is None and metrics.unit_of("sure") == ""
    (tmp_path / "sure.py").write_text(METRIC)
    assert registry.add_plugin(tmp_path / "sure.py").kind == "metric"
    assert metric("sure").value(one_logit()) == pytest.approx(2 / 6)
    assert (metrics.unit_of("sure"), metrics.direction("sure"), metrics.limits("sure")) == ("%", False, (0.0, 100.0))
    assert metrics.direction("worst_group_sure") is False
    one = looked_at().with_(measures={"test": {"sure": 0.25}})
    assert metrics.value(one, ("test", "sure")) == 25.0


COUNTED = '''"""How far the best group is from the worst.

Needs: nothing but counts.
"""
from spurbench.bench.plugins.counts import by_group
from spurbench.bench.plugins.metric import CountedMetric

class Gap(CountedMetric):
    unit = "%"
    higher_is_better = False
    limits = (0.0, 100.0)
    per_group = True

    def of_counts(self, seen):
        each = by_group(seen.counts)
        return max(each) - min(each)
'''


def test_a_users_metric_from_counts_is_on_every_leaderboard(tmp_path: Path) -> None:
    (tmp_path / "gap.py").write_text(COUNTED)
    registry.add_plugin(tmp_path / "gap.py")
    one = looked_at()
    assert ("test", "gap") in metrics.columns_of(one)
    assert metrics.value(one.with_(splits={"test": make_counts(20, 90)}), ("test", "gap")) == pytest.approx(70.0)
    registry.forget_plugins()
    assert ("test", "gap") not in metrics.columns_of(one) and metrics.value(one, ("test", "gap")) is None


def test_a_metric_that_does_not_import_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(METRIC + "raise RuntimeError('first')\n")
    registry.add_plugin(tmp_path / "late.py")
    with pytest.raises(UserError, match="metric 'late' does not import: RuntimeError: first"):
        registry.metrics()
