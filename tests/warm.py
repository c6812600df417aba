"""`spurbench` in a process of its own that has imported torch already: it and its workers are forked, not started anew.

To the system they are processes like any other: they have groups, get signals, and are killed. What it takes to start
one anew is tested where the command is started for real.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from pathlib import Path
from typing import Any

SERVER = mp.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["sklearn.datasets", "spurbench.bench.cli.main", "spurbench.bench.api.running", "spurbench.bench.jobs.session",
     "spurbench.bench.jobs.worker", "spurbench.bench.jobs.retrain", "scipy.spatial"])  # fmt: skip


class Running:
    """Such a process, with what tests use of `subprocess.Popen`."""

    def __init__(self, arguments: Any, said: tuple[Path, Path], **more: Any) -> None:
        self.said = said
        self.process = SERVER.Process(target=call, args=(list(map(str, arguments)), said), kwargs=more)
        self.process.start()
        assert self.process.pid
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("spurbench", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.said[0].read_text(), self.said[1].read_text()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def start(*arguments: Any, cwd: Any = None) -> Running:
    """The command in the background, in a process group of its own."""
    folder = tempfile.TemporaryDirectory()
    said = Path(folder.name, "out"), Path(folder.name, "err")
    running = Running(arguments, said, cwd=cwd, environment=dict(os.environ))
    weakref.finalize(running, folder.cleanup)
    return running


def call(
    arguments: list[str], said: tuple[Path, Path], environment: Mapping[str, str], cwd: Any = None, first: str = ""
) -> None:
    """What the process does: `first`, then the command."""
    os.setsid()
    for number, file in enumerate(said, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd or os.getcwd())
    sys.argv = ["spurbench", *arguments]
    context = Forking()
    mp.get_context = lambda method=None: context  # type: ignore[assignment]
    exec(first, {})

    from spurbench.bench.cli.main import main

    main()


class Forking(ForkContext):
    """Processes with neither a signal handler nor an end of a pipe that one started anew would not have."""

    def __init__(self) -> None:
        self.ends: list[Connection] = []

    def Pipe(self, duplex: bool = True) -> Any:  # noqa: N802
        here, there = super().Pipe(duplex)
        self.ends.append(here)
        return here, there

    def Process(self, target: Callable[..., None], args: Any, **more: Any) -> Any:  # type: ignore[override]  # noqa: N802
        def apart() -> None:
            for end in self.ends:
                end.close()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            target(*args)

        return ForkContext.Process(target=apart, **more)
