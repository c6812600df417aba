"""What a user sees while jobs run: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from spurbench.bench.core.terminal import duration, line
from spurbench.bench.jobs.job import Job
from spurbench.bench.records.record import Record


class Pace:
    """Seconds per step of each cell measured so far, and from them the remaining time."""

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        self.workers = max(1, workers)
        self.left = {job.name: job.steps for job in jobs}
        self.cell = {job.name: job.runs[0].cell_key for job in jobs}
        self.seen: dict[str, tuple[int, float]] = {}  # job → step and time of its first report
        self.per_step: dict[str, float] = {}  # cell → seconds
        self.begun = time.monotonic()
        self.steps = 0

    def record_step(self, job: Job, step: int) -> None:
        now = time.monotonic()
        first, since = self.seen.setdefault(job.name, (step, now))
        self.steps += max(0, self.left[job.name] - (job.steps - step))
        self.left[job.name] = job.steps - step
        if step > first:
            self.per_step[self.cell[job.name]] = (now - since) / (step - first)

    @property
    def rate(self) -> float:
        """Steps per second over all workers since the beginning."""
        return self.steps / max(time.monotonic() - self.begun, 1e-9)

    def eta(self) -> str:
        """The remaining time; cells not measured yet are assumed to cost the mean of the others."""
        if not self.per_step:
            return "?"
        mean = sum(self.per_step.values()) / len(self.per_step)
        seconds = sum(n * self.per_step.get(self.cell[name], mean) for name, n in self.left.items()) / self.workers
        return duration(seconds)


class Lines:
    """A line for each job that ends."""

    def __init__(self, console: Console, jobs: Sequence[Job], workers: int) -> None:
        self.console, self.total, self.ended_jobs = console, len(jobs), 0
        self.pace = Pace(jobs, workers)
        self.begun: dict[str, float] = {}

    def started(self, job: Job) -> None:
        """A job has begun, perhaps once more after its process was killed."""
        self.begun[job.name] = time.monotonic()
        self.pace.seen.pop(job.name, None)

    def progress(self, job: Job, step: int) -> None:
        self.pace.record_step(job, step)

    def ended(self, job: Job, failures: list[Record], refused: bool = False) -> None:
        self.ended_jobs += 1
        self.pace.record_step(job, job.steps)
        took = duration(time.monotonic() - self.begun[job.name])
        left = "" if self.ended_jobs == self.total else f", {self.pace.eta()} left"
        head = f"{self.ended_jobs}/{self.total} {job.title}: "
        if not failures:
            how = "not run, see below" if refused else f"done in {took}"
            self.console.print(line(f"{head}{how}{left}"), soft_wrap=True)
        for record in failures:
            why = record.cause and f"{record.cause.kind}: {record.cause.message}"
            text = f"{head}seed {record.seed} failed, {why}"
            self.console.print(line(text), style="red", soft_wrap=True)


class Bars(Lines):
    """One bar for all jobs and one for each running job; failures are printed above."""

    def __init__(self, console: Console, jobs: Sequence[Job], workers: int) -> None:
        super().__init__(console, jobs, workers)
        note = TextColumn("{task.fields[note]}", markup=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), note)
        self.bars = Progress(*columns, console=console, transient=True)
        self.all = self.bars.add_task("all jobs", total=len(jobs), note="")
        self.tasks: dict[str, TaskID] = {}
        self.bars.start()

    def started(self, job: Job) -> None:
        super().started(job)
        if job.name in self.tasks:
            self.bars.reset(self.tasks[job.name], note="")
        else:
            self.tasks[job.name] = self.bars.add_task(line(job.title), total=job.steps, note="")

    def progress(self, job: Job, step: int) -> None:
        super().progress(job, step)
        per_step = self.pace.per_step.get(self.pace.cell[job.name])
        note = f"{1 / per_step:,.1f} steps/s, {duration((job.steps - step) * per_step)} left" if per_step else ""
        self.bars.update(self.tasks[job.name], completed=step, note=note)
        self.bars.update(self.all, note=f"{self.pace.rate:,.1f} steps/s, {self.pace.eta()} left")

    def ended(self, job: Job, failures: list[Record], refused: bool = False) -> None:
        super().ended(job, failures, refused)
        self.bars.remove_task(self.tasks.pop(job.name))
        self.bars.update(self.all, completed=self.ended_jobs)

    def close(self) -> None:
        self.bars.stop()
