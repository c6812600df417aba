"""The logits that are kept of a run, of the step that a leaderboard scores it at."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from spurbench.bench.core.errors import UserError
from spurbench.bench.records.record import Record
from spurbench.bench.records.selection import Selected, at_its_best
from spurbench.bench.store.store import Store


@dataclass(frozen=True)
class Kept:
    """Logits by split, [n] or [n, C], all of one step; `bench.evaluate.predictions` makes classes of them."""

    step: int
    logits: dict[str, np.ndarray[Any, Any]]


def of_run(store: Store, record: Record, rule: str = "none") -> Kept:
    """What is kept of a run at the step that a rule chooses for it, as the row of a leaderboard with that rule has it.

    Training is kept of the last step alone, so it is among them only if that is the one.

    Errors: UserError where nothing is kept of the run, or, as in stores of before, nothing of that step.
    """
    path = store.path("predictions", record.id, ".npz")
    if not path.is_file():
        raise UserError(f"no predictions are kept of run {record.id} in {store.root}; a packed store has none")
    best = at_its_best(record, rule)
    last, step = record.last_step, best.chosen_step if isinstance(best, Selected) else record.last_step
    arrays = read(path)
    if not isinstance(best, Selected) or step == last:
        return Kept(step, {name: array for name, array in arrays.items() if "@" not in name})
    names = {split: f"{split}@{step}" for split in best.held_out}
    if lacking := set(names.values()) - set(arrays):
        raise UserError(
            f"of run {record.id} only the predictions of its last step, {last}, are kept, but the rule {rule} chose "
            f"step {step} (no {', '.join(sorted(lacking))}); `spurbench run` with --fresh trains it again"
        )
    return Kept(step, {split: arrays[name] for split, name in names.items()})


def read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every array of a file of predictions."""
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read the predictions in {path}: {type(error).__name__}; the file is damaged") from None
