"""The submissions of a store: a folder for each, written before anything is sent to the batch system.

    STORE/slurm/20260101-…/      below the launcher's name
        submission.json          how many arrays, by whom, on which cluster
        array-0.json             the manifest: what each task of the array does
        array-0.sh               the script that was sent
        array-0.job              the array's id, or that it is void, which is final
        ends.json                how tasks ended, as far as known: `0.3` is task 3 of array-0

A submission that was interrupted between sending and `array-0.job` is found in the queue by its token, which holds the
name of the folder; or it notes its id itself when it starts. A void array never does anything.
"""

from __future__ import annotations

import getpass
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from spurbench.bench.cluster.arrays import JOB, Array, Key
from spurbench.bench.cluster.launcher import End, Launcher, find_launcher, launchers
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import write_atomically
from spurbench.bench.core.hashing import canonical
from spurbench.bench.grid.cells import cell_names, chosen
from spurbench.bench.jobs.job import Job
from spurbench.bench.records.parsing import Unfit, parse_json, read_whole
from spurbench.bench.records.record import OUTSIDE
from spurbench.bench.store.claims import Claims, Lost, alive, kept_alive
from spurbench.bench.store.store import Store

SUBMISSION = "submission"  # name of the claim of a submission in progress
KINDS = OUTSIDE | {"out_of_memory"}  # of ends after which another try, perhaps with more memory, may succeed
T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """One task of a submitted array."""

    array: Array
    index: int
    jobs: list[Job]
    end: End | None = None  # if it is known to have ended
    moved: str | None = None  # where it expects the store, if that has moved
    redoes: bool = False  # whether it repeats failed runs

    @property
    def launcher(self) -> Launcher:
        return find_launcher(self.array.launcher)

    @property
    def id(self) -> str:
        """Its id in the batch system: 12_3."""
        return self.launcher.task_id(self.array, self.index)

    @property
    def key(self) -> Key:
        """Unique among the store's tasks; ids need not be, as each cluster counts for itself."""
        return self.array.token, self.index

    @property
    def place(self) -> str:
        """Its place among the tasks of its submission."""
        return f"{self.array.number}.{self.index}"

    @property
    def runs(self) -> list[str]:
        return [run.id for job in self.jobs for run in job.runs]

    @property
    def log(self) -> Path:
        return self.launcher.log(self.array, self.index)

    @property
    def names(self) -> set[str]:
        """The names it can be given by: its id, or the names of its cells."""
        return {self.id}.union(*(cell_names(job.runs[0].dataset, job.runs[0].method, job.label) for job in self.jobs))


def new_folder(store: Store, launcher: Launcher) -> Path:
    """The folder of a new submission, with a unique name."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return store.root.resolve() / launcher.name / f"{stamp}-{secrets.token_hex(2)}"


def write_intent(folder: Path, manifests: Sequence[dict[str, Any]], launcher: Launcher) -> list[Array]:
    """Write down what is about to be submitted; returns its arrays. The last file written makes it a submission."""
    user, cluster, asked = os.getuid(), launcher.cluster(), launcher.clusters()
    arrays = [Array(folder, number, user, cluster, asked) for number in range(len(manifests))]
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for array, manifest in zip(arrays, manifests, strict=True):
        write_atomically(array.manifest, canonical(manifest))
    content = {"arrays": len(arrays), "user": user, "name": user_name(), "cluster": cluster,
               "clusters": asked}  # fmt: skip
    write_atomically(folder / "submission.json", canonical(content))
    return arrays


def user_name() -> str:
    """The user's name, or the id if the user database does not have it, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@contextmanager
def submitting(store: Store, really: bool = True) -> Iterator[Callable[[], bool]]:
    """One submission for a store at a time, on any machine; others wait for it. Not `really`: a dry run.

    Yields a function that says whether it is still this one's turn: one that was suspended for long is taken for dead,
    and another may have sent its runs.
    """
    if not really:
        yield lambda: True
        return
    claims = claims_of(store)
    claims.root.mkdir(parents=True, exist_ok=True)
    said = False
    while not claims.take(SUBMISSION):
        if not said:
            print(f"another submission for {store.root} is under way; waiting for it", file=sys.stderr)
        said = True
        time.sleep(0.2)

    def holds() -> bool:
        with suppress(Lost):
            claims.check(SUBMISSION)
            return True
        return False

    try:
        with kept_alive(claims, [SUBMISSION], lambda: (0, 0)):
            yield holds
    finally:
        claims.release(SUBMISSION)


def submitting_now(store: Store) -> bool:
    """Whether a submission for the store is under way."""
    return alive(claims_of(store).path(SUBMISSION))


def claims_of(store: Store) -> Claims:
    return Claims(store.root / "submitting")


# ---- reading submissions --------------------------------------------------------------------------------------------


