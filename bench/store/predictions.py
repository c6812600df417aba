"""The predictions kept of a run: logits of its last step and of those at which it was scored, and their labels.

In the file of a run `test` are the logits of that split after the last step, `test@250` those after step 250; `y/test`,
`group/test` and `id/test` are the labels, the groups (y × attribute, or y where the split has none) and the places of
its examples. Training predictions are kept of the last step only.
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
from spurbench.bench.plugins.counts import SUBSET
from spurbench.bench.records.record import Record
from spurbench.bench.records.selection import Selected, at_its_best
from spurbench.bench.store.store import Store

Array = NDArray[Any]
Arrays = dict[str, Array]  # by split


@dataclass(frozen=True)
class Labels:
    """Class index and group of a split's examples, [n] each, and their places in it where they are only a part."""

    y: Array
    group: Array
    id: Array | None = None


@dataclass(frozen=True)
class Kept:
    """Logits by split, [n] or [n, C], all of one step; labels, groups and ids, [n] each, are missing in older files."""

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
        arrays |= label_arrays(split, of)
    return write_arrays(store, run_id, arrays)


def label_arrays(split: str, of: Labels) -> Arrays:
    """The labels of a split as they are kept, by their names in the file."""
    labels_by_kind = {"y": of.y, "group": of.group, "id": np.arange(len(of.y)) if of.id is None else of.id}
    return {f"{what}/{split}": array.astype(np.int32) for what, array in labels_by_kind.items()}


def write_arrays(store: Store, run_id: str, arrays: Arrays) -> str:
    """Make the file of a run hold these arrays; its path in the store."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    path = path_of(store, run_id)
    store.write(path, buffer.getvalue())
    return str(path.relative_to(store.root))


def load_predictions(store: Store, record: Record, rule: str = "none") -> Kept:
    """The predictions of a run at the step that a rule chooses, as in a leaderboard row with that rule.

    Training predictions are kept of the last step only, so they are included only if that is the chosen one.

    Errors: UserError if no predictions are kept of the run or, as in older stores, none of that step.
    """
    best = at_its_best(record, rule)
    step = best.chosen_step if isinstance(best, Selected) else record.last_step
    try:
        return of_step(load_arrays(store, record.id), record, step)
    except KeyError as error:
        raise UserError(
            f"of run {record.id} only the predictions of its last step, {record.last_step}, are kept, but the rule "
            f"{rule} chose step {step} (no {error.args[0]}); `spurbench run` with --fresh trains it again"
        ) from None


def load_arrays(store: Store, run_id: str) -> Arrays:
    """Everything in the file of a run, by the names there. Errors: UserError if there is none, or it is damaged."""
    path = path_of(store, run_id)
    if not path.is_file():
        raise UserError(f"no predictions of run {run_id} are kept in {store.root}; packed stores have none")
    return read_arrays(path)


def of_step(arrays: Arrays, record: Record, step: int) -> Kept:
    """The predictions of one step. Raises KeyError, with the missing names, if none are kept of that step."""
    last = step == record.last_step or not record.looks
    scored = [name for name in record.looks[0].splits if SUBSET not in name] if record.looks else []
    held_out = [name for name in arrays if "@" not in name and "/" not in name] if last else scored
    names = {split: split if last else f"{split}@{step}" for split in held_out}
    if lacking := set(names.values()) - set(arrays):
        raise KeyError(", ".join(sorted(lacking)))
    labels_by_kind = {
        what: {split: arrays[f"{what}/{split}"] for split in names if f"{what}/{split}" in arrays}
        for what in ("y", "group", "id")
    }
    return Kept(step, {split: arrays[name] for split, name in names.items()}, **labels_by_kind)


def path_of(store: Store, run_id: str) -> Path:
    """The path of a run's predictions, whether they exist or not."""
    return store.path("predictions", run_id, ".npz")


def read_arrays(path: Path) -> Arrays:
    """Every array of a file of predictions."""
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read the predictions in {path}: {type(error).__name__}; the file is damaged") from None
