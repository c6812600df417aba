"""New metrics of old runs: from the predictions kept of them, at the last step and at the one a rule chooses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_counts, make_plan

from spurbench.bench.core.errors import UserError
from spurbench.bench.evaluation.rescoring import describe_outcome, rescore
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.metric import Predictions
from spurbench.bench.records.metrics import columns_of, step_of, value
from spurbench.bench.records.plan import Choice
from spurbench.bench.records.record import Record, agree
from spurbench.bench.records.selection import at_its_best
from spurbench.bench.store import predictions
from spurbench.bench.store.predictions import Labels
from spurbench.bench.store.store import Store
from tests.test_leaderboard import cell, record, run
from tests.test_logits import RIGHT, of_step
from tests.test_metrics import METRIC
from tests.test_selection import trained

Y = np.repeat([0, 1], 100)
RULE = "validation_accuracy"  # chooses step 500
LOSSES = {step: np.log1p(np.exp(1.0)) - right / 100 for step, right in RIGHT.items()}  # logits are 1 or −1
"""Step → mean loss: ln(1 + e) where wrong, ln(1 + e) − 1 where right."""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    registry.forget_plugins()


@pytest.fixture
def one() -> Record:
    return trained({step: (make_counts(right, right), make_counts(right, right)) for step, right in RIGHT.items()})


@pytest.fixture
def store(tmp_path: Path, one: Record) -> Store:
    """A store with one run, its predictions, and a plan with a rule that chooses a step of it."""
    made = Store.open(tmp_path / "store", create=True)
    logits = {f"{split}@{step}": of_step(RIGHT[step]) for step in (250, 500) for split in ("validation", "test")}
    logits |= {split: of_step(RIGHT[1000]) for split in ("validation", "test", "train")}
    kept = predictions.keep(made, one.id, logits, {split: Labels(Y, Y) for split in ("validation", "test", "train")})
    made.write_record(one.with_(predictions=kept))
    rule = Choice(RULE, text="validation accuracy")
    made.write_plan(make_plan(grid="g", cells=[cell("erm", [0], training=one.training, selection=rule)]))
    return made


def test_kept_predictions_say_what_the_examples_are(store: Store, one: Record) -> None:
    for rule, step, splits in (("none", 1000, {"validation", "test", "train"}), (RULE, 500, {"validation", "test"})):
        kept = predictions.load_predictions(store, one, rule)
        assert kept.step == step and kept.logits.keys() == kept.y.keys() == kept.group.keys() == splits
        assert (kept.y["test"] == Y).all() and (kept.id["test"] == np.arange(200)).all()


def test_metrics_are_of_the_last_step_and_of_the_chosen_one(store: Store, one: Record) -> None:
    outcome = rescore(store, ["nll", "worst_group_nll"])
    assert (outcome.scored, outcome.new, outcome.without) == (1, 1, 0)
    found = store.record(one.id)
    assert found is not None and set(found.measures) == {"train", "validation", "test", "validation@500", "test@500"}
    assert found.measures["test@500"]["nll"] == pytest.approx(LOSSES[500])
    assert found.measures["test"]["worst_group_nll"] == pytest.approx(LOSSES[1000])
    best = at_its_best(found, RULE)
    column = ("test", "nll")
    assert (value(best, column), step_of(best, column)) == (pytest.approx(LOSSES[500]), 500)
    assert (value(found, column), step_of(found, column)) == (pytest.approx(LOSSES[1000]), 1000)
    assert step_of(best, ("train", "nll")) == 1000, "training is kept of the last step alone"
    by_test = at_its_best(found, "train_accuracy")
    assert step_of(by_test, column) == 1000
    assert column in columns_of(best) and not any("@" in split for split, _ in columns_of(best))


def test_again_it_changes_nothing(store: Store, one: Record) -> None:
    rescore(store, ["ece"])
    file = store.path("records", one.id, ".json")
    before, mark = file.read_bytes(), file.stat().st_mtime_ns
    outcome = rescore(store, ["ece"], ["test"])
    assert (outcome.scored, outcome.new) == (1, 0)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (before, mark)
    assert rescore(store, ["brier"], ["test"]).new == 1
    found = store.record(one.id)
    assert found is not None and set(found.measures["test"]) == {"ece", "brier"}
    assert set(found.measures["train"]) == {"ece"} and agree(found, one), "a merge sees no contradiction"


def test_what_cannot_be_scored_is_counted(store: Store, one: Record, tmp_path: Path) -> None:
    for seed in (1, 2, 3, 4):
        store.write_record(record(run("erm", seed)))
    bare = store.path("predictions", run("erm", 2).id, ".npz")
    bare.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(bare, test=of_step(50))
    broken = store.path("predictions", run("erm", 3).id, ".npz")
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"PK")
    predictions.keep(store, run("erm", 4).id, {"test": of_step(50)}, {"test": Labels(Y, Y)})
    assert Store.open(store.root).claims.take(run("erm", 4).id)
    outcome = rescore(store, ["auroc", "worst_group_auroc"])
    assert (outcome.scored, outcome.without, outcome.unlabelled, outcome.busy) == (1, 1, 1, 1)
    assert len(outcome.damaged) == 1 and "the file is damaged" in outcome.damaged[0]
    assert outcome.undefined["worst_group_auroc of test"] == 1 and not outcome.undefined["auroc of test"]
    lines = describe_outcome(outcome)
    assert "1 run has no predictions; a run in a new store keeps them" in lines
    assert any("without labels and groups, by an earlier spurbench" in line for line in lines)


@pytest.mark.parametrize(
    ("names", "splits", "words"),
    [(["eec"], [], "no metric of predictions 'eec'; did you mean ece?"),
     (["worst_group_eec"], [], "did you mean worst_group_ece?"),
     (["accuracy"], [], "accuracy is computed from counts and is on every leaderboard"),
     (["worst_group_entropy"], [], "entropy is neither better when higher nor when lower"),
     (["ece"], ["tset"], "no split 'tset'; did you mean test?")],
)  # fmt: skip
def test_what_there_is_not_is_one_line(store: Store, names: list[str], splits: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        rescore(store, names, splits)
    assert words in str(error.value)


def test_a_users_metric_is_scored_and_one_that_fails_is_named(store: Store, tmp_path: Path, command: Any) -> None:
    """One file of the user's, and leaderboards know its unit and which way is better."""
    (tmp_path / "sure.py").write_text(METRIC.replace("0.89", "0.7"))
    (tmp_path / "bad.py").write_text(METRIC.replace("float((predictions.probabilities", "float((predictions.nothing"))
    said = command("rescore", store.root, "--metric", "sure", "--plugin", tmp_path / "sure.py", "--split", "test")
    assert said.stdout.splitlines()[0] == "1 run has these metrics, 1 of them new"
    board = command("leaderboard", store.root, "--all", "--format", "json", "--plugin", tmp_path / "sure.py")
    (row,) = (row for row in json.loads(board.stdout) if (row["split"], row["metric"]) == ("test", "sure"))
    assert (row["unit"], row["higher_is_better"], row["values"], row["steps"]) == ("%", False, [100.0], [500])
    said = command("rescore", store.root, "--metric", "bad", "--plugin", tmp_path / "bad.py", code=2)
    assert "the metric bad fails on " in said.stderr and len(said.stderr.splitlines()) == 1


