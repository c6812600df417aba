"""The local launcher: a bounded pool of spawned processes that call the worker, one job at a time each, or none."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.processes import environment, interruptible
from spurbench.bench.jobs.job import Job, Redo
from spurbench.bench.launch.placement import Layout
from spurbench.bench.records.record import Record, is_settled
from spurbench.bench.store.store import Store, checkpoint_of

GRACE = 60  # seconds for a worker to save its state when asked to stop
HANGING = 10  # the same for one whose job has had its time
TRIES = 3  # a job whose process is killed from outside is given to another so often


class Watcher(Protocol):
    """What follows the progress of a launch: a live display, or plain lines."""

    def started(self, job: Job) -> None: ...
    def progress(self, job: Job, step: int) -> None: ...
    def ended(self, job: Job, failures: list[Record], refused: bool = False) -> None: ...


@dataclass
class Outcome:
    """How a launch ended: refused jobs are the user's to mend, interrupted ones go on when run again."""

    refused: list[str] = field(default_factory=list)
    failed: int = 0
    interrupted: bool = False


@dataclass
class Worker:
    """A process of the pool, its end of the pipe and the job it has."""

    process: BaseProcess
    pipe: Connection
    device: str
    job: Job | None = None
    since: float = 0.0  # when it got the job
    step: int = 0  # the last one that it reported
    over: float | None = None  # when it was asked to stop because the job's time is over


@dataclass(frozen=True)
class Terms:
    """How a launch treats its jobs."""

    plugins: list[str] = field(default_factory=list)  # files that workers add
    redo: Redo = Redo()
    seconds: float | None = None  # that a run may take; None: as long as it does


def launch(jobs: Iterable[Job], layout: Layout, store: Store, watcher: Watcher, terms: Terms) -> Outcome:
    """Run all jobs; returns when none is left or after Ctrl-C or SIGTERM, every state saved."""
    pool = Pool(deque(jobs), layout, store, watcher, terms)
    with interruptible(once=layout.inside) as asked:
        if layout.inside:
            pool.run_inside(asked)
            return pool.outcome
        try:
            pool.workers = [pool.spawn(device) for device in layout.devices[: len(pool.queue)]]
            while pool.workers and not asked:
                pool.wait_for_news()
        finally:
            pool.outcome.interrupted = bool(pool.workers)
            pool.stop(asked)
    return pool.outcome


