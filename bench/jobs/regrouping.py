"""Runs whose inferred groups only choose: recorded from the predictions of the same run without them, not trained."""

from __future__ import annotations

import torch
from msgspec import structs

from spurbench.bench.evaluation import counting
from spurbench.bench.jobs import bases, recording
from spurbench.bench.jobs.bases import VALIDATION
from spurbench.bench.jobs.job import Job
from spurbench.bench.jobs.scoring import labels_of
from spurbench.bench.jobs.setup import set_up
from spurbench.bench.plugins.dataset import Data, Split
from spurbench.bench.records.record import Look, Record, Splits
from spurbench.bench.records.run import INFERRED, Run
from spurbench.bench.store import predictions
from spurbench.bench.store.store import Store
from spurbench.bench.training.execution import Options


def is_possible(run: Run, store: Store) -> bool:
    """Whether the run that is trained like this one has come to an end, and its predictions are kept if it is done."""
    record = store.record(run.trained_alike.id) if run.trained_alike else None
    return record is not None and (not record.done or predictions.path_of(store, record.id).is_file())


def regroup(run: Run, begun: Record, options: Options, store: Store) -> Record:
    """The record of a run from that of the one trained alike, with counts by inferred groups; `begun` is its own.

    Errors: CannotBegin if the groups cannot be inferred, UserError for damaged predictions.
    """
    assert run.trained_alike is not None
    alike = store.record(run.trained_alike.id)
    assert alike is not None
    made, other = alike.provenance, begun.provenance  # where and when it was trained, as its cost is of there
    own = structs.replace(made, code=other.code | made.code, paths=other.paths | made.paths)
    record = alike.with_(id=run.id, inferred_by=begun.inferred_by, provenance=own)
    if alike.done:
        record = with_inferred_counts(record, alike.id, inferred_split(run, options, store), store)
    return recording.finish(record)


def inferred_split(run: Run, options: Options, store: Store) -> Split:
    """Validation with the groups inferred for a run."""
    setup = set_up(Job([run], run.method, options))
    return bases.with_inferred_groups(setup.draw(run, store), run, options, store).data.tests[INFERRED]


def with_inferred_counts(record: Record, source: str, split: Split, store: Store) -> Record:
    """The record with the counts of an inferred split, by the predictions of the run `source`, which it keeps, too."""
    arrays = predictions.load_arrays(store, source)
    split = split.take(torch.from_numpy(arrays[f"id/{VALIDATION}"]).long())
    data = Data(split, {}, record.classes or 2, record.attributes or 1)
    for name in [name for name in arrays if name.partition("@")[0] == VALIDATION]:
        arrays[name.replace(VALIDATION, INFERRED)] = arrays[name]
    arrays |= predictions.label_arrays(INFERRED, labels_of(split, data))

    def with_counts(splits: Splits, name: str) -> Splits:
        return {**splits, INFERRED: counting.count(torch.from_numpy(arrays[name]), split, data)}

    return record.with_(
        splits=with_counts(record.splits, INFERRED),
        looks=[Look(look.step, with_counts(look.splits, f"{INFERRED}@{look.step}")) for look in record.looks],
        predictions=predictions.write_arrays(store, record.id, arrays),
    )
