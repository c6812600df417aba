"""The training of one stack of runs, as a worker follows it: saved at intervals, stopped when asked, then scored."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from msgspec import structs

from spurbench.bench.checks import data_checks
from spurbench.bench.evaluation.monitor import Monitor
from spurbench.bench.jobs import bases, memory, recording, scoring
from spurbench.bench.jobs.job import Job
from spurbench.bench.jobs.setup import Setup, set_up
from spurbench.bench.plugins.dataset import Data, Dataset
from spurbench.bench.provenance import data_files, edits
from spurbench.bench.records.record import Record
from spurbench.bench.records.run import Run
from spurbench.bench.store import checkpoints, weights
from spurbench.bench.store.checkpoints import Checkpoint
from spurbench.bench.store.claims import Lost
from spurbench.bench.store.store import Store, checkpoint_of
from spurbench.bench.training.engine import Engine
from spurbench.bench.training.replica import Replica


class Stopped(Exception):
    """The job was asked to stop; its state is saved."""


class Outdated(Exception):
    """A checkpoint was made from other data than there are now; it is gone, the run starts over."""


CHECKED: set[str] = set()
"""The datasets, with their options, whose examples this process has looked at."""
Report = Callable[[int], None]
"""Called with the steps done, now and then."""


@dataclass
class Context:
    """What a worker has at hand beside the job."""

    store: Store
    report: Report
    stop: Callable[[], bool]
    step: int = 0  # of the stack under way
    recorded: set[str] = field(default_factory=set)  # runs whose records stand: they are trained for their networks
    lost: set[str] = field(default_factory=set)  # runs that were taken over
    troubles: dict[str, None] = field(default_factory=dict)  # what the user is to mend, each once

    def settle(self, record: Record) -> None:
        """Put a run's record into the store, if it is still this process's run; only then is its checkpoint deleted."""
        self.store.claims.check(record.id)
        self.store.write_record(record)
        checkpoints.delete(record.id, self.store)


def start_over(run: Run, what: str, store: Store) -> None:
    print(f"{run.dataset} × {run.method}, seed {run.seed}: {what} changed since it was begun; it starts over",
          file=sys.stderr)  # fmt: skip
    weights.forget(store, run.id)
    checkpoints.delete(run.id, store)


Result = Callable[[], Record]
"""Makes the record of a run that has been trained."""


def train_stack(job: Job, saved: Sequence[Checkpoint | None], context: Context) -> list[tuple[Record, Result]]:
    """Train a stack; for each run what is known of it so far and how to get its record."""
    if saved[0] is not None:
        job = replace(job, options=replace(job.options, **saved[0].computed))
    setup = set_up(job)
    memory.tune_process(job.options.threads, job.options.device)
    memory.reset_peak_memory(job.options.device)
    drawn = [load_run(run, setup, context.store) for run in job.runs]
    if saved[0] is None:
        job = replace(job, options=replace(job.options, threads=setup.threads(drawn[0][1])))
        setup = replace(setup, job=job)
        torch.set_num_threads(job.options.threads)
    if not setup.method.trains and job.runs[0].base is None:
        return [
            (record, partial(scoring.score_random_guess, record, replica.data, setup.dataset))
            for record, replica in drawn
        ]
    monitor = Monitor(len(drawn))
    engine = setup.make_engine([replica for _, replica in drawn], monitor)
    resumed = [at.resumed + 1 if at else 0 for at in saved]
    session = Session(job, engine, monitor, context, [record for record, _ in drawn], resumed)
    session.restore(saved)
    enough = max(job.keep) if all(run.id in context.recorded for run in job.runs) else None
    engine.train(session.watch, until=enough)
    session.keep_networks()
    context.report(setup.training.steps)
    if setup.dataset.attacks():  # they take long: training is not to be done again if they are interrupted
        session.save()
    return [(record, partial(session.result, r, setup.dataset)) for r, (record, _) in enumerate(drawn)]


def warn_once(run: Run, data: Data, dataset: Dataset) -> None:
    """Say what is doubtful about a dataset's examples, the first time in a process."""
    if repr(dataset) not in CHECKED and (copies := data_checks.warn_of_copies(data, dataset)):
        print(f"{run.dataset}, seed {run.seed}: {copies}", file=sys.stderr)
    CHECKED.add(repr(dataset))


