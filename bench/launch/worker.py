"""One job: the runs of one cell that train together, from claim to record. Every launcher calls `run_job`."""

from __future__ import annotations

import ctypes
import errno
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from spurbench.bench.core.errors import BadSeed, StoreTrouble, UserError
from spurbench.bench.evaluation.monitor import Monitor
from spurbench.bench.launch import recording, scoring
from spurbench.bench.launch.job import Job, Redo
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Dataset, Training
from spurbench.bench.plugins.method import Method
from spurbench.bench.provenance import data_files, edits, plugin_code
from spurbench.bench.records.record import Record, Run
from spurbench.bench.store import checkpoints
from spurbench.bench.store.checkpoints import Checkpoint
from spurbench.bench.store.claims import Lost, kept_alive
from spurbench.bench.store.store import Store, checkpoint_of
from spurbench.bench.training.engine import Engine
from spurbench.bench.training.execution import Options
from spurbench.bench.training.replica import Replica, prepare


class Stopped(Exception):
    """The job was asked to stop; its state is saved."""


class Outdated(Exception):
    """A checkpoint was made from other data than there are now; it is gone, the run starts over."""


Report = Callable[[int], None]
"""Called with the steps done, now and then."""
OUTSIDE = (Stopped, Lost, Outdated, StoreTrouble, KeyboardInterrupt)
"""What ends work on a run and is no fault of the run's."""


@dataclass
class Desk:
    """What a worker has at hand beside the job."""

    store: Store
    report: Report
    stop: Callable[[], bool]
    step: int = 0  # of the stack under way
    lost: set[str] = field(default_factory=set)  # runs that were taken over
    troubles: dict[str, None] = field(default_factory=dict)  # what the user is to mend, each once

    def settle(self, record: Record) -> None:
        """Put a run's record into the store, if it is still this process's run; only then is its checkpoint deleted."""
        self.store.claims.check(record["id"])
        self.store.write_record(record)
        checkpoints.delete(record["id"], self.store)


def run_job(job: Job, store: Store, report: Report, stop: Callable[[], bool], redo: Redo | None = None) -> None:
    """Train, score and record the runs of a job that no one else has claimed or done.

    A run that raises or diverges leaves a failed record with its cause and does not touch the others. Raises Stopped
    once `stop()` is true, with the state saved: the same job goes on from there. Raises UserError for what the user is
    to mend, when everything else is done.
    """
    redo, desk = redo or Redo(), Desk(store, report, stop)
    if job.options.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("there is no GPU that torch can use here; --device cpu, or --gpus 0 on a cluster, does without")
    mine: list[Run] = []
    try:
        mine += (run for run in job.runs if store.claims.take(run.id))
        todo = [run for run in mine if redo.asks_for(store.record(run.id))]
        with kept_alive(store.claims, [run.id for run in mine], lambda: (desk.step, job.steps)) as desk.lost:
            together(replace(job, runs=todo), desk)
    finally:
        for run in mine:
            store.claims.release(run.id)
    if desk.troubles:
        raise UserError("; ".join(desk.troubles))


def together(job: Job, desk: Desk) -> None:
    """Do runs from their checkpoints, if they have any; those that stand at the same step train as one stack."""
    saved: dict[str, Checkpoint | None] = {}
    for run in job.runs:
        made_by(run)  # before the plug-ins are imported: what is edited later is not in them
        try:
            saved[run.id] = begun(run, job.options, desk.store)
        except UserError as error:
            desk.troubles[str(error)] = None
    for runs in alike([run for run in job.runs if run.id in saved], saved):
        attempt(replace(job, runs=runs), [saved[run.id] for run in runs], desk)


def begun(run: Run, options: Options, store: Store) -> Checkpoint | None:
    """The checkpoint of a run, unless its plug-ins have been edited since it was saved: then the run starts over."""
    saved = checkpoints.load(run, store, options.device)
    changed = [kind for kind, code in made_by(run).items() if saved and saved.made.get(kind) != code]
    if not changed:
        return saved
    say_outdated(run, f"the {' and the '.join(changed)}", store)
    return None


def say_outdated(run: Run, what: str, store: Store) -> None:
    print(f"{run.dataset} × {run.method}, seed {run.seed}: {what} changed since it was begun; it starts over",
          file=sys.stderr)  # fmt: skip
    checkpoints.delete(run.id, store)


