"""What a task of an array does: `python -m spurbench.slurm.task MANIFEST` finds its jobs and runs them.

SLURM's signals: before the time limit USR2 comes; the state is saved and the task puts itself back into the queue.
On preemption and on scancel TERM comes; the state is saved and the task waits for its end, because one that ended by
itself would not be put back by SLURM.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from spurbench.bench import registry
from spurbench.bench.errors import UserError
from spurbench.bench.job import Job
from spurbench.bench.store import TASK, Store


def main(manifest: str) -> int:
    """Run this task's jobs; the exit code."""
    asked: list[int] = []
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))

    from spurbench.bench.worker import Stopped, run_job

    os.environ[TASK] = os.environ.get("SLURM_JOB_ID", "")
    content = json.loads(Path(manifest).read_bytes())
    for path in content["plugins"]:
        registry.add_plugin(path)
    store = Store.open(content["store"])
    refused = 0
    for fields in content["tasks"][int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))]:
        job = Job.from_dict(fields)
        print(f"{job.title}: begins", flush=True)
        try:
            run_job(job, store, progress(job), lambda: bool(asked), content["retry"])
            print(f"{job.title}: ended", flush=True)
        except UserError as error:
            print(f"{job.title}: {error}", flush=True)
            refused = 2
        except Stopped:
            return leave(asked[0])
    return refused


def progress(job: Job) -> Callable[[int], None]:
    """Says how far a job is, once a minute."""
    last = [time.monotonic()]

    def report(step: int) -> None:
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            print(f"{job.title}: step {step:,} of {job.steps:,}", flush=True)

    return report


def leave(number: int) -> int:
    """Go back into the queue, or wait to be ended."""
    if number == signal.SIGUSR2:
        print("the time limit is near: the state is saved, the task goes back into the queue", flush=True)
        return subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False).returncode
    print("told to end: the state is saved", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
