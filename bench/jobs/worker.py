"""One job: the runs of one cell that train together, from claim to record. Every launcher calls `run_job`."""

from __future__ import annotations

import errno
import itertools
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch

from spurbench.bench.core.errors import BadSeed, StoreTrouble, UserError
from spurbench.bench.jobs import recording, regrouping
from spurbench.bench.jobs.job import Job, Redo
from spurbench.bench.jobs.session import Context, Outdated, Report, Result, Stopped, start_over, train_stack
from spurbench.bench.plugins import registry
from spurbench.bench.provenance import edits, plugin_code
from spurbench.bench.records.record import Record
from spurbench.bench.records.run import Run
from spurbench.bench.store import checkpoints, weights
from spurbench.bench.store.checkpoints import Checkpoint
from spurbench.bench.store.claims import Lost, kept_alive
from spurbench.bench.store.store import Store, checkpoint_of

NOT_THE_RUNS = (Stopped, Lost, Outdated, StoreTrouble)
"""What ends work on a run and is no fault of the run's."""

TRIES = 3  # to have the networks of a base


def run_job(job: Job, store: Store, report: Report, stop: Callable[[], bool], redo: Redo | None = None) -> None:
    """Train, score and record the runs of a job that no one else has claimed or done.

    A run that raises or diverges leaves a failed record with its cause and does not touch the others. Raises Stopped
    once `stop()` is true, with the state saved: the same job goes on from there. Raises UserError for what the user is
    to mend, when everything else is done.
    """
    redo, context = redo or Redo(), Context(store, report, stop)
    if job.options.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("there is no GPU that torch can use here; --device cpu, or --gpus 0 on a cluster, does without")
    if job.runs[0].bases:
        wanted = [run for run in job.runs if is_wanted(run, job, store, redo)]
        make_bases(replace(job, runs=wanted), store, report, stop, redo)
    mine: list[Run] = []
    try:
        mine += (run for run in job.runs if store.claims.take(run.id))
        todo = [run for run in mine if redo.asks_for(store.record(run.id))]
        for run in todo:
            if not checkpoint_of(store, run.id).exists():  # that one goes on with what it has kept
                weights.forget(store, run.id)  # of an earlier time that it was done
        again = [run for run in mine if run not in todo and may_make_networks_again(run, job, context)]
        todo, context.recorded = todo + again, {run.id for run in again}
        with kept_alive(store.claims, [run.id for run in mine], lambda: (context.step, job.steps)) as context.lost:
            do_runs(replace(job, runs=todo), context)
    finally:
        for run in mine:
            store.claims.release(run.id)
    if context.troubles:
        raise UserError("; ".join(context.troubles))


def is_wanted(run: Run, job: Job, store: Store, redo: Redo) -> bool:
    """Whether a run of a job is to be trained, for its record or for its networks."""
    return redo.asks_for(store.record(run.id)) or lacks_networks(run, job, store)


def lacks_networks(run: Run, job: Job, store: Store) -> bool:
    """Whether a run that is done has not kept the networks that others start from."""
    if all(weights.has(store, run.id, step) for step in job.keep):
        return False
    record = store.record(run.id)
    return record is not None and record.done


def may_make_networks_again(run: Run, job: Job, context: Context) -> bool:
    """Whether a run lacks networks that it would come to once more; a trouble for the user if it would not."""
    record = context.store.record(run.id)
    if record is None or not lacks_networks(run, job, context.store):
        return False
    try:
        edits.check_unedited(record, ", and its networks are gone")
    except UserError as error:
        context.troubles[str(error)] = None
        return False
    return True


def make_bases(job: Job, store: Store, report: Report, stop: Callable[[], bool], redo: Redo) -> None:
    """Have the runs done that those of a job start from: here, or, where another process is at them, by that."""
    for bases in zip(*(run.bases for run in job.runs), strict=True):
        runs, keep = [run for run, _ in bases], bases[0][1]
        base = Job(list({run.id: run for run in runs}.values()), runs[0].method, job.options, keep)
        for tries in itertools.count():
            asked = redo if tries == 0 else Redo()
            waiting = [run for run in base.runs if is_wanted(run, base, store, asked)]
            if not waiting:
                break
            if tries == TRIES:
                raise UserError(f"{replace(base, runs=waiting).title}: its networks cannot be made here")
            run_job(replace(base, runs=waiting), store, lambda step: report(0), stop, asked)
            while any(run.id in store.claims.living() for run in waiting):
                if stop():
                    raise Stopped
                time.sleep(1)


