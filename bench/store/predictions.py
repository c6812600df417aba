"""The logits that are kept of a run, of the step that a leaderboard scores it at."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from spurbench.bench.core.errors import UserError
from spurbench.bench.records.selection import at_its_best, last_step
from spurbench.bench.store.store import Store


@dataclass(frozen=True)
class Kept:
    """Logits by split, [n] or [n, C], all of one step; `bench.evaluate.predictions` makes classes of them."""

    step: int
    logits: dict[str, np.ndarray[Any, Any]]


def of_run(store: Store, record: Mapping[str, Any], rule: str = "none") -> Kept:
    """What is kept of a run at the step that a rule chooses for it, as the row of a leaderboard with that rule has it.

    Training is kept of the last step alone, so it is among them only if that is the one.

    Errors: UserError where nothing is kept of the run, or, as in stores of before, nothing of that step.
    """
    path = store.path("predictions", record["id"], ".npz")
    if not path.is_file():
        raise UserError(f"no predictions are kept of run {record['id']} in {store.root}; a packed store has none")
    best = at_its_best(record, rule)
    last = last_step(record)
    step = int(best.get("chosen_step", last))
    arrays = read(path)
    if step == last:
        return Kept(step, {name: array for name, array in arrays.items() if "@" not in name})
    names = {split: f"{split}@{step}" for split in best["held_out"]}
    if lacking := set(names.values()) - set(arrays):
        raise UserError(
            f"of run {record['id']} only the predictions of its last step, {last}, are kept, but the rule {rule} chose "
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
