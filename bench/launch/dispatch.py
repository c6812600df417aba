"""Jobs handed to the processes of a pool, one at a time each, until none is left or the user stops them."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.processes import interruptible
from spurbench.bench.core.terminal import plural
from spurbench.bench.jobs.job import Job
from spurbench.bench.launch.placement import Layout
from spurbench.bench.launch.pool import Ended, News, Pool, Process, Terms
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


Refusal = tuple[str, str]
"""The title of a job, or nothing if it is about none, and why it cannot be done."""


@dataclass
class Outcome:
    """How a launch ended: refused jobs are the user's to mend, interrupted ones go on when run again."""

    refused: list[Refusal] = field(default_factory=list)
    failed: int = 0
    interrupted: bool = False
    unsaved: bool = False  # whether a process was ended before it had saved its state


@dataclass
class Worker:
    """A process, the job it has, and what it said of that."""

    process: Process
    device: str
    job: Job | None = None
    who: dict[str, Any] = field(default_factory=dict)  # as the claims that it holds say
    since: float | None = None  # when it began with the job
    step: int = 0  # the last one that it reported
    over: float | None = None  # when it was asked to stop because the job's time is over


def launch(jobs: Iterable[Job], layout: Layout, store: Store, watcher: Watcher, terms: Terms, pool: Pool) -> Outcome:
    """Run all jobs; returns when none is left or after Ctrl-C or SIGTERM, states saved."""
    launched = Launch(deque(jobs), layout, store, watcher, terms, pool)
    with interruptible(once=layout.inside) as asked:
        if layout.inside:
            launched.run_inside(asked)
            return launched.outcome
        try:
            for device in layout.devices[: len(launched.queue)]:
                launched.start(device)
            while launched.workers and not asked:
                launched.wait_for_news()
        finally:
            launched.outcome.interrupted = bool(launched.workers)
            launched.stop(asked)
    return launched.outcome


@dataclass
class Launch:
    """A launch under way."""

    queue: deque[Job]
    layout: Layout
    store: Store
    watcher: Watcher
    terms: Terms
    pool: Pool
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
                self.outcome.refused.append((job.title, str(error)))
                refused = True
            self.report_end(job, refused)
        self.outcome.interrupted = bool(asked)

    def start(self, device: str) -> None:
        """A new process, with a job."""
        root = Path(os.path.abspath(self.store.root))
        self.workers.append(Worker(self.pool.start(self.layout, root, self.terms), device))
        self.give_job(self.workers[-1])

    def give_job(self, worker: Worker) -> None:
        """Give a worker its next job, or tell it to end."""
        worker.job, worker.since, worker.step = None, None, 0
        if self.queue and worker.over is None:
            job = self.queue.popleft()
            worker.job = replace(job, options=replace(job.options, device=worker.device))
            self.watcher.started(worker.job)
        worker.process.give(worker.job)

    def wait_for_news(self) -> None:
        """Wait for news from any worker and act on it."""
        by_process = {worker.process: worker for worker in self.workers}
        for process in self.pool.wait(list(by_process), 1.0):
            try:
                self.receive(by_process[process], process.hear())
            except Ended as end:
                self.replace_ended(by_process[process], end)
            except UserError as error:
                self.drop(by_process[process], str(error))
        for worker in self.workers:
            self.enforce_time_limit(worker)

    def enforce_time_limit(self, worker: Worker) -> None:
        """End a process whose job has had its time: asked at first, so that it saves its state, then without asking."""
        if self.terms.seconds is None or worker.job is None or worker.since is None:
            return
        now = time.monotonic()
        if worker.over is None and now - worker.since > self.terms.seconds * len(worker.job.runs):
            worker.over = now
            worker.process.stop()
        elif worker.over is not None and now - worker.over > HANGING:
            worker.process.kill()

    def receive(self, worker: Worker, news: News) -> None:
        kind, value = news
        assert worker.job is not None
        if kind == "begun":  # what it took to start the process is not the run's
            worker.since, worker.who = time.monotonic(), value
            return
        if kind == "progress":
            worker.step = value
            self.watcher.progress(worker.job, value)
            return
        if kind == "refused":
            self.outcome.refused.append((worker.job.title, str(value)))
        self.report_end(worker.job, kind == "refused")
        self.give_job(worker)

    def report_end(self, job: Job, refused: bool = False) -> None:
        """Tell the watcher how a job ended, from its records."""
        records = {run.id: self.store.record(run.id) for run in job.runs}
        failures = [record for record in records.values() if record and record.status == "failed"]
        lacking = [id for id, record in records.items() if record is None]
        if lacking and not refused and not self.store.claims.living().keys() & set(lacking):
            self.outcome.refused.append(
                (job.title, f"{plural(len(lacking), 'run')} left no record, such as {lacking[0]}")
            )
            refused = True
        self.outcome.failed += len(failures)
        self.watcher.ended(job, failures, refused)

    def replace_ended(self, worker: Worker, end: Ended) -> None:
        """Where a process has ended: its job is tried again or has failed, and another process takes its place."""
        self.workers.remove(worker)
        for id, held in self.store.claims.living().items() if worker.who else ():
            if worker.who.items() <= held.items():  # that of another machine's process would seem to live on
                self.store.claims.remove(id)
        said = len(self.outcome.refused)
        if worker.job is not None and not self.try_again(worker, worker.job, end):
            self.report_end(worker.job, len(self.outcome.refused) > said)
        if self.queue:
            self.start(worker.device)

    def drop(self, worker: Worker, why: str) -> None:
        """Where a process cannot be started: others do its job, if there are any."""
        self.workers.remove(worker)
        self.queue.extendleft([worker.job] if worker.job else [])
        if ("", why) not in self.outcome.refused:
            self.outcome.refused.append(("", why))

    def try_again(self, worker: Worker, job: Job, end: Ended) -> bool:
        """Whether the job of a process that ended goes back into the queue; if not, its runs get failed records."""
        if worker.over is not None:
            kept = any(checkpoint_of(self.store, run.id).exists() for run in job.runs)
            saved = f"the state near step {worker.step:,} of {job.steps:,} is saved" if kept else "nothing is saved"
            self.fail(job, "time_limit", f"stopped after {self.terms.seconds:g} s a run; {saved}")
            return False
        self.deaths[job.name] += 1
        if end.outside and self.deaths[job.name] < TRIES:
            self.queue.appendleft(job)
            return True
        times = f", {self.deaths[job.name]} times (memory?)" if end.outside else ""
        self.fail(job, "killed" if end.outside else "crash", f"the worker process ended: {end}{times}")
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
                self.outcome.refused.append((job.title, f"seed {run.seed}: {how}; its earlier record is kept"))
            self.store.claims.release(run.id)

    def stop(self, asked: Sequence[int]) -> None:
        """Ask every worker to save its state, and wait for it; after a second Ctrl-C no longer."""
        left = [worker.process for worker in self.workers]
        for process in left:
            process.stop()
        until = time.monotonic() + GRACE
        while left and len(asked) < 2 and time.monotonic() < until:
            for process in self.pool.wait(left, 1.0):
                try:
                    if process.hear()[0] in ("done", "refused"):
                        process.give(None)
                except (Ended, UserError):
                    left.remove(process)
        for process in left:
            process.kill()
        self.outcome.unsaved = bool(left)
