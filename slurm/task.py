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
from contextlib import suppress
from pathlib import Path

from spurbench.bench import registry, terminal
from spurbench.bench.claims import TASK
from spurbench.bench.errors import UserError
from spurbench.bench.files import write_atomically
from spurbench.bench.job import Job, Redo
from spurbench.bench.record import canonical, settled
from spurbench.bench.store import Store, checkpoint_of

PATIENCE = 120  # seconds to wait for a run that another process has
STARTS = 5  # a task that starts so often without getting anywhere is given up


def main(manifest: str) -> int:
    """Run this task's jobs; the exit code."""
    terminal.prepare()
    asked: list[int] = []
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))

    from spurbench.bench.worker import Stopped, run_job

    os.environ[TASK] = os.environ.get("SLURM_JOB_ID", "")
    try:
        content = json.loads(Path(manifest).read_bytes())
    except (OSError, ValueError) as error:
        print(f"cannot read the manifest {manifest}: {error}; was the store moved or deleted?", flush=True)
        return 2
    for path in content["copies"]:
        registry.add_plugin(path)
    store = Store.open(content["store"])
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    jobs = [Job.from_dict(fields) for fields in content["tasks"][index]]
    if starts(Path(manifest), index, jobs, store) > STARTS:
        give_up(jobs, store)
        return 3
    refused, redo = 0, Redo(content["retry"], content.get("fresh", False))
    for job in jobs:
        print(f"{job.title}: begins", flush=True)
        try:
            until = time.monotonic() + PATIENCE
            run_job(job, store, progress(job), lambda: bool(asked), redo)
            while not asked and time.monotonic() < until and not all(settled(store.record(run.id)) for run in job.runs):
                time.sleep(2)  # another process has it, perhaps one that is about to end
                run_job(job, store, progress(job), lambda: bool(asked), redo)
            print(f"{job.title}: ended", flush=True)
        except UserError as error:
            print(f"{job.title}: {error}", flush=True)
            refused = 2
        except Stopped:
            return leave(asked[0])
    return refused


def starts(manifest: Path, index: int, jobs: list[Job], store: Store) -> int:
    """How often this task has been started with the same runs done and the same checkpoint, this time included."""
    files = [checkpoint_of(store, run.id) for job in jobs for run in job.runs]
    saved = [file.stat().st_mtime_ns for file in files if file.exists()]
    here = [[run.id for job in jobs for run in job.runs if store.record(run.id)], saved]
    file, count = manifest.with_name(f"{manifest.stem}-starts") / f"{index}.json", 0
    with suppress(FileNotFoundError, ValueError):
        before, count = json.loads(file.read_bytes())
        count = count if before == here else 0
    write_atomically(file, canonical([here, count + 1]))
    return count + 1


def give_up(jobs: list[Job], store: Store) -> None:
    """Failed records for what a task has not done in so many starts."""
    from spurbench.bench.recording import failed, frame

    words = f"started {STARTS} times without getting anywhere"
    for job in jobs:
        for run in job.runs:
            if not settled(store.record(run.id)):
                store.write_record(failed(frame(run, job.options), "node_failure", words))


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
