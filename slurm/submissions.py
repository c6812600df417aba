"""What was submitted for a store: a folder a submission below `slurm/`, written before SLURM is asked for anything.

    submission.json   how many arrays, by whom, on which cluster
    array-0.json      the manifest: what each task of the array does
    array-0.sh        the script that sbatch got
    array-0.job       what SLURM calls the array, or that it is void: what is void stays so
    ends.json         how tasks ended, as far as it was told: `0.3` is task 3 of array-0

A submission that was interrupted between sbatch and `array-0.job` is found in the queue by its name or its comment,
which hold the name of the folder, or by its script's path; or it tells its number itself when it starts. An array that
is void is never done.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import temporary_of, write_atomically
from spurbench.bench.core.hashing import canonical
from spurbench.bench.grid.patterns import cell_names, chosen
from spurbench.bench.jobs.job import Job
from spurbench.bench.records.parsing import Unfit, read_whole
from spurbench.bench.store.claims import Claims, Lost, alive, kept_alive
from spurbench.bench.store.store import Store
from spurbench.slurm import program
from spurbench.slurm.notes import End, jobs_in, known_ends, read_note

SUBMISSION = "submission"  # what is claimed by one that is under way
VOID = "void"
JOB = re.compile(r"(\d+)(?:;([\w.-]+))?")
TOKEN = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{4}(?:\.|/array-)\d+")
"""Of an array, whatever store it is of: in the job's name and comment, and in the path of its script."""
Key = tuple[str, int]
"""Which task: the token of its array, and its index in that."""


@dataclass(frozen=True)
class Array:
    """One array of a submission."""

    folder: Path  # of the submission
    number: int  # its place in it
    user: int | None = None  # who submitted it, as a number
    cluster: str | None = None  # where, as the cluster called itself
    asked: str | None = None  # the clusters that sbatch chose among, if not this one
    given: str | None = None  # what SLURM calls it, where that is not to be read

    @property
    def manifest(self) -> Path:
        return self.folder / f"array-{self.number}.json"

    @property
    def script(self) -> Path:
        return self.folder / f"array-{self.number}.sh"

    @property
    def noted(self) -> Path:
        return self.folder / f"array-{self.number}.job"

    @property
    def token(self) -> str:
        """What no other job is called; part of its name in the queue, and its comment."""
        return f"{self.folder.name}.{self.number}"

    @cached_property
    def job(self) -> str | None:
        """What SLURM calls it: `12`, or `12;name` on a cluster of another name; `void`, or None if it is not known.

        Errors: UserError if what was noted is damaged.
        """
        if self.given is not None and not self.noted.exists():
            return self.given
        with suppress(FileNotFoundError):
            try:
                found = read_whole(self.noted).decode("utf-8", "replace").strip()
            except Unfit as error:
                found = str(error)
            if found and found != VOID and not JOB.fullmatch(found):
                raise UserError(f"{self.noted} holds no job id: write into it what SLURM calls the array, or {VOID}")
            return found or None
        return None

    def note(self, job: str) -> str:
        """Write down what SLURM calls the array, or that it is void, unless that is known already; what it is."""
        half = temporary_of(self.noted)
        half.write_text(f"{job}\n")
        self.__dict__.pop("job", None)
        try:
            os.link(half, self.noted)
        except OSError:  # it is there already, or the file system has no links
            if self.job is None:  # empty, or not there
                os.replace(half, self.noted)
        half.unlink(missing_ok=True)
        self.__dict__.pop("job", None)
        return self.job or job

    def renote(self, job: str) -> None:
        """Write down another id than the one that was believed, unless the array is void by now."""
        self.__dict__.pop("job", None)
        if self.job == VOID:
            return
        write_atomically(self.noted, f"{job}\n".encode())
        self.__dict__.pop("job", None)

    def forget(self) -> None:
        """Let it be void, whatever SLURM called it: its tasks that have not begun will do nothing."""
        write_atomically(self.noted, f"{VOID}\n".encode())
        self.__dict__.pop("job", None)

    @property
    def id(self) -> str | None:
        """The number of its job, if it has one."""
        return None if self.job in (None, VOID) else str(self.job).split(";")[0]

    @property
    def elsewhere(self) -> str | None:
        """The name of the cluster to address, if it is another one."""
        return str(self.job).partition(";")[2] or self.asked


