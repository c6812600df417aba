"""Commands of spurbench in processes of their own, and how long they take."""

from __future__ import annotations

import subprocess
import sys
import time

PROGRAM = "from spurbench.bench.cli.main import main; main()"


def run_program(program: str, *arguments: str) -> str:
    """What a Python program prints."""
    line = [sys.executable, "-c", program, *arguments]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout


def command(*arguments: str) -> str:
    """What a command prints."""
    return run_program(PROGRAM, *arguments)


def seconds(program: str, *arguments: str) -> float:
    """How long a Python program takes, its start included."""
    begun = time.perf_counter()
    run_program(program, *arguments)
    return time.perf_counter() - begun


def command_seconds(*arguments: str) -> float:
    """How long a command takes, the start of Python included."""
    return seconds(PROGRAM, *arguments)
