"""What a pool is: processes, of this machine or of others, that do jobs while the command that has them waits.

A pool is one class, announced as an entry point of the group `spurbench.pools`. It only starts processes, passes on
what they say, and ends them: who gets which job, and what becomes of a job whose process dies, is the same for all and
is decided in `dispatch.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spurbench.bench.jobs.job import Job, Redo
from spurbench.bench.launch.placement import Layout

News = tuple[str, Any]
"""What a process says of its job: `begun` and who it is, `progress` and the step, `done`, `refused` and the reason."""


@dataclass(frozen=True)
class Terms:
    """How the processes of a launch treat their jobs."""

    plugins: Sequence[str] = ()  # files that they add
    redo: Redo = Redo()
    seconds: float | None = None  # that a run may take; None: as long as it does


class Ended(Exception):
    """How a process ended, and whether something outside it was the cause, so that its job may succeed elsewhere."""

    def __init__(self, how: str, outside: bool) -> None:
        super().__init__(how)
        self.outside = outside


class Process(ABC):
    """A process of a pool. It does one job at a time and says how far it is."""

    @abstractmethod
    def give(self, job: Job | None) -> None:
        """Hand it a job; None: there are no more, and it ends."""

    @abstractmethod
    def hear(self) -> News:
        """What it says next, once the pool has found it to say something.

        Errors: Ended if it has; UserError if it could not be started.
        """

    @abstractmethod
    def stop(self) -> None:
        """Ask it to save the state of its job and to end."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, if it has not ended."""


class Pool(ABC):
    """A place to run jobs. It is made when a command begins to need it, and closed when that is done."""

    @abstractmethod
    def lay_out(self, device: str, jobs: int | None, threads: int | None, runs: int) -> Layout:
        """How so many runs are laid out here; device, jobs and threads are the user's. Errors: UserError."""

    @abstractmethod
    def start(self, layout: Layout, store: Path, terms: Terms) -> Process:
        """Start a process that works for the store at a path."""

    @abstractmethod
    def wait(self, processes: Sequence[Process], seconds: float) -> Sequence[Process]:
        """Those that have something to say or have ended, as soon as there are any, or after so many seconds none."""

    def close(self) -> None:
        """Leave the place as it was."""
        return


def do_job(
    job: Mapping[str, Any], store: Path, terms: Terms, tell: Callable[[str, Any], None], stop: Callable[[], bool]
) -> None:
    """What a process of a pool does for one job, given as plain values. Raises Stopped after `stop()`, state saved."""
    from spurbench.bench.core.errors import UserError
    from spurbench.bench.jobs.worker import run_job
    from spurbench.bench.plugins import registry
    from spurbench.bench.store.claims import holder
    from spurbench.bench.store.store import Store

    try:
        for path in terms.plugins:
            registry.add_plugin(path)
        tell("begun", holder())
        run_job(Job.from_dict(job), Store.open(store), lambda step: tell("progress", step), stop, terms.redo)
        tell("done", None)
    except (UserError, OSError) as error:
        tell("refused", str(error))
