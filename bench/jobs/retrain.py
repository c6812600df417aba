"""Finished runs trained once more from their records alone, for what was not kept of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isclose
from pathlib import Path

import torch

from spurbench.bench.core import processes
from spurbench.bench.core.errors import UserError
from spurbench.bench.evaluation import counting, starvation
from spurbench.bench.jobs import bases, memory, scoring
from spurbench.bench.jobs.job import Job, Redo
from spurbench.bench.jobs.setup import set_up
from spurbench.bench.jobs.worker import make_bases
from spurbench.bench.plugins import registry
from spurbench.bench.provenance import edits
from spurbench.bench.records.record import Summary
from spurbench.bench.store import artifacts
from spurbench.bench.store.store import Store
from spurbench.bench.training.engine import Engine
from spurbench.bench.training.execution import Options
from spurbench.bench.training.model import Model


@dataclass(frozen=True)
class Retraining:
    """Runs of one cell to train again as one stack, and what to keep of them; plain values, for another process."""

    records: list[Summary]
    store: Path
    drawings: bool = True
    probe: starvation.Settings | None = None


def stacks(records: Sequence[Summary]) -> list[list[Summary]]:
    """The records of one cell in stacks as high as they were: a run rounds by the height of its stack."""
    found, left = [], sorted(records, key=lambda record: int(record.seed))
    while left:
        height = left[0].cost.replicas
        found.append(left[:height])
        left = left[height:]
    return found


def retrain_all(tasks: Sequence[Retraining], jobs: int, report: Callable[[Retraining, list[bool]], None]) -> None:
    """Do the tasks, `jobs` at once; `report` gets each finished task, and which of its runs came out as recorded."""
    if jobs == 1 or len(tasks) <= 1:
        for task in tasks:
            report(task, retrain(task))
        torch.set_flush_denormal(False)  # a worker's process would have ended
        return
    for task, same in processes.run_in_processes(
        retrain, tasks, min(jobs, len(tasks)), partial(registry.add_plugins, registry.plugin_paths())
    ):
        report(task, same)


def retrain(task: Retraining) -> list[bool]:
    """Train runs again and keep what is wanted of each; whether its counts and losses are those of its record."""
    store = Store.open(task.store)
    engine = engine_before(task.records, store)
    models = [engine.model(r) for r in range(len(task.records))]
    probes = []
    if task.probe:
        first = task.records[0]
        print(f"{first.dataset} × {first.method}: looking for its features, {len(models)} runs", file=sys.stderr)
        probes = [starvation.Probe(model, engine.training.steps, task.probe) for model in models]

    def observe(engine: Engine) -> None:
        for probe in probes:
            probe.observe(engine.step)

    engine.train(observe)
    observe(engine)
    dataset = set_up(job_of(task.records)).dataset
    whole = [engine.whole_model(r) for r in range(len(task.records))]
    for r, record in enumerate(task.records):
        found = probes[r].arrays() if probes else {}
        if task.drawings:
            found |= scoring.make_drawings(dataset, whole[r].score, whole[r].data)
        artifacts.save_arrays(store, record.id, found)
    return [as_recorded(record, model) for record, model in zip(task.records, models, strict=True)]


def job_of(records: Sequence[Summary]) -> Job:
    """The job of recorded runs of one cell, to be computed as it was."""
    runs = [record.run for record in records]
    return Job(runs, runs[0].method, Options(threads=records[0].cost.threads))


def engine_before(records: Sequence[Summary], store: Store) -> Engine:
    """The engine of recorded runs before the first step, on the CPU; `store` has the runs that they start from."""
    job = job_of(records)
    run = job.runs[0]
    setup = set_up(job)
    if not setup.method.trains:
        raise UserError(f"run {run.id} is of '{run.method}', which does not train")
    if setup.dataset.protocol_version != run.protocol_version:
        raise UserError(
            f"run {run.id} followed version {run.protocol_version} of {run.dataset}'s protocol, installed is "
            f"{setup.dataset.protocol_version}: it cannot be trained again here"
        )
    for record in records:
        edits.check_unedited(record)
    memory.tune_process(job.options.threads)
    make_bases(job, store, lambda step: None, lambda: False, Redo())
    return setup.make_engine([bases.begin(setup.draw(run, store), run, setup, store) for run in job.runs])


def as_recorded(record: Summary, model: Model) -> bool:
    """Whether a run trained again predicts on its training set as the record says, to the last count.

    It does on the processor and the torch that made the record, in a stack of the same height; elsewhere rounding
    differs, and with it the run.
    """
    counts = counting.count(model.score(model.data.train.x), model.data.train, model.data)
    recorded = record.splits["train"]
    return counts.correct == recorded.correct and isclose(counts.loss_sum, recorded.loss_sum, rel_tol=1e-6)
