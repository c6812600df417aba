"""The predictions kept of a run: logits of its last step and of those at which it was scored, and their labels.

In the file of a run `test` are the logits of that split after the last step, `test@250` those after step 250; `y/test`,
`group/test` and `id/test` are the labels, the groups (y × attribute, or y where the split has none) and the places of
its examples. Training is kept of the last step alone.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from spurbench.bench.core.errors import UserError
from spurbench.bench.records.record import Record
from spurbench.bench.records.selection import Selected, at_its_best
from spurbench.bench.store.store import Store

Array = NDArray[Any]
Arrays = dict[str, Array]  # by split


@dataclass(frozen=True)
class Labels:
    """What the examples of a split are, [n] each: class index, group, and, if they are a part of it, their places."""

    y: Array
    group: Array
    id: Array | None = None


@dataclass(frozen=True)
class Kept:
    """Logits by split, [n] or [n, C], all of one step; what the examples are, [n] each, is missing in older files."""

    step: int
    logits: Arrays
    y: Arrays = field(default_factory=dict)
    group: Arrays = field(default_factory=dict)  # y * attributes + a
    id: Arrays = field(default_factory=dict)  # place in the split


def keep(store: Store, run_id: str, logits: Mapping[str, Array], labels: Mapping[str, Labels]) -> str:
    """Keep logits, by `split` or `split@step`, and the labels of each split; the file's path in the store.

    With them a new metric needs no training.
    """
    arrays = dict(logits)
    for split, of in labels.items():
        told = {"y": of.y, "group": of.group, "id": np.arange(len(of.y)) if of.id is None else of.id}
        arrays |= {f"{what}/{split}": array.astype(np.int32) for what, array in told.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    path = path_of(store, run_id)
    store.write(path, buffer.getvalue())
    return str(path.relative_to(store.root))


def load_predictions(store: Store, record: Record, rule: str = "none") -> Kept:
    """What is kept of a run at the step that a rule chooses for it, as the row of a leaderboard with that rule has it.

    Training is kept of the last step alone, so it is among them only if that is the one.

    Errors: UserError where nothing is kept of the run, or, as in stores of before, nothing of that step.
    """
    best = at_its_best(record, rule)
    step = best.chosen_step if isinstance(best, Selected) else record.last_step
    try:
        return of_step(arrays_of(store, record.id), record, step)
    except KeyError as error:
        raise UserError(
            f"of run {record.id} only the predictions of its last step, {record.last_step}, are kept, but the rule "
            f"{rule} chose step {step} (no {error.args[0]}); `spurbench run` with --fresh trains it again"
        ) from None


def arrays_of(store: Store, run_id: str) -> Arrays:
    """Everything in the file of a run, by the names there. Errors: UserError where there is none, or it is damaged."""
    path = path_of(store, run_id)
    if not path.is_file():
        raise UserError(f"no predictions are kept of run {run_id} in {store.root}; a packed store has none")
    return read(path)


def of_step(arrays: Arrays, record: Record, step: int) -> Kept:
    """Those of one step. Raises KeyError, with the names that are missing, where nothing is kept of that step."""
    last = step == record.last_step or not record.looks
    held_out = [name for name in arrays if "@" not in name and "/" not in name] if last else record.looks[0].splits
    names = {split: split if last else f"{split}@{step}" for split in held_out}
    if lacking := set(names.values()) - set(arrays):
        raise KeyError(", ".join(sorted(lacking)))
    told = {
        what: {split: arrays[f"{what}/{split}"] for split in names if f"{what}/{split}" in arrays}
        for what in ("y", "group", "id")
    }
    return Kept(step, {split: arrays[name] for split, name in names.items()}, **told)


def path_of(store: Store, run_id: str) -> Path:
    """Where the predictions of a run are, or are to be."""
    return store.path("predictions", run_id, ".npz")


def read(path: Path) -> Arrays:
    """Every array of a file of predictions."""
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read the predictions in {path}: {type(error).__name__}; the file is damaged") from None
