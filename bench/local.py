"""The local launcher: a bounded pool of spawned processes that call the worker, one job at a time each."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from spurbench.bench.job import Job
from spurbench.bench.layout import Layout
from spurbench.bench.processes import interruptible
from spurbench.bench.store import Store

GRACE = 60  # seconds for a worker to save its state when asked to stop


class Watcher(Protocol):
    """Who is told of what goes on: a live display, or quiet lines."""

    def started(self, job: Job) -> None: ...
    def progress(self, job: Job, step: int) -> None: ...
    def ended(self, job: Job, failures: list[dict[str, Any]], refused: bool = False) -> None: ...


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


def launch(
    jobs: Iterable[Job], layout: Layout, store: Store, watcher: Watcher, plugins: list[str], retry: bool = False
) -> Outcome:
    """Run all jobs; returns when none is left or after Ctrl-C or SIGTERM, every state saved."""
    pool = Pool(deque(jobs), store, watcher, plugins, retry)
    with interruptible() as asked:
        pool.workers = [pool.spawn(device, layout) for device in layout.devices[: len(pool.queue)]]
        while pool.workers and not asked:
            pool.turn()
    if pool.workers:
        pool.outcome.interrupted = True
        pool.stop()
    return pool.outcome


@dataclass
class Pool:
    queue: deque[Job]
    store: Store
    watcher: Watcher
    plugins: list[str]
    retry: bool
    workers: list[Worker] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)

    def spawn(self, device: str, layout: Layout) -> Worker:
        """A new process; threads are set in its environment, before torch is imported there."""
        here, there = mp.get_context("spawn").Pipe()
        arguments = (there, str(self.store.root), self.plugins, self.retry, os.getpid())
        with environment(OMP_NUM_THREADS=str(layout.threads), MKL_NUM_THREADS=str(layout.threads)):
            process = mp.get_context("spawn").Process(target=serve, args=arguments, daemon=True)
            process.start()
        there.close()
        self.layout = layout
        worker = Worker(process, here, device)
        self.feed(worker)
        return worker

    def feed(self, worker: Worker) -> None:
        """Give a worker its next job, or tell it to end."""
        worker.job = None
        if self.queue:
            job = self.queue.popleft()
            worker.job = replace(job, options=replace(job.options, device=worker.device))
            self.watcher.started(worker.job)
        with suppress(OSError):
            worker.pipe.send(worker.job.to_dict() if worker.job else None)

    def turn(self) -> None:
        """Wait for news from any worker and act on it."""
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(by_pipe), timeout=1.0):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                self.hear(worker, worker.pipe.recv())
            except (EOFError, ConnectionResetError):
                self.bury(worker)

    def hear(self, worker: Worker, news: tuple[str, Any]) -> None:
        kind, value = news
        assert worker.job is not None
        if kind == "progress":
            self.watcher.progress(worker.job, value)
            return
        if kind == "refused":
            self.outcome.refused.append(f"{worker.job.title}: {value}")
        self.close(worker.job, kind == "refused")
        self.feed(worker)

    def close(self, job: Job, refused: bool = False) -> None:
        """Tell the watcher how a job ended, from its records."""
        records = [self.store.record(run.id) for run in job.runs]
        failures = [record for record in records if record and record["status"] == "failed"]
        self.outcome.failed += len(failures)
        self.watcher.ended(job, failures, refused)

    def bury(self, worker: Worker) -> None:
        """A worker's process has ended: as told, or by a signal, which becomes the record of its job's runs."""
        worker.process.join()
        self.workers.remove(worker)
        if worker.job is None:
            return
        code = worker.process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        write_killed(worker.job, self.store, f"the worker process ended by {how}")
        self.close(worker.job)
        if self.queue:
            self.workers.append(self.spawn(worker.device, self.layout))

    def stop(self) -> None:
        """Ask every worker to save its state, and wait for it; a second Ctrl-C does not wait."""
        for worker in self.workers:
            worker.process.terminate()
        until = time.monotonic() + GRACE
        with suppress(KeyboardInterrupt):
            for worker in self.workers:
                worker.process.join(max(0.1, until - time.monotonic()))
        for worker in self.workers:
            worker.process.kill()


def write_killed(job: Job, store: Store, how: str) -> None:
    """Failed records for the runs of a job whose process is gone; its checkpoint stays for the next launch."""
    from spurbench.bench.worker import failed, frame

    for run, record in zip(job.runs, frame(job), strict=True):
        if store.record(run.id) is None:
            store.write_record(failed(record, "killed", how))
        store.claims.remove(run.id)


def serve(pipe: Connection, root: str, plugins: list[str], retry: bool, parent: int) -> None:
    """The worker process: jobs come in through the pipe until None comes; SIGTERM means save and stop."""
    asked: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to everyone; the launcher decides
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))

    from spurbench.bench import registry
    from spurbench.bench.errors import UserError
    from spurbench.bench.worker import Stopped, run_job

    for path in plugins:
        registry.add_plugin(path)
    store = Store.open(root)

    def report(step: int) -> None:
        pipe.send(("progress", step))

    def stop() -> bool:
        return bool(asked) or os.getppid() != parent  # an orphan saves its state and ends

    while not asked and (fields := pipe.recv()) is not None:
        try:
            run_job(Job.from_dict(fields), store, report, stop, retry)
            pipe.send(("done", None))
        except Stopped:
            return
        except (UserError, OSError) as error:
            pipe.send(("refused", str(error)))


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set variables for the processes started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