DATASET = """
from dataclasses import dataclass
import torch
from spurbench.bench.plugins.dataset import Data, Dataset, Split, Training

@dataclass(frozen=True)
class Tiny(Dataset):
    provides = frozenset({"groups"})
    splits = ("validation", "test")
    conflicting = (1, 2)
    training = Training(steps=20, evaluate=8, width=4)

    def load(self, seed, build):
        draw = torch.Generator().manual_seed(seed)
        def split(n):
            y, a = torch.randint(2, (2, n), generator=draw)
            y[:4], a[:4] = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
            return Split(torch.stack([y - 0.5, a - 0.5], 1) + torch.randn(n, 2, generator=draw), y, a)
        train, validation, test = (split(n) for n in (40, 30, 50))
        return Data(train, {"validation": validation, "test": test}, attributes=2), build(train.x[:2])
"""


def test_a_run_keeps_what_a_metric_needs(command: Any, tmp_path: Path) -> None:
    """Loss and accuracy of what is kept are those of the record, at every step that was scored."""
    (tmp_path / "tiny.py").write_text(DATASET)
    given = ("--plugin", tmp_path / "tiny.py")
    command("run", "--dataset", "tiny", "--method", "erm", "--seeds", "0", "--store", tmp_path / "s", *given)
    store = Store.open(tmp_path / "s")
    (one,) = store.whole_records()
    arrays = predictions.load_arrays(store, one.id)
    names = {f"{split}@{step}" for split in ("validation", "test") for step in (8, 16)}
    names |= {f"{what}{split}" for what in ("", "y/", "group/", "id/") for split in ("train", "validation", "test")}
    assert set(arrays) == names and len(arrays["group/test"]) == 50
    for step, splits in [(look.step, look.splits) for look in one.looks] + [(20, one.splits)]:
        kept = predictions.of_step(arrays, one, step)
        for split in kept.logits:
            seen = Predictions(kept.logits[split], kept.y[split], kept.group[split], 2, 2)
            nll, accuracy = registry.metrics()["nll"].value(seen), registry.metrics()["accuracy"].value(seen)
            of = splits[split]
            assert nll == pytest.approx(of.loss_sum / sum(of.n)) and accuracy == sum(of.correct) / sum(of.n)
            assert np.bincount(kept.group[split], minlength=4).tolist() == of.n
    command("rescore", tmp_path / "s", "--metric", "worst_group_ece")
    board = json.loads(command("leaderboard", tmp_path / "s", "--all", "--format", "json", *given).stdout)
    (row,) = (row for row in board if (row["split"], row["metric"]) == ("test", "worst_group_ece"))
    assert row["n"] == 1 and 0 < row["mean"] < 1 and row["higher_is_better"] is False