def do_runs(job: Job, context: Context) -> None:
    """Do runs from their checkpoints, if they have any; those that stand at the same step train as one stack."""
    saved: dict[str, Checkpoint | None] = {}
    job = replace(job, runs=[run for run in job.runs if not done_from_predictions(run, job, context)])
    for run in job.runs:
        made_by(run)  # before the plug-ins are imported: what is edited later is not in them
        try:
            saved[run.id] = load_checkpoint(run, context.store)
        except UserError as error:
            context.troubles[str(error)] = None
    for runs in group_stackable([run for run in job.runs if run.id in saved], saved):
        attempt(replace(job, runs=runs), [saved[run.id] for run in runs], context)


def done_from_predictions(run: Run, job: Job, context: Context) -> bool:
    """Whether a run has its record by now, because it is another one but for what the predictions of that tell."""
    if job.keep or not regrouping.is_possible(run, context.store):
        return False
    begun = recording.begin_record(run, job.options)
    conclude(run, begun, partial(regrouping.regroup, run, begun, job.options, context.store), context)
    return True


def load_checkpoint(run: Run, store: Store) -> Checkpoint | None:
    """The checkpoint of a run, unless its plug-ins have been edited since it was saved: then the run starts over."""
    saved = checkpoints.load(run, store)
    changed = [kind for kind, code in made_by(run).items() if saved and saved.made.get(kind) != code]
    if not changed:
        return saved
    start_over(run, f"the {' and the '.join(changed)}", store)
    return None


def made_by(run: Run) -> edits.Version:
    """The code that this process makes a run with."""
    return {kind: plugin_code.loaded(kind, name) for kind, name in plugin_code.makers(run.to_dict()).items()}


def group_stackable(runs: Sequence[Run], saved: dict[str, Checkpoint | None]) -> list[list[Run]]:
    """The runs that may train as one stack; one by one where a method cannot be lifted."""
    found: dict[object, list[Run]] = {}
    for run in runs:
        alone = not registry.load_method(run.method).stackable
        at = saved[run.id]
        found.setdefault(run.id if alone else at and (at.step, *at.computed.values()), []).append(run)
    return list(found.values())


def attempt(job: Job, saved: Sequence[Checkpoint | None], context: Context) -> None:
    """Train runs as one stack and record each. Where that fails, each is tried alone, so that one harms no other."""
    again: list[list[Run]] = []  # what is tried once the error, and with it the memory of what failed, is gone
    try:
        results = train_stack(job, saved, context)
    except Lost as lost:
        again = [[run for run in job.runs if run.id != str(lost)]]
    except Outdated:
        again = [job.runs]
    except (Exception, SystemExit) as error:
        if isinstance(error, NOT_THE_RUNS) or is_full(error):
            raise
        again = [[run] for run in job.runs if len(job.runs) > 1]
        if not again:
            give_up(job.runs[0], recording.begin_record(job.runs[0], job.options), error, context)
    else:
        for run, (record, result) in zip(job.runs, results, strict=True):
            if run.id in context.recorded:
                checkpoints.delete(run.id, context.store)
            else:
                conclude(run, record, result, context)
    for runs in again:
        do_runs(replace(job, runs=runs), context)


def conclude(run: Run, record: Record, result: Result, context: Context) -> None:
    """Score a run and record it; what goes wrong in that is this run's alone."""
    try:
        context.settle(result())
    except Lost:
        return
    except (Exception, SystemExit) as error:
        if isinstance(error, NOT_THE_RUNS) or is_full(error):
            raise
        give_up(run, record, error, context)


def give_up(run: Run, record: Record, error: BaseException, context: Context) -> None:
    """Note what the user is to mend, or record the run as failed with its cause."""
    if isinstance(error, UserError) and not isinstance(error, BadSeed):
        context.troubles[str(error)] = None
        return
    if run.id in context.recorded:  # it was to give its networks once more: its record stands
        kind, why = recording.find_cause(run, error)
        context.troubles[f"run {run.id}: its networks cannot be made again, {kind}: {why}"] = None
        return
    with suppress(Lost):
        context.settle(recording.fail(record, *recording.find_cause(run, error), traceback.format_exc()))


def is_full(error: BaseException) -> bool:
    """Whether a disk has no room: not a run's fault, whoever wrote."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
