"""What a launcher is: a batch system that takes arrays of tasks, says how they stand, and cancels them.

A launcher is one class in a package of its own, announced as an entry point of the group `spurbench.launchers`. It
speaks its batch system's words and nothing else: what is sent, how it is found again when a command was killed in
between, what `status`, `cancel`, `retry` and `collect` do is the same for all and lies beside this file.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from spurbench.bench.cluster.arrays import Array, Key
from spurbench.bench.cluster.resources import Layer, Resources
from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.jobs.job import Job
from spurbench.bench.plugin_files import entry_points

End = tuple[str, str]
"""How a task ended, as the kind of a record's cause, and in words."""
Place = tuple[str, int | None]
"""The token of an array and the index of one of its tasks, or None for those that are not named one by one."""


@dataclass(frozen=True)
class Request:
    """What a script for an array is made from."""

    array: Array  # its token is to be found in the queue again
    name: str  # of the grid
    tasks: int
    parallel: int  # tasks at once
    resources: Any  # of the launcher's own class
    command: str  # a line for a shell that does one task
    code: Path | None  # to be put first on PYTHONPATH


@dataclass(frozen=True)
class Receipt:
    """What came of sending an array: what it is called, or why it was not taken."""

    job: str | None
    why: str = ""
    unsure: bool = False  # whether it may have been taken nevertheless


@dataclass(frozen=True)
class Said:
    """What a batch system says of a task: `queued`, `running` or `over`, why it waits, how it ended."""

    state: str
    reason: str = ""
    end: End | None = None


@dataclass
class Answers:
    """What a batch system says of the tasks of some arrays; and of which arrays nothing can be known here, and why.

    Arrays are told apart by their tokens: two clusters, or one that counts anew, give an id to several.
    """

    arrays: dict[str, Array] = field(default_factory=dict)  # by their tokens
    tasks: dict[Place, Said] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)  # token → why
    since: float = field(default_factory=time.monotonic)

    def of(self, key: Key) -> Said | None:
        """What is said of a task: by itself, or of all of its array that are not named."""
        return self.tasks.get(key) or self.tasks.get((key[0], None))


@dataclass(frozen=True)
class Trouble:
    """Why tasks were not cancelled, and whether they may be nevertheless."""

    why: str
    unsure: bool = False


@dataclass(frozen=True)
class Here:
    """Where a task finds itself: the id of its array, its index in that, and what it alone is called."""

    array: str | None
    index: int
    task: str


class Launcher(ABC):
    """A batch system. Ids are as it prints them; `12;name` is job 12 of another cluster than the one here."""

    name: ClassVar[str]  # of the folder of a store that holds what was submitted
    title: ClassVar[str]  # in messages
    resources: ClassVar[type[Resources]] = Resources  # what tasks may ask for: each field is an option of `submit`
    ids_per_call: ClassVar[int] = 500  # as many as a command line has room for

    # ---- before anything is sent ----

    @abstractmethod
    def check(self, store: Path, dry_run: bool) -> None:
        """Errors: UserError if one cannot submit from here (not asked for a dry run), or for a store of this path."""

    @abstractmethod
    def responds(self) -> bool:
        """Whether the batch system answers at all."""

    def cluster(self) -> str | None:
        """What the cluster here calls itself."""
        return None

    def clusters(self) -> str | None:
        """The clusters that tasks are sent to, if not to the one here."""
        return None

    def largest_array(self) -> int:
        """How many tasks an array may have."""
        return 1000

    def fitting(self, groups: Mapping[Any, Sequence[Job]], jobs_per_task: int) -> Mapping[Any, Sequence[Job]]:
        """Of these jobs, by their resources, the first for which there is room in the queue."""
        return groups

    def resources_of_shell(self) -> Layer:
        """The resources that the user's shell names for every job."""
        return "the shell", {}

    # ---- sending ----

    @abstractmethod
    def script(self, request: Request) -> str:
        """The text to send. A task runs the command, which gets USR2 near the time limit and TERM before its end."""

    def test(self, script: str) -> tuple[bool, str]:
        """Whether the batch system would take a script, and what it says."""
        return True, f"{self.title} cannot be asked"

    @abstractmethod
    def send(self, array: Array, after: Sequence[str]) -> Receipt:
        """Submit the file `array.script`, to begin when the arrays with the ids `after` have ended, however they did.

        A batch system that cannot wait so may begin it at once: a task waits for the runs that its own start from.
        """

    # ---- looking, and cancelling ----

    @abstractmethod
    def ask(self, arrays: Iterable[Array]) -> Answers:
        """How the tasks of these arrays stand. One that is not listed is over, unless its array is `unknown`."""

    def explain(self, arrays: Iterable[Array]) -> Mapping[Place, Said]:
        """How tasks of these arrays ended, or that they live, as far as that is remembered elsewhere."""
        return {}

    @abstractmethod
    def find(self, arrays: Iterable[Array]) -> dict[str, str] | str:
        """The ids of those arrays that are in the queue, looked for by their tokens; or why that cannot be told."""

    @abstractmethod
    def cancel(self, ids: Sequence[str], cluster: str | None) -> Trouble | None:
        """Take tasks or whole arrays out of the queue. That some have ended already is no trouble."""

    # ---- in a task ----

    @abstractmethod
    def here(self) -> Here | None:
        """Which task this process is, if the batch system has started it."""

    def requeue(self, task: str) -> str | None:
        """Put a task back into the queue under the same id; why it cannot be, if it cannot."""
        return f"{self.title} puts no task back"

    # ---- its files ----

    def task_id(self, array: Array, index: int) -> str:
        """What the batch system calls a task."""
        return f"{array.id}_{index}"

    def log(self, array: Array, index: int) -> Path:
        """What a task prints goes there."""
        return array.folder / "logs" / f"{array.number}.{index}.log"


@cache
def launchers() -> dict[str, Launcher]:
    """The launchers there are, by name."""
    found = list(entry_points.load_each("spurbench.launchers", make))
    return {launcher.name: launcher for launcher in found}


def make(cls: Any) -> Launcher:
    """Errors: UserError for what is no launcher, TypeError for one that lacks something."""
    if not (isinstance(cls, type) and issubclass(cls, Launcher)):
        raise UserError(f"expected a class derived from {Launcher.__module__}.Launcher, got {cls!r}")
    return cls()


def find_launcher(name: str | None = None) -> Launcher:
    """The launcher of a name; without one the first whose batch system answers here, or the first there is.

    Errors: UserError if there is none.
    """
    known = launchers()
    if name is not None and name not in known:
        raise unknown("launcher", name, known)
    if not known:
        raise UserError("no launcher is installed: see docs/cluster.md")
    chosen = [known[name]] if name else [one for one in known.values() if len(known) == 1 or one.responds()]
    return (chosen or list(known.values()))[0]