@dataclass(frozen=True)
class Task:
    """One task of a submitted array."""

    array: Array
    index: int
    jobs: list[Job]
    end: End | None = None  # if it is known to be over
    moved: str | None = None  # where it looks for the store, if that is there no more
    redoes: bool = False  # runs that have failed

    @property
    def id(self) -> str:
        """As SLURM calls it: 12_3."""
        return f"{self.array.id}_{self.index}"

    @property
    def key(self) -> Key:
        """What no other task of the store has; its id others may have, where clusters count for themselves."""
        return self.array.token, self.index

    @property
    def place(self) -> str:
        """Which of the tasks of its submission it is."""
        return f"{self.array.number}.{self.index}"

    @property
    def runs(self) -> list[str]:
        return [run.id for job in self.jobs for run in job.runs]

    @property
    def log(self) -> Path:
        return self.array.folder / "logs" / f"{self.id}_0_log.out"

    @property
    def names(self) -> set[str]:
        """What it may be called by: its id, or what a cell of it is called."""
        return {self.id}.union(*(cell_names(job.runs[0].dataset, job.runs[0].method, job.label) for job in self.jobs))


def new_folder(store: Store) -> Path:
    """The folder of a new submission, of a name that no other has."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return store.root.resolve() / "slurm" / f"{stamp}-{secrets.token_hex(2)}"


def write_intent(folder: Path, manifests: Sequence[dict[str, Any]]) -> list[Array]:
    """Write down what is about to be submitted; its arrays. The last file to appear makes it a submission."""
    user, cluster, asked = os.getuid(), program.configuration().get("ClusterName"), program.clusters()
    arrays = [Array(folder, number, user, cluster, asked) for number in range(len(manifests))]
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for array, manifest in zip(arrays, manifests, strict=True):
        write_atomically(array.manifest, canonical(manifest))
    content = {"arrays": len(arrays), "user": user, "name": user_name(), "cluster": cluster,
               "clusters": asked}  # fmt: skip
    write_atomically(folder / "submission.json", canonical(content))
    return arrays


def user_name() -> str:
    """Who is asking; by number where the list of users does not have them, as in many a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@contextmanager
def submitting(store: Store, really: bool = True) -> Iterator[Callable[[], bool]]:
    """One submission of a store at a time, on whatever machine; another waits for its end. Not `really`: a dry run.

    Yields what tells whether it is this one's turn still: one that was stopped for long is taken for dead, and another
    may have sent its runs.
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
    return Claims(store.root / "slurm" / "claims")


# ---- reading it back ------------------------------------------------------------------------------------------------


def arrays_of(store: Store) -> Iterator[Array]:
    """Every array that was ever submitted for a store, or may have been, the newest last."""
    for file in sorted(store.root.glob("slurm/*/submission.json")):
        yield from read_note(file, "submission", partial(arrays_in, file.parent))


def arrays_in(folder: Path, content: Any) -> list[Array]:
    """The arrays of a submission. Once they were a list of their ids, and whose they were was not kept."""
    arrays = content["arrays"]
    if isinstance(arrays, int):
        known = (content.get("user"), content.get("cluster"), content.get("clusters"))
        return [Array(folder, number, *known) for number in range(arrays)]
    if not all(JOB.fullmatch(str(id)) for id in arrays):
        raise ValueError("not the ids of arrays")
    return [Array(folder, number, given=str(id)) for number, id in enumerate(arrays)]


def tasks(store: Store) -> Iterator[Task]:
    """Every task that SLURM was given for a store, the newest submission last."""
    for array in arrays_of(store):
        if array.id is not None:
            yield from tasks_of(array, store)


def tasks_of(array: Array, store: Store) -> Iterator[Task]:
    """The tasks of an array; none if it was submitted for a store of which this one is a copy.

    Where that was may be another store by now: then this one was moved.
    """
    place, redoes, jobs = read_note(
        array.manifest, "manifest", lambda found: (found.get("store"), bool(found.get("retry")), jobs_in(found))
    )
    moved = str(place) if place is not None and not leads_to(place, store) else None
    if moved is None or not os.path.lexists(Path(moved) / "slurm" / array.folder.name):
        ends = known_ends(array.folder)
        for index, of_task in enumerate(jobs):
            task = Task(array, index, of_task, None, moved, redoes)
            yield replace(task, end=ends.get(task.place, ends.get(task.id)))


def leads_to(place: Any, store: Store) -> bool:
    """Whether a path that was written down is this store."""
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
    """Write down how these tasks ended, or, of those that have no end, that they have not; why that failed, if it did.

    In someone else's store, or on a full disk, it does; what SLURM says it can be asked for again.
    """
    trouble, by_folder = None, dict[Path, list[Task]]()
    for task in changed:
        by_folder.setdefault(task.array.folder, []).append(task)
    for folder, of_folder in by_folder.items():
        ends: dict[str, End | None] = {**known_ends(folder), **{task.place: task.end for task in of_folder}}
        ends |= {task.id: None for task in of_folder}  # as it was called here once
        try:
            write_atomically(folder / "ends.json", canonical({id: end for id, end in ends.items() if end}))
        except OSError as error:
            trouble = f"{folder / 'ends.json'}: {error.strerror}"
    return trouble