def made_by(run: Run) -> edits.Version:
    """The code that this process makes a run with."""
    return {kind: plugin_code.loaded(kind, name) for kind, name in plugin_code.makers(run.to_dict()).items()}


def alike(runs: Sequence[Run], saved: dict[str, Checkpoint | None]) -> list[list[Run]]:
    """The runs that may train as one stack; one by one where a method cannot be lifted or dropout draws."""
    found: dict[object, list[Run]] = {}
    for run in runs:
        alone = run.training.get("dropout") or not registry.load_method(run.method).stackable
        at = saved[run.id]
        found.setdefault(run.id if alone else at and (at.step, at.threads, at.micro_batch), []).append(run)
    return list(found.values())


def attempt(job: Job, saved: Sequence[Checkpoint | None], desk: Desk) -> None:
    """Train runs as one stack and record each. Where that fails, each is tried alone, so that one harms no other."""
    try:
        results = trained(job, saved, desk)
    except Lost as lost:
        together(replace(job, runs=[run for run in job.runs if run.id != str(lost)]), desk)
    except Outdated:
        together(job, desk)
    except (Exception, SystemExit) as error:
        if isinstance(error, OUTSIDE) or is_full(error):
            raise
        for run in job.runs if len(job.runs) > 1 else ():
            together(replace(job, runs=[run]), desk)
        if len(job.runs) == 1:
            give_up(job.runs[0], recording.frame(job.runs[0], job.options), error, desk)
    else:
        for run, (record, result) in zip(job.runs, results, strict=True):
            conclude(run, record, result, desk)


Result = Callable[[], Record]
"""Makes the record of a run that has been trained."""


def conclude(run: Run, record: Record, result: Result, desk: Desk) -> None:
    """Score a run and record it; what goes wrong in that is this run's alone."""
    try:
        desk.settle(result())
    except Lost:
        return
    except (Exception, SystemExit) as error:
        if isinstance(error, OUTSIDE) or is_full(error):
            raise
        give_up(run, record, error, desk)


def give_up(run: Run, record: Record, error: BaseException, desk: Desk) -> None:
    """Note what the user is to mend, or record the run as failed with its cause."""
    if isinstance(error, UserError) and not isinstance(error, BadSeed):
        desk.troubles[str(error)] = None
        return
    with suppress(Lost):
        desk.settle(recording.failed(record, *cause(run, error), traceback.format_exc()))


def cause(run: Run, error: BaseException) -> tuple[str, str]:
    """Why a run failed: the kind, and a line for the user."""
    if isinstance(error, BadSeed):
        return "bad_data", str(error)
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return "out_of_memory", message + remedy(run)
    return "exception", message


def is_full(error: BaseException) -> bool:
    """Whether a disk has no room: not a run's fault, whoever wrote."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def remedy(run: Run) -> str:
    """What to change after running out of memory."""
    batch = run.training.get("batch")
    return f"; try training.batch {max(1, batch // 2)}" if batch else "; try a smaller training set or network"


def plugins(job: Job) -> tuple[Dataset, Method]:
    """The dataset and the method of a job's runs, made with their options and hyper-parameters."""
    run = job.runs[0]
    method = registry.load_method(run.method)(**run.hyper_parameters)
    return registry.load_dataset(run.dataset)(**run.dataset_options), method


def trained(job: Job, saved: Sequence[Checkpoint | None], desk: Desk) -> list[tuple[Record, Result]]:
    """Train a stack; for each run what is known of it so far and how to get its record."""
    dataset, method = plugins(job)
    training = dataset.protocol(job.runs[0].training)
    if saved[0] is not None:
        job = replace(job, options=replace(job.options, threads=saved[0].threads, micro_batch=saved[0].micro_batch))
    tune(job.options.threads)
    recording.reset_peak_memory(job.options.device)
    drawn = [load(run, dataset, method, training, job.options) for run in job.runs]
    if not method.trains:
        return [(record, partial(scoring.guessed, record, replica.data)) for record, replica in drawn]
    monitor = Monitor(len(drawn))
    engine = Engine(method, training, job.runs[0].precision, job.options, [replica for _, replica in drawn], monitor)
    resumed = [at.resumed + 1 if at else 0 for at in saved]
    course = Course(job, engine, monitor, desk, [record for record, _ in drawn], resumed)
    course.restore(saved)
    engine.train(course.watch)
    desk.report(training.steps)
    if dataset.attacks():  # they take long: training is not to be done again if they are interrupted
        course.save()
    return [(record, partial(course.result, r, dataset)) for r, (record, _) in enumerate(drawn)]


