"""Predictions that are kept of a run: those of the step that its row is about, or none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_counts

from spurbench.bench.core.errors import UserError
from spurbench.bench.records.record import Record
from spurbench.bench.records.selection import at_its_best
from spurbench.bench.store import predictions
from spurbench.bench.store.store import Store
from tests.test_selection import trained

RIGHT = {250: 60, 500: 80, 1000: 70}  # step → right answers of a hundred in each class, on validation and test


@pytest.fixture
def record() -> Record:
    return trained({step: (make_counts(right, right), make_counts(right, right)) for step, right in RIGHT.items()})


def of_step(right: int) -> np.ndarray[Any, Any]:
    """Logits of a hundred examples of each class, so many of them right."""
    return np.concatenate([np.where(np.arange(100) < right, sign, -sign) for sign in (-1.0, 1.0)])


def store_with(folder: Path, record: Record, steps: tuple[int, ...]) -> Store:
    store = Store.open(folder / "store", create=True)
    path = store.path("predictions", record.id, ".npz")
    path.parent.mkdir(parents=True)
    arrays = {f"{split}@{step}": of_step(RIGHT[step]) for step in steps for split in ("validation", "test")}
    ended = {split: of_step(RIGHT[1000]) for split in ("validation", "test", "train")}
    np.savez_compressed(path, **ended, **arrays)  # type: ignore[arg-type]
    return store


def test_predictions_are_of_the_step_the_row_is_about(tmp_path: Path, record: Record) -> None:
    store = store_with(tmp_path, record, (250, 500))
    kept = predictions.load_predictions(store, record, "validation_accuracy")
    assert kept.step == 500 and set(kept.logits) == {"validation", "test"}
    right = (kept.logits["test"] > 0) == (np.arange(200) >= 100)
    best = at_its_best(record, "validation_accuracy")
    assert [int(half.sum()) for half in np.split(right, 2)] == best.splits["test"].correct == [80, 80]
    last = predictions.load_predictions(store, record)
    assert last.step == 1000 and set(last.logits) == {"validation", "test", "train"}


def test_predictions_of_the_last_step_alone_are_not_taken_for_others(tmp_path: Path, record: Record) -> None:
    store = store_with(tmp_path, record, ())
    with pytest.raises(UserError, match="predictions of its last step, 1000, are kept, but the rule .* chose step 500"):
        predictions.load_predictions(store, record, "validation_accuracy")
    assert predictions.load_predictions(store, record).step == 1000


def test_predictions_that_are_missing_or_damaged_are_one_line(tmp_path: Path, record: Record) -> None:
    store = store_with(tmp_path, record, (500,))
    path = store.path("predictions", record.id, ".npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="the file is damaged"):
        predictions.load_predictions(store, record)
    path.unlink()
    with pytest.raises(UserError, match=f"no predictions of run {record.id} are kept"):
        predictions.load_predictions(store, record)
