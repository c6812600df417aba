"""This machine as a pool: spawned processes, each at one end of a pipe."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from spurbench.bench.core.processes import environment
from spurbench.bench.jobs.job import Job
from spurbench.bench.launch import placement
from spurbench.bench.launch.placement import Layout
from spurbench.bench.launch.pool import Ended, News, Pool, Process, Terms, do_job

OUTSIDE = (0, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)  # 0: it was asked to save and end


@dataclass(eq=False)
class Spawned(Process):
    """A process of this machine."""

    process: BaseProcess
    pipe: Connection

    def give(self, job: Job | None) -> None:
        with suppress(OSError):
            self.pipe.send(job.to_dict() if job else None)

    def hear(self) -> News:
        try:
            return self.pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionResetError):
            raise self.end() from None

    def stop(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> Ended:
        """How it ended."""
        self.process.join()
        code = self.process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Ended(how, -code in OUTSIDE)


class Local(Pool):
    """Processes of this machine, by default one for each core or GPU."""

    def lay_out(self, device: str, jobs: int | None, threads: int | None, runs: int) -> Layout:
        return placement.choose(device, jobs, threads, runs)

    def start(self, layout: Layout, store: Path, terms: Terms) -> Process:
        """Threads are set in its environment, before torch is imported there."""
        here, there = mp.get_context("spawn").Pipe()
        with environment(layout.threads):
            process = mp.get_context("spawn").Process(
                target=serve, args=(there, store, terms, os.getpid()), daemon=True
            )
            process.start()
        there.close()
        return Spawned(process, here)

    def wait(self, processes: Sequence[Process], seconds: float) -> Sequence[Process]:
        by_pipe = {process.pipe: process for process in processes if isinstance(process, Spawned)}
        return [by_pipe[pipe] for pipe in wait(list(by_pipe), seconds)]  # type: ignore[index]


def serve(pipe: Connection, store: Path, terms: Terms, parent: int) -> None:
    """The process: jobs come in through the pipe until None comes; SIGTERM means save and stop."""
    asked: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to everyone; the launcher decides
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))

    from spurbench.bench.jobs.session import Stopped

    def tell(kind: str, value: Any) -> None:
        try:
            pipe.send((kind, value))
        except OSError:  # no one is there any more; that is no run's fault
            asked.append(0)

    def stop() -> bool:
        return bool(asked) or os.getppid() != parent  # an orphan saves its state and ends

    with suppress(EOFError, ConnectionResetError, Stopped):
        while not stop() and (job := pipe.recv()) is not None:
            do_job(job, store, terms, tell, stop)
