"""Processes that do a command's work and end when it does, however that is. No torch here: some need none.

The workers of `bench/launch/local.py` are other ones: asked to stop, they save their state first.
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
    """Each task with what comes of it, as they are done, in so many processes, each of which begins with `prepare`.

    Errors: what `work` raises; UserError if a process was killed; KeyboardInterrupt after Ctrl-C or SIGTERM. After any
    of them the processes are ended at once, whatever they are at.
    """
    before = mp.active_children()
    try:
        with environment():
            pool = ProcessPoolExecutor(processes, mp.get_context("spawn"), begin, (prepare,))
    except OSError as error:  # semaphores are files below /dev/shm
        raise UserError(
            f"several processes cannot share work here ({error.strerror}; /dev/shm?): --jobs 1 does"
        ) from None
    with interruptible() as asked:
        try:
            with environment():
                waiting = {pool.submit(work, task): task for task in tasks}
            left = set(waiting)
            while left:
                done, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
                if asked:
                    raise KeyboardInterrupt
                for one in done:
                    yield waiting[one], one.result()
        except BaseException as error:
            for process in mp.active_children():
                if process not in before:
                    process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a process was killed (memory?); what was finished is kept: the same command goes on, see --jobs"
                ) from None
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def variables(threads: int | None = None) -> dict[str, str]:
    """The environment of every Python process that is started for a command, on top of what it inherits.

    Files of the working directory are no modules in it, whatever they are called, and the libraries that read their
    number of threads as they are loaded find it there.
    """
    found = {"PYTHONSAFEPATH": "1"}
    return found | dict.fromkeys(machine.THREADS, str(threads)) if threads else found


@contextmanager
def environment(threads: int | None = None) -> Iterator[None]:
    """Processes of `multiprocessing` started inside have the environment of `variables`, and so have its helpers."""
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
    """After Ctrl-C or SIGTERM in a command that can go on from what is finished: one line and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; finished work is kept: run the same command again to continue", file=sys.stderr)
        sys.exit(130)


def begin(prepare: Callable[[], None] | None) -> None:
    """In a new process: Ctrl-C, which a terminal sends to everyone, is for the command that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if prepare:
        prepare()


def end_with_parent() -> None:
    """Let this process end when the command that started it does, even if that was killed."""
    parent = mp.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def interruptible(once: bool = False) -> Iterator[list[int]]:
    """The signals of Ctrl-C and SIGTERM that have come; an exception instead could be lost in a destructor.

    `once`: only the first waits to be looked at; the second one ends this process.
    """
    asked: list[int] = []

    def hear(number: int, frame: object) -> None:
        if once and asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        asked.append(number)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