def load_run(run: Run, setup: Setup, store: Store) -> tuple[Record, Replica]:
    """What is known of a run before it is done, and its data and networks."""
    record = recording.begin_record(run, setup.job.options)
    with data_files.watching(repr(setup.dataset)) as files:
        replica = setup.draw(run, store)
        checksum = setup.dataset.checksum()
    warn_once(run, replica.data, setup.dataset)
    replica = bases.begin(replica, run, setup, store)
    code = record.provenance.code | recording.code_of_bases(run, store)
    provenance = structs.replace(record.provenance, code=code, data=checksum, files=files)
    return record.with_(provenance=provenance), replica


@dataclass
class Session:
    """The training of one stack, as a worker follows it."""

    job: Job
    engine: Engine
    monitor: Monitor
    context: Context
    records: list[Record]  # what is known of each run so far
    resumed: list[int]  # how often each has gone on from a checkpoint
    reported: float = 0.0
    saved: float = field(default_factory=time.monotonic)

    def restore(self, saved: Sequence[Checkpoint | None]) -> None:
        """Go on from the runs' checkpoints, if they have any; raises Outdated if the data are others by now."""
        found = [at for at in saved if at is not None]
        for run, at, record in zip(self.job.runs, found, self.records, strict=False):
            if changed := changed_data(at, record):
                start_over(run, changed, self.context.store)
                raise Outdated
        try:
            if found:
                self.engine.restore([at.state for at in found])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            file = checkpoint_of(self.context.store, found[0].run)
            raise checkpoints.unreadable(file, type(error).__name__) from None

    def watch(self, engine: Engine) -> None:
        """Called before every step: reports, saves at intervals, and stops when asked."""
        now, stopping = time.monotonic(), self.context.stop()
        self.context.step = engine.step
        self.tell_lost()
        self.keep_networks()
        if now - self.reported > 0.5:
            self.reported = now
            self.context.report(engine.step)
        if stopping or now - self.saved > self.job.options.checkpoint_seconds:
            self.saved = now
            self.save()
        if stopping:
            raise Stopped

    def keep_networks(self) -> None:
        """Keep the networks after a step from which other runs start, before any checkpoint of a later one."""
        step, store = self.engine.step, self.context.store
        for r, run in enumerate(self.job.runs if step in self.job.keep else ()):
            if self.monitor.progress[r].diverged is None and not weights.has(store, run.id, step):
                store.claims.check(run.id)
                weights.save(store, run.id, step, self.engine.networks(r))

    def tick(self) -> None:
        """Called during long scoring: stops when asked."""
        self.tell_lost()
        if self.context.stop():
            raise Stopped

    def tell_lost(self) -> None:
        for run in self.job.runs:
            if run.id in self.context.lost:
                raise Lost(run.id)

    def save(self) -> None:
        options = self.job.options
        for r, (run, record, resumed) in enumerate(zip(self.job.runs, self.records, self.resumed, strict=True)):
            self.context.store.claims.check(run.id)
            files = record.provenance.files
            checkpoints.save(
                Checkpoint(run.id, edits.versions_of(record), files, options.threads, options.micro_batch, resumed,
                           self.engine.state(r), options.accumulate),
                self.context.store,
            )  # fmt: skip

    def result(self, r: int, dataset: Dataset) -> Record:
        """The record of a trained run."""
        engine, options = self.engine, self.job.options
        cost = recording.cost(engine.seconds, engine.step, len(self.job.runs), self.resumed[r], options)
        hold = partial(self.context.store.claims.check, self.job.runs[r].id)
        record, progress = self.records[r].with_(cost=cost), self.monitor.progress[r]
        return scoring.score(
            record,
            engine.model(r),
            engine.whole_model(r),
            marked_by(engine.replicas[r]),
            progress,
            dataset,
            self.context.store,
            self.tick,
            hold,
        )


def marked_by(replica: Replica) -> torch.Tensor | None:
    """The training examples that were taken to be of minorities, [n] bool: by the method, or by inferred groups."""
    if replica.start.marked is not None or not replica.inferred:
        return replica.start.marked
    y, inferred = replica.data.train.y, replica.inferred["train"]
    sizes = torch.stack([inferred[y == one].bincount(minlength=replica.values or 1) for one in range(int(y.max()) + 1)])
    return inferred != sizes.argmax(1)[y]


def changed_data(saved: Checkpoint, record: Record) -> str:
    """What of the data is not what it was when a checkpoint was made, in words; empty if nothing is."""
    if saved.made["data"] != record.provenance.data:
        return "the data"
    return ", ".join(data_files.differ(saved.files, record.provenance.files))
