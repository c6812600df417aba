"""What a launcher is: a batch system that takes arrays of tasks, reports their states, and cancels them.

A launcher is one class in a package of its own, announced as an entry point of the group `spurbench.launchers`. It
only speaks its batch system's language: what is sent, how it is found again if a command was killed in between, and
what `status`, `cancel`, `retry` and `collect` do is the same for all and lies beside this file.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from spurbench.bench.cluster.arrays import Array, Key
from spurbench.bench.cluster.resources import Layer, Resources
from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.plugin_files import entry_points

if TYPE_CHECKING:
    from spurbench.bench.jobs.job import Job

End = tuple[str, str]
"""How a task ended: the kind of a record's cause, and a description."""
Place = tuple[str, int | None]
"""The token of an array and the index of one of its tasks, or None for tasks not listed one by one."""


@dataclass(frozen=True)
class Request:
    """What a script for an array is made from."""

    array: Array  # it must be possible to find its token in the queue
    name: str  # of the grid
    tasks: int
    parallel: int  # tasks at once
    resources: Any  # of the launcher's own class
    command: str  # a shell command that does one task
    code: Path | None  # to put first on PYTHONPATH


@dataclass(frozen=True)
class Receipt:
    """The result of sending an array: its id, or why it was not accepted."""

    job: str | None
    why: str = ""
    unsure: bool = False  # whether it may have been accepted nevertheless


@dataclass(frozen=True)
class TaskReport:
    """What a batch system reports of a task: `queued`, `running` or `over`, why it waits, how it ended."""

    state: str
    reason: str = ""
    end: End | None = None


@dataclass
class Answers:
    """What a batch system reports of the tasks of some arrays, and why nothing can be known here of other arrays.

    Arrays are identified by their tokens: two clusters, or one that restarts counting, may reuse an id.
    """

    arrays: dict[str, Array] = field(default_factory=dict)  # by their tokens
    tasks: dict[Place, TaskReport] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)  # token → why
    since: float = field(default_factory=time.monotonic)

    def of(self, key: Key) -> TaskReport | None:
        """The report on a task: its own, or that of all unlisted tasks of its array."""
        return self.tasks.get(key) or self.tasks.get((key[0], None))


@dataclass(frozen=True)
class CancelFailure:
    """Why tasks were not cancelled, and whether they may have been nevertheless."""

    why: str
    unsure: bool = False


@dataclass(frozen=True)
class TaskIdentity:
    """A running task's identity: the id of its array, its index in that, and its own id."""

    array: str | None
    index: int
    task: str


class Launcher(ABC):
    """A batch system. Ids are as it prints them; `12;name` is job 12 of another cluster than the one here."""

    name: ClassVar[str]  # of the folder in a store that holds its submissions
    title: ClassVar[str]  # in messages
    resources: ClassVar[type[Resources]] = Resources  # what tasks may request: each field is an option of `submit`
    ids_per_call: ClassVar[int] = 500  # as many as fit on a command line

    # ---- before anything is sent ----

    @abstractmethod
    def check(self, store: Path, dry_run: bool) -> None:
        """Errors: UserError if one cannot submit from here (not checked for a dry run), or for a store at this path."""

    @abstractmethod
    def responds(self) -> bool:
        """Whether the batch system answers at all."""

    def cluster(self) -> str | None:
        """The name of the cluster here."""
        return None

    def clusters(self) -> str | None:
        """The clusters that tasks are sent to, if not the one here."""
        return None

    def largest_array(self) -> int:
        """How many tasks an array may have."""
        return 1000

    def fitting(self, groups: Mapping[Any, Sequence[Job]], jobs_per_task: int) -> Mapping[Any, Sequence[Job]]:
        """The first of these jobs, by their resources, for which there is room in the queue."""
        return groups

    def resources_of_shell(self) -> Layer:
        """The resources that the user's shell sets for every job."""
        return "the shell", {}

    # ---- sending ----

    @abstractmethod
    def script(self, request: Request) -> str:
        """The text to send. A task runs the command, which gets USR2 near the time limit and TERM before KILL."""

    def test(self, script: str) -> tuple[bool, str]:
        """Whether the batch system would accept a script, and what it says."""
        return True, f"{self.title} cannot be asked"

    @abstractmethod
    def send(self, array: Array, after: Sequence[str]) -> Receipt:
        """Submit the file `array.script`, to begin when the arrays with the ids `after` have ended, however they did.

        A batch system that cannot wait so may begin it at once: a task waits for the runs that its own start from.
        """

    # ---- looking, and cancelling ----

    @abstractmethod
    def ask(self, arrays: Iterable[Array]) -> Answers:
        """The states of the tasks of these arrays. An unlisted task is over, unless its array is `unknown`."""

    def explain(self, arrays: Iterable[Array]) -> Mapping[Place, TaskReport]:
        """How tasks of these arrays ended, or that they are alive, as far as accounting remembers."""
        return {}

    @abstractmethod
    def find(self, arrays: Iterable[Array]) -> dict[str, str] | str:
        """The ids of those arrays that are in the queue, found by their tokens; or why that cannot be known."""

    @abstractmethod
    def cancel(self, ids: Sequence[str], cluster: str | None) -> CancelFailure | None:
        """Cancel tasks or whole arrays. That some have already ended is no failure."""

    # ---- in a task ----

    @abstractmethod
    def here(self) -> TaskIdentity | None:
        """Which task this process is, if the batch system started it."""

    def requeue(self, task: str) -> str | None:
        """Requeue a task under the same id; returns why that failed, if it did."""
        return f"{self.title} cannot requeue tasks"

    # ---- its files ----

    def task_id(self, array: Array, index: int) -> str:
        """The batch system's id of a task."""
        return f"{array.id}_{index}"

    def log(self, array: Array, index: int) -> Path:
        """The file that gets a task's output."""
        return array.folder / "logs" / f"{array.number}.{index}.log"


@cache
def launchers() -> dict[str, Launcher]:
    """The launchers there are, by name."""
    found = list(entry_points.load_each("spurbench.launchers", make))
    return {launcher.name: launcher for launcher in found}


def make(cls: Any) -> Launcher:
    """Errors: UserError for something that is not a launcher, TypeError for one that lacks a method."""
    if not (isinstance(cls, type) and issubclass(cls, Launcher)):
        raise UserError(f"expected a class derived from {Launcher.__module__}.Launcher, got {cls!r}")
    return cls()


def find_launcher(name: str | None = None) -> Launcher:
    """The launcher of that name; without a name, the first whose batch system answers here, or else the first.

    Errors: UserError if there is none.
    """
    known = launchers()
    if name is not None and name not in known:
        if name in {entry.name for entry in entry_points.find_entry_points("spurbench.pools")}:
            raise UserError(f"{name} has no queue, it runs jobs while you wait: `spurbench run --launcher {name}`")
        raise unknown("launcher", name, known)
    if not known:
        raise UserError("no launcher is installed: see docs/cluster.md")
    chosen = [known[name]] if name else [one for one in known.values() if len(known) == 1 or one.responds()]
    return (chosen or list(known.values()))[0]
