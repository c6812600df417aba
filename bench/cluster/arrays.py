"""A submitted array of tasks: its files, and its id in the batch system."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import temporary_of, write_atomically

VOID = "void"
JOB = re.compile(r"[\w.:-]*\d[\w.:-]*(?:;[\w.-]+)?")
TOKEN = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{4}(?:\.|/array-)\d+")
"""The token of any store's array: in its job's name and comment, and in the path of its script."""
Key = tuple[str, int]
"""Which task: the token of its array, and its index in that."""


@dataclass(frozen=True)
class Array:
    """One array of a submission."""

    folder: Path  # of the submission
    number: int  # its number in the submission
    user: int | None = None  # id of the user who submitted it
    cluster: str | None = None  # name of the cluster it was submitted on
    asked: str | None = None  # clusters to choose from, if not this one
    given: str | None = None  # its job id, if that is not in a file

    @property
    def launcher(self) -> str:
        """The name of the launcher that submitted it."""
        return self.folder.parent.name

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
        """A unique token; part of its name in the queue, and its comment."""
        return f"{self.folder.name}.{self.number}"

    @cached_property
    def job(self) -> str | None:
        """Its job id: `12`, or `12;name` on another cluster; `void`, or None if it is not known.

        Errors: UserError if the noted id is damaged.
        """
        from spurbench.bench.records.parsing import Unfit, read_whole  # a third of the time that --help takes

        if self.given is not None and not self.noted.exists():
            return self.given
        with suppress(FileNotFoundError):
            try:
                found = read_whole(self.noted).decode("utf-8", "replace").strip()
            except Unfit as error:
                found = str(error)
            if found and found != VOID and not JOB.fullmatch(found):
                raise UserError(f"{self.noted} holds no job id: write the array's id into it, or {VOID}")
            return found or None
        return None

    def note(self, job: str) -> str:
        """Note the array's id, or that it is void, unless that is known already; returns what is known."""
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

    def note_instead(self, job: str) -> None:
        """Note another id than the one assumed so far, unless the array has become void."""
        self.__dict__.pop("job", None)
        if self.job != VOID:
            self.overwrite(job)

    def forget(self) -> None:
        """Make it void, whatever its id: its tasks that have not started will do nothing."""
        self.overwrite(VOID)

    def overwrite(self, job: str) -> None:
        write_atomically(self.noted, f"{job}\n".encode())
        self.__dict__.pop("job", None)

    @property
    def id(self) -> str | None:
        """Its job's id, if it has one."""
        return None if self.job in (None, VOID) else str(self.job).split(";")[0]

    @property
    def elsewhere(self) -> str | None:
        """The name of its cluster, if that is another one."""
        return str(self.job).partition(";")[2] or self.asked
