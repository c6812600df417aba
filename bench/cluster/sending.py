"""From jobs to arrays in the queue: pack them, write down what will be sent, send it, and note each array's id."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spurbench.bench.cluster import submissions
from spurbench.bench.cluster.arrays import VOID, Array
from spurbench.bench.cluster.launcher import Launcher, Receipt, Request
from spurbench.bench.cluster.resources import Resources
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import write_atomically
from spurbench.bench.core.terminal import plural
from spurbench.bench.jobs.job import Job
from spurbench.bench.launch import snapshot
from spurbench.bench.plugins import registry
from spurbench.bench.store.store import Store

OVERTAKEN = "this submission was suspended for so long that another took over: submit again for what that left"


@dataclass(frozen=True)
class SubmitOptions:
    """How to submit, whatever is submitted."""

    jobs_per_task: int = 1
    max_parallel: int | None = None
    dry_run: bool = False
    node_local: bool = False  # the store may be in a local folder of this node
    snapshot: bool = True  # run a copy of the code as it is now
    retry: bool = False  # do failed runs again


@dataclass(frozen=True)
class ArrayOfJobs:
    """The content of an array: task i does the jobs `tasks[i]`, one after the other."""

    tasks: list[list[Job]]
    resources: Resources
    parallel: int  # tasks of this array at once


@dataclass(frozen=True)
class Sent:
    """Arrays with their scripts and, once sent, their ids; and the number of jobs the queue has no room for."""

    arrays: list[ArrayOfJobs]
    scripts: list[str]
    ids: list[str]
    beyond: int


def pack_jobs(
    groups: Mapping[Any, Sequence[Job]], jobs_per_task: int, largest: int, parallel: int | None
) -> list[ArrayOfJobs]:
    """The arrays for these jobs, none with more than `largest` tasks; together they run `parallel` tasks at once.

    Jobs from which others start come first, in arrays of their own, and those that start from others last.
    """
    chunks = []
    for stage in STAGES:
        for resources, every in groups.items():
            jobs = [job for job in every if stage_of(job) == stage]
            tasks = [list(jobs[at : at + jobs_per_task]) for at in range(0, len(jobs), jobs_per_task)]
            chunks += [(tasks[at : at + largest], resources) for at in range(0, len(tasks), largest)]
    total = sum(len(tasks) for tasks, _ in chunks)
    if parallel is not None and parallel < len(chunks):
        raise UserError(
            f"{total} tasks make {len(chunks)} arrays (by resources, of at most {largest}), but only {parallel} may "
            "run at once: raise --max-parallel"
        )
    shares = [len(tasks) if parallel is None else parallel * len(tasks) // total or 1 for tasks, _ in chunks]
    while parallel is not None and sum(shares) > parallel:  # small chunks were rounded up
        shares[shares.index(max(shares))] -= 1
    return [
        ArrayOfJobs(tasks, resources, min(share, len(tasks)))
        for (tasks, resources), share in zip(chunks, shares, strict=True)
    ]


STAGES = BASE, PLAIN, DEPENDENT = ("base", "plain", "dependent")


def stage_of(job: Job) -> str:
    """Whether others start from a job's runs, or they from others, or neither."""
    return DEPENDENT if job.runs[0].bases else BASE if job.keep else PLAIN


def send(
    launcher: Launcher,
    groups: Mapping[Any, Sequence[Job]],
    name: str,
    store: Store,
    options: SubmitOptions,
    before_sending: Callable[[], None],
    holds: Callable[[], bool],
) -> Sent:
    """Plan the arrays, write down what they are and submit them; what was sent stays sent if another is refused.

    `holds` says whether it is still this submission's turn; `before_sending` is called when all is written down.
    """
    fit = launcher.fitting(groups, options.jobs_per_task)
    beyond = sum(map(len, groups.values())) - sum(map(len, fit.values()))
    arrays = pack_jobs(fit, options.jobs_per_task, launcher.largest_array(), options.max_parallel)
    given = registry.plugin_paths()
    code, plugins = None, given
    if options.snapshot and arrays:
        code, plugins = snapshot.take(store.root, given) if not options.dry_run else (Path("CODE"), given)
    common = {"store": str(store.root.resolve()), "plugins": given, "copies": plugins, "retry": options.retry}
    folder = submissions.new_folder(store, launcher)
    meant = [Array(folder, number) for number in range(len(arrays))]
    scripts = [make_script(launcher, array, one, name, code) for array, one in zip(arrays, meant, strict=True)]
    if options.dry_run or not arrays:
        return Sent(arrays, scripts, [], beyond)
    manifests = [
        {**common, "resources": asdict(array.resources), "tasks": [[job.to_dict() for job in t] for t in array.tasks]}
        for array in arrays
    ]
    if not holds():
        raise UserError(OVERTAKEN)
    meant = submissions.write_intent(folder, manifests, launcher)
    before_sending()
    stages = [stage_of(array.tasks[0][0]) for array in arrays]
    return Sent(arrays, scripts, send_all(launcher, meant, scripts, stages, holds), beyond)


