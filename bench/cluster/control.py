"""What a user can do with submitted tasks: cancel them, forget them, or collect why they ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from spurbench.bench.cluster.arrays import Array
from spurbench.bench.cluster.launcher import find_launcher
from spurbench.bench.cluster.submissions import Task, arrays_of, named, submitting_now, tasks, write_ends
from spurbench.bench.cluster.task_states import CANCELLED, confirm_sent, find_states, forget_answers, states_of_runs
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.terminal import plural, shell
from spurbench.bench.records.record import Record
from spurbench.bench.store.store import Store


def cancel(store: Store, patterns: Sequence[str]) -> list[Task]:
    """Cancel tasks for good; returns the tasks concerned. That they are to end is written down first.

    Errors: UserError if it is not known what is in the queue, if cancelling fails, and during a submission.
    """
    if submitting_now(store):
        raise UserError(f"a submission for {store.root} is under way: cancel once it has ended")
    why, every = confirm_sent(store), list(tasks(store))
    found = find_states(named(every, patterns)).values()
    why = why or next((state.why for state in found if state.state == "unknown"), None)
    living = [state.task for state in found if state.live]
    gone, unwritten = list[Task](), None
    for part in batches(living):
        unwritten = write_ends(replace(task, end=CANCELLED) for task in part) or unwritten
        launcher, cluster = part[0].launcher, part[0].array.elsewhere
        if trouble := launcher.cancel([task.id for task in part], cluster):
            if not trouble.unsure:
                write_ends(part)
            done = f"; {len(gone)} of {plural(len(living), 'task')} cancelled" if gone else ""
            raise UserError(f"{trouble.why}{done}; `status` shows what is still in the queue")
        gone += part
        forget_answers()
    if unwritten:
        raise UserError(f"cancelled {plural(len(gone), 'task')}, but that cannot be written down: {unwritten}")
    if why:
        raise UserError(
            f"cancelled {plural(len(gone), 'task')}; whether others are queued is not known: "
            f"{why}; {forget_hint(store)}"
        )
    return gone


def batches(living: Iterable[Task]) -> Iterator[list[Task]]:
    """Tasks grouped by launcher and cluster, at most as many as one call can take."""
    found: dict[tuple[str, str | None], list[Task]] = {}
    for task in living:
        found.setdefault((task.array.launcher, task.array.elsewhere), []).append(task)
    for (name, _), here in found.items():
        size = find_launcher(name).ids_per_call
        yield from (here[at : at + size] for at in range(0, len(here), size))


def forget(store: Store) -> list[Array]:
    """Treat as not sent the arrays whose state, or whose acceptance, cannot be known; returns these arrays.

    Tasks of theirs that start later do nothing; running ones continue, and their claims protect their runs.
    Errors: UserError during a submission, or if a batch system does not answer at all, which may be temporary.
    """
    if submitting_now(store):
        raise UserError(f"a submission for {store.root} is under way: forget what is left of it once it has ended")
    for launcher in {array.launcher: find_launcher(array.launcher) for array in arrays_of(store)}.values():
        if not launcher.responds():
            raise UserError(
                f"{launcher.title} does not answer here: nothing is forgotten, since it may know all once it answers"
            )
    confirm_sent(store)
    unsure = [state.task.array for state in find_states(list(tasks(store))).values() if state.state == "unknown"]
    unsure += [array for array in arrays_of(store) if array.job is None]
    gone = list({array.token: array for array in unsure}.values())
    for array in gone:
        array.forget()
    return gone


def forget_hint(store: Store) -> str:
    """What to do if it will never be known what became of tasks."""
    return f"if that persists, `spurbench cancel --forget {shell(store.root)}` treats them as not sent"


def collect(store: Store) -> list[Record]:
    """Write a failed record for every run whose task is over without a record; returns these records.

    Errors: UserError if it is not known what is in the queue.
    """
    from spurbench.bench.jobs.recording import begin_record, fail

    why, records, living = confirm_sent(store), [], store.claims.living()
    for id, state in states_of_runs(store, tasks(store)).items():
        if state.state == "unknown":
            why = why or state.why
        held = living.get(id)
        works = held is not None and not held["task"]  # another launcher runs it; a task's claim dies with the task
        if state.state == "over" and store.record(id) is None and not works:
            job, run = next((job, run) for job in state.task.jobs for run in job.runs if run.id == id)
            kind, _, text = state.why.partition(": ")
            records.append(fail(begin_record(run, job.options, hardware=False), kind, text))
            store.write_record(records[-1])
    if why:
        raise UserError(
            f"{plural(len(records), 'run')} recorded; the state of others is not known: {why}; {forget_hint(store)}"
        )
    return records
