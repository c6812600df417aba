"""Processes that do a command's work and end when it does, however it ends. No torch here: some do not need it.

The workers of `bench/launch/local.py` are different: when asked to stop, they save their state first.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import TypeVar

from spurbench.bench.core import machine
from spurbench.bench.core.errors import UserError

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


def run_in_processes(
    work: Callable[[Task], Outcome], tasks: Sequence[Task], processes: int, prepare: Callable[[], None] | None = None
) -> Iterator[tuple[Task, Outcome]]:
    """Each task with its outcome, in order of completion, from `processes` that each begin with `prepare`.

    Errors: what `work` raises; UserError if a process was killed; KeyboardInterrupt after Ctrl-C or SIGTERM. After any
    of them the processes are terminated at once.
    """
    before = mp.active_children()
    try:
        with environment():
            pool = ProcessPoolExecutor(processes, mp.get_context("spawn"), start_worker, (prepare,))
    except OSError as error:  # semaphores are files below /dev/shm
        raise UserError(
            f"several processes cannot share work here ({error.strerror}; /dev/shm?): use --jobs 1"
        ) from None
    with interruptible() as signals:
        try:
            with environment():
                waiting = {pool.submit(work, task): task for task in tasks}
            left = set(waiting)
            while left:
                done, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
                if signals:
                    raise KeyboardInterrupt
                for one in done:
                    yield waiting[one], one.result()
        except BaseException as error:
            for process in mp.active_children():
                if process not in before:
                    process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a process was killed (memory?); finished work is kept: run it again, with fewer --jobs if need be"
                ) from None
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def variables(threads: int | None = None) -> dict[str, str]:
    """The environment of every Python process that is started for a command, on top of what it inherits.

    With it, files in the working directory are never imported as modules, and libraries that read their number of
    threads when they are loaded find it.
    """
    found = {"PYTHONSAFEPATH": "1"}
    return found | dict.fromkeys(machine.THREADS, str(threads)) if threads else found


@contextmanager
def environment(threads: int | None = None) -> Iterator[None]:
    """Processes that `multiprocessing` starts inside get the environment of `variables`, and so do its helpers."""
    before = {name: os.environ.get(name) for name in variables(threads)}
    os.environ.update(variables(threads))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def stoppable() -> Iterator[None]:
    """After Ctrl-C or SIGTERM in a command that can be continued: print one line, and exit with code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; finished work is kept: run the same command again to continue", file=sys.stderr)
        sys.exit(130)


def start_worker(prepare: Callable[[], None] | None) -> None:
    """Set up a new process: Ctrl-C, which a terminal sends to all, is handled by the command that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if prepare:
        prepare()


def end_with_parent() -> None:
    """Make this process end when the command that started it does, even if that was killed."""
    parent = mp.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def interruptible(once: bool = False) -> Iterator[list[int]]:
    """The SIGINT and SIGTERM signals received so far; an exception instead could be lost in a destructor.

    With `once` only the first is recorded; a second one ends this process.
    """
    received: list[int] = []

    def record_signal(number: int, frame: object) -> None:
        if once and received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.append(number)

    before = {number: signal.signal(number, record_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
