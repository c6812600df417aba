"""What a task of an array does: `python -m spurbench.bench.cluster.task MANIFEST` finds its jobs and runs them.

Near the time limit the task gets USR2; it saves its state and requeues itself.
On preemption and cancellation it gets TERM; it saves its state and waits to be killed, because a task that ends by
itself would not be requeued. If it is not killed, it continues from the saved state.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # started without -P; files in the working directory are not modules

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spurbench.bench.cluster.arrays import VOID, Array
from spurbench.bench.cluster.launcher import Launcher, TaskIdentity, find_launcher, launchers
from spurbench.bench.core import terminal
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import write_atomically
from spurbench.bench.core.hashing import canonical
from spurbench.bench.jobs.job import Job, Redo
from spurbench.bench.plugins import registry
from spurbench.bench.records.record import is_settled
from spurbench.bench.store.claims import TASK
from spurbench.bench.store.store import Store, checkpoint_of

PATIENCE = 120  # seconds to wait for a run that another process has
GRACE = 40  # seconds to wait for KILL after TERM; SLURM sends it after 30 unless a site sets otherwise
STARTS = 5  # a task that starts this often without progress is given up


def main(manifest: str) -> int:
    """Run this task's jobs; the exit code."""
    terminal.prepare()
    signals: list[int] = []
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(number))

    try:
        launcher = launcher_of(Path(manifest))
        here = launcher.here() or TaskIdentity(None, 0, "")
        if here.task:
            os.environ[TASK] = here.task
        content = json.loads(Path(manifest).read_bytes())
        jobs = [Job.from_dict(fields) for fields in dict(enumerate(content["tasks"]))[here.index]]
        if not is_known(Path(manifest), here):
            print("this array counts as not sent: another one has its runs", flush=True)
            return 0
        for path in content.get("copies", content.get("plugins", ())):
            registry.add_plugin(path)
        store = Store.open(content["store"])
        if not belongs(Path(manifest), store):
            raise UserError(f"{store.root} is not the store that this array was submitted for, which was moved")
    except UserError as error:
        print(error, flush=True)
        return 2
    except (OSError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__}: {error}"
        print(f"cannot read the manifest {manifest} ({cause}); was the store moved or deleted?", flush=True)
        return 2
    if count_starts(Path(manifest), here.index, jobs, store) > STARTS:
        give_up(jobs, store)
        return 3
    from spurbench.bench.jobs.session import Stopped
    from spurbench.bench.jobs.worker import run_job

    refused, redo, left = 0, Redo(content.get("retry", False)), jobs
    while left:
        job = left[0]
        if not belongs(Path(manifest), store):
            print(f"{store.root} is no longer the store this array was submitted for: the task stops", flush=True)
            return 2
        print(f"{job.title}: begins", flush=True)
        try:
            run_job(job, store, progress(job), lambda: bool(signals), redo)
            until = time.monotonic() + PATIENCE
            while (
                not signals
                and time.monotonic() < until
                and not all(is_settled(store.record(run.id)) for run in job.runs)
            ):
                time.sleep(2)  # another process has it, and may be about to end
                if not belongs(Path(manifest), store):
                    break
                run_job(job, store, progress(job), lambda: bool(signals))
            print(f"{job.title}: ended", flush=True)
        except UserError as error:
            print(f"{job.title}: {error}", flush=True)
            refused = 2
        except Stopped:
            if (code := requeue_or_wait(launcher, here, signals)) is not None:
                return code
            continue
        left = left[1:]
    return refused


def launcher_of(manifest: Path) -> Launcher:
    """The launcher that started this process: its folder holds the manifest, unless that was written by hand."""
    name = manifest.resolve().parent.parent.name
    return find_launcher(name if name in launchers() else None)


def is_known(manifest: Path, here: TaskIdentity) -> bool:
    """Whether this array's id is the one noted for it; if none was noted, it is noted now."""
    array = Array(manifest.parent, int(manifest.stem.partition("-")[2]))
    if here.array is None or not (manifest.parent / "submission.json").exists():
        return True  # started by hand
    if array.job is None:
        array.note(here.array)
    return array.id in (here.array, None) and array.job != VOID


def belongs(manifest: Path, store: Store) -> bool:
    """Whether a store is the one that an array was submitted for, not one made later in its place.

    A manifest outside a store was written by hand.
    """
    if not (manifest.parent / "submission.json").exists() and manifest.parent.exists():
        return True
    return (store.root / manifest.parent.parent.name / manifest.parent.name / manifest.name).exists()


def count_starts(manifest: Path, index: int, jobs: list[Job], store: Store) -> int:
    """How often this task has been started with the same runs done and the same checkpoint, this time included."""
    files = [checkpoint_of(store, run.id) for job in jobs for run in job.runs]
    saved = [file.stat().st_mtime_ns for file in files if file.exists()]
    here = [[run.id for job in jobs for run in job.runs if store.record(run.id)], saved]
    file, count = manifest.with_name(f"{manifest.stem}-starts") / f"{index}.json", 0
    with suppress(OSError, TypeError, ValueError):
        before, count = json.loads(file.read_bytes())
        count = count if before == here else 0
    write_atomically(file, canonical([here, count + 1]))
    return count + 1


def give_up(jobs: list[Job], store: Store) -> None:
    """Write failed records for what a task has not done after STARTS starts."""
    from spurbench.bench.jobs.recording import begin_record, fail

    words = f"started {STARTS} times without getting anywhere"
    for job in jobs:
        for run in job.runs:
            if not is_settled(store.record(run.id)):
                store.write_record(fail(begin_record(run, job.options), "node_failure", words))


def progress(job: Job) -> Callable[[int], None]:
    """Print a job's progress once a minute."""
    last = [time.monotonic()]

    def report(step: int) -> None:
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            print(f"{job.title}: step {step:,} of {job.steps:,}", flush=True)

    return report


def requeue_or_wait(launcher: Launcher, here: TaskIdentity, asked: list[int]) -> int | None:
    """Requeue the task, or wait to be killed; returns the exit code, or None to continue because it was not killed."""
    if signal.SIGUSR2 not in asked:
        print("asked to stop: the state is saved", flush=True)
        until = time.monotonic() + GRACE
        while time.monotonic() < until and signal.SIGUSR2 not in asked:
            time.sleep(0.2)
    if signal.SIGUSR2 in asked:
        return requeue(launcher, here)
    print(f"not killed within {GRACE} s: continuing from the saved state", flush=True)
    asked.clear()
    return None


def requeue(launcher: Launcher, here: TaskIdentity) -> int:
    """Put this task back into the queue, from which it starts again under the same id; returns the exit code."""
    print("the time limit is near: the state is saved and the task is requeued", flush=True)
    until = time.monotonic() + GRACE
    while why := launcher.requeue(here.task):
        if time.monotonic() > until:
            print(f"requeuing failed: {why}; `spurbench submit` sends it again", flush=True)
            return 4
        time.sleep(2)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
