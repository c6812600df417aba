"""Why a run failed, and what is no fault of the run's."""

from __future__ import annotations

import errno

import torch

from spurbench.bench.core.errors import BadSeed, StoreTrouble
from spurbench.bench.jobs.bases import BaseFailed
from spurbench.bench.jobs.session import Outdated, Stopped
from spurbench.bench.plugins.method import CannotBegin
from spurbench.bench.records.run import Run
from spurbench.bench.store.claims import Lost

NOT_THE_RUNS = (Stopped, Lost, Outdated, StoreTrouble, KeyboardInterrupt)
"""What ends work on a run and is no fault of the run's."""


def find_cause(run: Run, error: BaseException) -> tuple[str, str]:
    """Why a run failed: the kind, and a line for the user."""
    if isinstance(error, BadSeed):
        return "bad_data", str(error)
    if isinstance(error, BaseFailed):
        return "base_failed", str(error)
    if isinstance(error, CannotBegin):
        return "cannot_begin", str(error)
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return "out_of_memory", message + suggest_remedy(run)
    return "exception", message


def is_full(error: BaseException) -> bool:
    """Whether a disk has no room: not a run's fault, whoever wrote."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def suggest_remedy(run: Run) -> str:
    """What to change after running out of memory."""
    batch = run.training.get("batch")
    return f"; try training.batch {max(1, batch // 2)}" if batch else "; try a smaller training set or network"
