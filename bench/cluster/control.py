"""What a user may do about what was submitted: cancel it, forget it, or collect why it ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from spurbench.bench.cluster.arrays import Array
from spurbench.bench.cluster.launcher import find_launcher
from spurbench.bench.cluster.submissions import Task, arrays_of, named, submitting_now, tasks, write_ends
from spurbench.bench.cluster.task_states import CANCELLED, find_states, forget_answers, settle, states_of_runs
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.terminal import shell
from spurbench.bench.records.record import Record
from spurbench.bench.store.store import Store


def cancel(store: Store, patterns: Sequence[str]) -> list[Task]:
    """Take tasks out of the queue for good; the tasks concerned. That they are to end is written down first.

    Errors: UserError if it is not told what is in the queue, or tasks are not taken out; during a submission.
    """
    if submitting_now(store):
        raise UserError(f"a submission for {store.root} is under way: cancel when it has ended")
    why, every = settle(store), list(tasks(store))
    found = find_states(named(every, patterns)).values()
    why = why or next((state.why for state in found if state.state == "unknown"), None)
    living = [state.task for state in found if state.live]
    gone, unwritten = list[Task](), None
    for part in parts(living):
        unwritten = write_ends(replace(task, end=CANCELLED) for task in part) or unwritten
        launcher, cluster = part[0].launcher, part[0].array.elsewhere
        if trouble := launcher.cancel([task.id for task in part], cluster):
            if not trouble.unsure:
                write_ends(part)
            done = f"; {len(gone)} of {len(living)} tasks are cancelled" if gone else ""
            raise UserError(f"{trouble.why}{done}; look with `status` what is in the queue still")
        gone += part
        forget_answers()
    if unwritten:
        raise UserError(f"cancelled {len(gone)} tasks, but that they were cannot be written down: {unwritten}")
    if why:
        raise UserError(
            f"cancelled {len(gone)} tasks; others may be in the queue, which is not known: {why}; {way_out(store)}"
        )
    return gone


def parts(living: Iterable[Task]) -> Iterator[list[Task]]:
    """Tasks of one launcher and cluster each, as many as one call has room for."""
    found: dict[tuple[str, str | None], list[Task]] = {}
    for task in living:
        found.setdefault((task.array.launcher, task.array.elsewhere), []).append(task)
    for (name, _), here in found.items():
        size = find_launcher(name).ids_per_call
        yield from (here[at : at + size] for at in range(0, len(here), size))


def forget(store: Store) -> list[Array]:
    """Take the arrays for not sent of which it is not told how they stand, or whether they were taken; these arrays.

    What of them begins later does nothing; what runs goes on, and its claims keep others from its runs.
    Errors: UserError during a submission, or where a batch system does not answer at all, which may pass.
    """
    if submitting_now(store):
        raise UserError(f"a submission for {store.root} is under way: forget what is left of it when it has ended")
    for launcher in {array.launcher: find_launcher(array.launcher) for array in arrays_of(store)}.values():
        if not launcher.responds():
            raise UserError(
                f"{launcher.title} does not answer here: nothing is forgotten, as it may know all when it does"
            )
    settle(store)
    unsure = [state.task.array for state in find_states(list(tasks(store))).values() if state.state == "unknown"]
    unsure += [array for array in arrays_of(store) if array.job is None]
    gone = list({array.token: array for array in unsure}.values())
    for array in gone:
        array.forget()
    return gone


def way_out(store: Store) -> str:
    """What can be done where it will never be known what became of tasks."""
    return f"if that stays so, `spurbench cancel --forget {shell(store.root)}` takes them for not sent"


def collect(store: Store) -> list[Record]:
    """Give every run whose task is over without a record a failed one that says why; these records.

    Errors: UserError if it is not told what is in the queue.
    """
    from spurbench.bench.jobs.recording import begin_record, fail

    why, records, living = settle(store), [], store.claims.living()
    for id, state in states_of_runs(store, tasks(store)).items():
        if state.state == "unknown":
            why = why or state.why
        held = living.get(id)
        works = held is not None and not held["task"]  # another launcher does it; a task's claim dies with the task
        if state.state == "over" and store.record(id) is None and not works:
            job, run = next((job, run) for job in state.task.jobs for run in job.runs if run.id == id)
            kind, _, text = state.why.partition(": ")
            records.append(fail(begin_record(run, job.options, hardware=False), kind, text))
            store.write_record(records[-1])
    if why:
        raise UserError(f"{len(records)} runs are written down; how others stand is not known: {why}; {way_out(store)}")
    return records