def load(run: Run, dataset: Dataset, method: Method, training: Training, options: Options) -> tuple[Record, Replica]:
    """What is known of a run before it is done, and its data and networks."""
    record = recording.frame(run, options)
    with data_files.watching(run.dataset) as files:
        replica = prepare(dataset, method, training, run.seed)
        checksum = dataset.checksum()
    record["provenance"] |= {"data": checksum, "files": files}
    return record, replica


@dataclass
class Course:
    """The training of one stack, as a worker follows it."""

    job: Job
    engine: Engine
    monitor: Monitor
    desk: Desk
    records: list[Record]  # what is known of each run so far
    resumed: list[int]  # how often each has gone on from a checkpoint
    reported: float = 0.0
    saved: float = field(default_factory=time.monotonic)

    def restore(self, saved: Sequence[Checkpoint | None]) -> None:
        """Go on from the runs' checkpoints, if they have any; raises Outdated if the data are others by now."""
        found = [at for at in saved if at is not None]
        for run, at, record in zip(self.job.runs, found, self.records, strict=False):
            if changed := changed_data(at, record):
                say_outdated(run, changed, self.desk.store)
                raise Outdated
        try:
            if found:
                self.engine.restore([at.state for at in found])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            file = checkpoint_of(self.desk.store, found[0].run)
            raise checkpoints.unreadable(file, type(error).__name__) from None

    def watch(self, engine: Engine) -> None:
        """Called before every step: reports, saves at intervals, and stops when asked."""
        now, stopping = time.monotonic(), self.desk.stop()
        self.desk.step = engine.step
        self.tell_lost()
        if now - self.reported > 0.5:
            self.reported = now
            self.desk.report(engine.step)
        if stopping or now - self.saved > self.job.options.checkpoint_seconds:
            self.saved = now
            self.save()
        if stopping:
            raise Stopped

    def tick(self) -> None:
        """Called during long scoring: stops when asked."""
        self.tell_lost()
        if self.desk.stop():
            raise Stopped

    def tell_lost(self) -> None:
        for run in self.job.runs:
            if run.id in self.desk.lost:
                raise Lost(run.id)

    def save(self) -> None:
        options = self.job.options
        for r, (run, record, resumed) in enumerate(zip(self.job.runs, self.records, self.resumed, strict=True)):
            self.desk.store.claims.check(run.id)
            files = record["provenance"]["files"]
            checkpoints.save(
                Checkpoint(run.id, edits.of(record), files, options.threads, options.micro_batch, resumed,
                           self.engine.state(r)),
                self.desk.store,
            )  # fmt: skip

    def result(self, r: int, dataset: Dataset) -> Record:
        """The record of a trained run."""
        engine, options = self.engine, self.job.options
        cost = recording.cost(engine.seconds, engine.step, len(self.job.runs), self.resumed[r], options)
        hold = partial(self.desk.store.claims.check, self.job.runs[r].id)
        record, progress = self.records[r] | {"cost": cost}, self.monitor.progress[r]
        return scoring.scored(record, engine.model(r), progress, dataset, self.desk.store, self.tick, hold)


def changed_data(saved: Checkpoint, record: Record) -> str:
    """What of the data is not what it was when a checkpoint was made, in words; empty if nothing is."""
    if saved.made["data"] != record["provenance"]["data"]:
        return "the data"
    return ", ".join(data_files.differ(saved.files, record["provenance"]["files"]))


def tune(threads: int) -> None:
    """Threads for this process, and an allocator that keeps its pages (1.2 × faster steps with glibc).

    Numbers below 1e-38 count as zero: Adam's averages fade into them on separable data, and steps get 5 × slower.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 1 << 28)):  # mmap threshold, trim, top pad
            libc.mallopt(option, value)