@dataclass
class Pool:
    queue: deque[Job]
    layout: Layout
    store: Store
    watcher: Watcher
    terms: Terms
    workers: list[Worker] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    deaths: Counter[str] = field(default_factory=Counter)  # of processes, by the job they had

    def run_inside(self, asked: list[int]) -> None:
        """Do the jobs in this process, where a debugger can follow, until a signal asks to stop."""
        from spurbench.bench.jobs.session import Stopped
        from spurbench.bench.jobs.worker import run_job

        while self.queue and not asked:
            first, refused = self.queue.popleft(), False
            job = replace(first, options=replace(first.options, device=self.layout.devices[0]))
            self.watcher.started(job)
            try:
                report = partial(self.watcher.progress, job)
                run_job(job, self.store, report, lambda: bool(asked), self.terms.redo)
            except Stopped:
                break
            except (UserError, OSError) as error:
                self.outcome.refused.append(f"{job.title}: {error}")
                refused = True
            self.report_end(job, refused)
        self.outcome.interrupted = bool(asked)

    def spawn(self, device: str) -> Worker:
        """A new process; threads are set in its environment, before torch is imported there."""
        here, there = mp.get_context("spawn").Pipe()
        arguments = (there, os.path.abspath(self.store.root), self.terms.plugins, self.terms.redo, os.getpid())
        with environment(self.layout.threads):
            process = mp.get_context("spawn").Process(target=serve, args=arguments, daemon=True)
            process.start()
        there.close()
        worker = Worker(process, here, device)
        self.give_job(worker)
        return worker

    def give_job(self, worker: Worker) -> None:
        """Give a worker its next job, or tell it to end."""
        worker.job, worker.since, worker.step, worker.over = None, time.monotonic(), 0, None
        if self.queue:
            job = self.queue.popleft()
            worker.job = replace(job, options=replace(job.options, device=worker.device))
            self.watcher.started(worker.job)
        with suppress(OSError):
            worker.pipe.send(worker.job.to_dict() if worker.job else None)

    def wait_for_news(self) -> None:
        """Wait for news from any worker and act on it."""
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(by_pipe), timeout=1.0):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                self.receive(worker, worker.pipe.recv())
            except (EOFError, ConnectionResetError):
                self.replace_ended(worker)
        for worker in self.workers:
            self.enforce_time_limit(worker)

    def enforce_time_limit(self, worker: Worker) -> None:
        """End a process whose job has had its time: asked at first, so that it saves its state, then without asking."""
        if self.terms.seconds is None or worker.job is None:
            return
        now = time.monotonic()
        if worker.over is None and now - worker.since > self.terms.seconds * len(worker.job.runs):
            worker.over = now
            worker.process.terminate()
        elif worker.over is not None and now - worker.over > HANGING:
            worker.process.kill()

    def receive(self, worker: Worker, news: tuple[str, Any]) -> None:
        kind, value = news
        assert worker.job is not None
        if kind == "begun":  # what it took to start the process is not the run's
            worker.since = time.monotonic()
            return
        if kind == "progress":
            worker.step = value
            self.watcher.progress(worker.job, value)
            return
        if kind == "refused":
            self.outcome.refused.append(f"{worker.job.title}: {value}")
        self.report_end(worker.job, kind == "refused")
        if worker.over is None:
            self.give_job(worker)
        else:  # it is about to end
            worker.job = None

    def report_end(self, job: Job, refused: bool = False) -> None:
        """Tell the watcher how a job ended, from its records."""
        records = {run.id: self.store.record(run.id) for run in job.runs}
        failures = [record for record in records.values() if record and record.status == "failed"]
        lacking = [id for id, record in records.items() if record is None]
        if lacking and not refused and not self.store.claims.living().keys() & set(lacking):
            self.outcome.refused.append(f"{job.title}: {len(lacking)} runs left no record, such as {lacking[0]}")
            refused = True
        self.outcome.failed += len(failures)
        self.watcher.ended(job, failures, refused)

    def replace_ended(self, worker: Worker) -> None:
        """Where a process has ended: its job is tried again or has failed, and another process takes its place."""
        worker.process.join()
        self.workers.remove(worker)
        said = len(self.outcome.refused)
        if worker.job is not None and not self.try_again(worker, worker.job):
            self.report_end(worker.job, len(self.outcome.refused) > said)
        if self.queue:
            self.workers.append(self.spawn(worker.device))

    def try_again(self, worker: Worker, job: Job) -> bool:
        """Whether the job of a process that ended goes back into the queue; if not, its runs get failed records."""
        code = worker.process.exitcode or 0
        if worker.over is not None:
            kept = any(checkpoint_of(self.store, run.id).exists() for run in job.runs)
            saved = f"the state near step {worker.step:,} of {job.steps:,} is saved" if kept else "nothing is saved"
            self.fail(job, "time_limit", f"stopped after {self.terms.seconds:g} s a run; {saved}")
            return False
        self.deaths[job.name] += 1
        outside = -code in (0, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)  # 0: it was asked to save and end
        if outside and self.deaths[job.name] < TRIES:
            self.queue.appendleft(job)
            return True
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        times = f", {self.deaths[job.name]} times (memory?)" if outside else ""
        self.fail(job, "killed" if outside else "crash", f"the worker process ended by {how}{times}")
        return False

    def fail(self, job: Job, kind: str, how: str) -> None:
        """Failed records for those runs of a job that no other process has; checkpoints stay for the next launch."""
        from spurbench.bench.jobs.recording import begin_record, fail

        for run in job.runs:
            if not self.store.claims.take(run.id):
                continue
            before = self.store.record(run.id)
            if not is_settled(before):
                self.store.write_record(fail(begin_record(run, job.options, hardware=False), kind, how))
            elif self.terms.redo.asks_for(before):
                self.outcome.refused.append(f"{job.title}: seed {run.seed}: {how}; its earlier record is kept")
            self.store.claims.release(run.id)

    def stop(self, asked: list[int]) -> None:
        """Ask every worker to save its state, and wait for it until a second signal is among those `asked`."""
        for worker in self.workers:
            worker.process.terminate()
        until, left = time.monotonic() + GRACE, {worker.process.sentinel for worker in self.workers}
        while left and len(asked) < 2 and time.monotonic() < until:
            left -= set(wait(list(left), timeout=0.2))
        for worker in self.workers:
            worker.process.kill()


def serve(pipe: Connection, root: str, plugins: list[str], redo: Redo, parent: int) -> None:
    """The worker process: jobs come in through the pipe until None comes; SIGTERM means save and stop."""
    asked: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to everyone; the launcher decides
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))

    from spurbench.bench.core.errors import UserError
    from spurbench.bench.jobs.session import Stopped
    from spurbench.bench.jobs.worker import run_job
    from spurbench.bench.plugins import registry

    def tell(kind: str, value: Any) -> None:
        try:
            pipe.send((kind, value))
        except OSError:  # no one is there any more; that is no run's fault
            asked.append(0)

    def stop() -> bool:
        return bool(asked) or os.getppid() != parent  # an orphan saves its state and ends

    with suppress(EOFError, ConnectionResetError, Stopped):
        while not stop() and (fields := pipe.recv()) is not None:
            try:
                for path in plugins:
                    registry.add_plugin(path)
                tell("begun", None)
                run_job(Job.from_dict(fields), Store.open(root), lambda step: tell("progress", step), stop, redo)
                tell("done", None)
            except (UserError, OSError) as error:
                tell("refused", str(error))