def arrays_of(store: Store) -> Iterator[Array]:
    """Every array that was ever submitted for a store, or may have been, the newest last."""
    for file in submission_files(store):
        yield from read_note(file, "submission", partial(arrays_in, file.parent))


def submission_files(store: Store) -> list[Path]:
    found = [file for name in launchers() for file in store.root.glob(f"{name}/*/submission.json")]
    return sorted(found, key=lambda file: file.parent.name)


def arrays_in(folder: Path, content: Any) -> list[Array]:
    """The arrays of a submission. In older stores they are a list of ids, without users."""
    arrays = content["arrays"]
    if isinstance(arrays, int):
        known = (content.get("user"), content.get("cluster"), content.get("clusters"))
        return [Array(folder, number, *known) for number in range(arrays)]
    if not all(JOB.fullmatch(str(id)) for id in arrays):
        raise ValueError("not the ids of arrays")
    return [Array(folder, number, given=str(id)) for number, id in enumerate(arrays)]


def tasks(store: Store) -> Iterator[Task]:
    """Every task that was sent for a store, the newest submission last."""
    for array in arrays_of(store):
        if array.id is not None:
            yield from tasks_of(array, store)


def tasks_of(array: Array, store: Store) -> Iterator[Task]:
    """The tasks of an array; none if it was submitted for a store of which this one is a copy.

    If another store is now in that place, this one was moved.
    """
    place, redoes, jobs = read_note(
        array.manifest, "manifest", lambda found: (found.get("store"), bool(found.get("retry")), jobs_in(found))
    )
    moved = str(place) if place is not None and not leads_to(place, store) else None
    if moved is None or not os.path.lexists(Path(moved) / array.launcher / array.folder.name):
        ends = known_ends(array.folder)
        for index, of_task in enumerate(jobs):
            task = Task(array, index, of_task, None, moved, redoes)
            yield replace(task, end=ends.get(task.place, ends.get(task.id)))


def leads_to(place: Any, store: Store) -> bool:
    """Whether a recorded path leads to this store."""
    try:
        return os.path.samefile(str(place), store.root)
    except OSError:
        return False


def named(every: Sequence[Task], patterns: Sequence[str]) -> list[Task]:
    """The tasks that patterns name; no pattern names all.

    Errors: UserError for a pattern that names none, with the nearest name.
    """
    if not patterns:
        return list(every)
    names = [task.names for task in every]
    return [every[place] for place in sorted(chosen(names, patterns, "submitted task or cell"))]


# ---- how tasks ended ------------------------------------------------------------------------------------------------


def read_manifest(array: Array) -> dict[str, Any]:
    """Errors: UserError if the manifest is gone or damaged."""
    return read_note(array.manifest, "manifest", dict[str, Any])


def jobs_to_do(array: Array) -> list[list[Job]]:
    """The jobs of each task of an array; errors as for `read_manifest`."""
    return read_note(array.manifest, "manifest", jobs_in)


def write_ends(changed: Iterable[Task]) -> str | None:
    """Write down how these tasks ended, or that they have not; returns why that failed, if it did.

    It fails in someone else's store, or on a full disk; the ends of tasks can be asked for again.
    """
    trouble, by_folder = None, dict[Path, list[Task]]()
    for task in changed:
        by_folder.setdefault(task.array.folder, []).append(task)
    for folder, of_folder in by_folder.items():
        ends: dict[str, End | None] = {**known_ends(folder), **{task.place: task.end for task in of_folder}}
        ends |= {task.id: None for task in of_folder}  # its key in older stores
        try:
            write_atomically(folder / "ends.json", canonical({id: end for id, end in ends.items() if end}))
        except OSError as error:
            trouble = f"{folder / 'ends.json'}: {error.strerror}"
    return trouble


# ---- files that may be damaged --------------------------------------------------------------------------------------


def read_note(file: Path, kind: str, read: Callable[[Any], T]) -> T:
    """What `read` makes of the content of a submission's file.

    Errors: UserError if it is gone or damaged.
    """
    try:
        return read(parse_json(read_whole(file), f"a {kind}"))
    except FileNotFoundError:
        what = "gone"
    except (Unfit, AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"damaged ({type(error).__name__})"
    raise UserError(
        f"the {kind} {file} is {what}: without it the tasks of that submission are not known; "
        f"delete the folder {file.parent} to forget it"
    )


def jobs_in(content: Any) -> list[list[Job]]:
    return [[Job.from_dict(fields) for fields in jobs] for jobs in content["tasks"]]


def known_ends(folder: Path) -> dict[str, End]:
    """How tasks of a submission ended, as far as recorded."""
    with suppress(FileNotFoundError, Unfit, AttributeError, TypeError, ValueError):
        found = parse_json(read_whole(folder / "ends.json"), "ends")
        return {id: (kind, " ".join(str(text).split())) for id, (kind, text) in found.items() if kind in KINDS}
    return {}