def make_script(launcher: Launcher, array: ArrayOfJobs, meant: Array, name: str, code: Path | None) -> str:
    """The text to send."""
    command = shlex.join([sys.executable, "-P", "-m", "spurbench.bench.cluster.task", str(meant.manifest)])
    return launcher.script(Request(meant, name, len(array.tasks), array.parallel, array.resources, command, code))


def send_all(
    launcher: Launcher,
    arrays: Sequence[Array],
    scripts: Sequence[str],
    stages: Sequence[str],
    holds: Callable[[], bool],
) -> list[str]:
    """Submit every array and note its id; returns the ids. Those that start from others begin after them.

    Errors: UserError if one is refused, or if it is not known whether it was accepted: those before it stay in the
    queue, those after it are not sent. Likewise once it is no longer this submission's turn.
    """
    ids: list[str] = []
    for place, (array, text) in enumerate(zip(arrays, scripts, strict=True)):
        if not holds():
            void_unsent(arrays[place:], keep=bool(ids))
            raise UserError(refusal(OVERTAKEN, ids, len(arrays)))
        write_atomically(array.script, text.encode("utf-8", "surrogateescape"))
        before = [id for id, stage in zip(ids, stages, strict=False) if stage == BASE]
        receipt = launcher.send(array, before if stages[place] == DEPENDENT else [])
        if receipt.job is not None:
            if array.note(receipt.job if holds() else VOID) == VOID:
                void_unsent(arrays[place + 1 :], keep=True)
                cancel_void(launcher, array)
                raise UserError(refusal(OVERTAKEN, ids, len(arrays)))
            ids.append(str(array.id))
            continue
        void_unsent(arrays[place + receipt.unsure :], keep=bool(ids) or receipt.unsure)
        raise UserError(not_taken(receipt, ids, len(arrays)))
    return confirm_ids(launcher, arrays)


def void_unsent(arrays: Sequence[Array], keep: bool) -> None:
    """Make arrays that were not sent void; unless something of their submission is kept, delete it."""
    for array in arrays:
        array.note(VOID)
    if not keep:
        shutil.rmtree(arrays[0].folder)


def cancel_void(launcher: Launcher, array: Array) -> None:
    """Cancel an array that is void."""
    found = launcher.find([array])
    job = found.get(array.token) if isinstance(found, dict) else None
    if job is None or launcher.cancel([job], array.elsewhere):
        print("what was sent last may still be in the queue; its tasks will do nothing there", file=sys.stderr)


def confirm_ids(launcher: Launcher, arrays: Sequence[Array]) -> list[str]:
    """The ids of sent arrays, checked against the queue; one that has another id there is noted with that."""
    known = {token for token, _ in launcher.ask(arrays).tasks}
    doubtful = {array.token: array for array in arrays if array.token not in known}
    found = launcher.find(doubtful.values()) if doubtful else {}
    for token, job in found.items() if isinstance(found, dict) else ():
        doubtful[token].note_instead(job)
    return [array.id for array in arrays if array.id is not None]


def not_taken(receipt: Receipt, ids: Sequence[str], arrays: int) -> str:
    """Why not everything was sent, and what happened to the rest."""
    if receipt.unsure:
        text = f"{receipt.why}; the next `status` or `submit` finds out whether it was accepted"
        return refusal(text, ids, arrays) if ids else text
    return refusal(receipt.why, ids, arrays) + ("; submit again for the rest" if ids else "")


def refusal(what: str, ids: Sequence[str], arrays: int) -> str:
    """What went wrong, and what of the submission is in the queue."""
    kept = f"{len(ids)} of {plural(arrays, 'array')} in the queue: {', '.join(ids)}"
    return f"{what}; {kept if ids else 'nothing is submitted'}"
