"""A store: plain files, each appearing by atomic rename or not at all; several writers may share one."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from spurbench.bench.core.errors import StoreTrouble, UserError
from spurbench.bench.core.files import sweep, write_atomically
from spurbench.bench.core.hashing import canonical
from spurbench.bench.core.terminal import shell
from spurbench.bench.records.parsing import (
    Unfit,
    Unusable,
    is_file_name,
    parse_plan,
    parse_record,
    printable,
    read_whole,
    schemas_in,
    write_plan,
    write_record,
)
from spurbench.bench.records.plan import Plan
from spurbench.bench.records.record import SCHEMA, Record, Summary, is_settled
from spurbench.bench.store import index, packed
from spurbench.bench.store.claims import Claims, alive, remove_dead, stale_seconds
from spurbench.bench.store.index import Mark, mark_of
from spurbench.bench.store.record_files import RecordFiles, without_collection

MARK = "spurbench-store.json"
KINDS = ("records", "predictions", "drawings", "checkpoints", "weights", "plans")  # folders with temporary files
OURS = {*KINDS, "claims", "set-aside", "slurm", "submitting", "code", index.NAME}  # what belongs to a store
IGNORED = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs.*|\.fuse_hidden.*|\..*\.tmp")
"""Names of files that desktops and file systems leave in any folder, and of files being written."""
T = TypeVar("T")
Read = Callable[[bytes, str], T]


class Store:
    """Records, plans, predictions, checkpoints and claims of one folder, or the packed records of one file."""

    def __init__(self, root: Path, oldest: int = SCHEMA) -> None:
        self.root = root
        self.oldest = oldest  # schema of the oldest records that may be in it
        self.claims = Claims(root / "claims")
        self.seen: dict[str, tuple[Mark, Any]] = {}  # path of a plan → mark of the file, what it holds
        self.record_files = RecordFiles()
        self.moved: dict[str, str] | None = None  # run id → the id its files have, see `home`
        self.problems: list[Unusable] | None = None  # what could not be used when the records were last read
        self.damaged: dict[str, Unusable] = {}  # damage found beside the records, each once

    @classmethod
    def open(cls, path: str | Path, create: bool = False) -> Store:
        """The store at `path`: a folder, or a packed `.jsonl` or `.jsonl.gz` file (for reading only)."""
        root = Path(path)
        if root.is_file():
            return Packed(root)
        mark = root / MARK
        if not mark.exists():
            if not create:
                raise UserError(
                    f"no store at {root}: there is no {MARK}; `spurbench run GRID --store {shell(root)}` makes one"
                )
            others = {p.name for p in root.iterdir() if not IGNORED.fullmatch(p.name)} if root.is_dir() else set()
            if others - OURS and not mark.exists():  # another command may have made the store in the meantime
                raise UserError(f"{root} is not empty and not a store; name a new folder")
            write_atomically(mark, canonical({"schema": SCHEMA}))
        return cls(root, schemas_in(mark)[1])

    @property
    def name(self) -> str:
        """Its name in messages."""
        return str(self.root)

    def path(self, kind: str, run_id: str, suffix: str) -> Path:
        """The path of a run's file of a kind, whether it exists or not."""
        name = run_id if kind == "records" else self.file_id(run_id)
        return self.root / kind / name[:2] / f"{name}{suffix}"

    def file_id(self, run_id: str) -> str:
        """The id that the files of a run have: its own, or the one it had before its record's schema was migrated."""
        if self.oldest < SCHEMA and self.moved is None:
            self.records()
        return (self.moved or {}).get(run_id, run_id)

    def write(self, path: Path, content: bytes) -> None:
        """Write one of the store's files. Raises StoreTrouble if that fails, or if the store is gone."""
        mark = self.root / MARK
        try:
            if not mark.exists():
                raise StoreTrouble(
                    f"the store {self.root} is gone (moved or deleted?): continue its runs where it is now"
                )
            if self.oldest < SCHEMA and schemas_in(mark)[0] < SCHEMA:  # the first writer updates the mark
                write_atomically(mark, canonical({"schema": SCHEMA, "oldest": self.oldest}))
            write_atomically(path, content)
        except OSError as error:
            raise StoreTrouble(
                f"cannot write {error.filename or path}: {error.strerror}; finished work is kept: run the same command "
                "again"
            ) from error

    def tidy(self) -> None:
        """Delete what killed writers left behind: half-written files, claims, checkpoints of finished runs."""
        for kind in (*KINDS, "claims"):
            for folder in (self.root / kind, *(self.root / kind).glob("??")):
                sweep(folder, stale_seconds())
        sweep(self.root, stale_seconds())
        for claim in self.claims.files():
            if not alive(claim):
                remove_dead(claim)
        for file in (self.root / "checkpoints").glob("*.pt"):
            if not self.claims.path(file.stem).exists() and self.is_outlived(file):
                file.unlink(missing_ok=True)

    def is_outlived(self, checkpoint: Path) -> bool:
        """Whether a run was recorded after its checkpoint was saved; a later checkpoint is of a repeated run."""
        with suppress(FileNotFoundError):
            recorded = self.path("records", checkpoint.stem, ".json").stat().st_mtime_ns
            return recorded >= checkpoint.stat().st_mtime_ns and is_settled(self.record(checkpoint.stem))
        return False

    # ---- records ------------------------------------------------------------------------------------------------

    def write_record(self, record: Record) -> None:
        """Write a record, after checking that it can be read again.

        Errors: UserError that names the fault if it cannot; StoreTrouble if it cannot be written.
        """
        self.put(self.path("records", record.id, ".json"), write_record(record), parse_record)

    def withdraw_record(self, run_id: str) -> None:
        """Delete the record of a run that is done again, before what is kept beside it is replaced."""
        for name in {run_id, self.file_id(run_id)}:
            self.path("records", name, ".json").unlink(missing_ok=True)

    def record(self, run_id: str) -> Record | None:
        """The record of a run; None if there is none or it is unusable."""
        found = self.read_file(self.path("records", run_id, ".json"), parse_record)
        if found is None and self.file_id(run_id) != run_id:
            found = self.read_file(self.path("records", self.file_id(run_id), ".json"), parse_record)
        return None if isinstance(found, Unusable) else found

    def records(self) -> tuple[list[Summary], list[Unusable]]:
        """Summaries of all usable records in order of id, and unusable files among them and the plans, with reasons."""
        usable, unusable, self.moved = self.record_files.read(self)
        self.problems = unusable + self.read_plans()[1]
        return usable, self.problems

    def whole_records(self) -> Iterator[Record]:
        """All usable records in full, in order of id."""
        found = (self.record(one.id) for one in self.records()[0])
        return (record for record in found if record is not None)

    # ---- plans --------------------------------------------------------------------------------------------------

    def plans(self) -> list[Plan]:
        """What was planned, grid by grid; damaged plans are among the unusable of `records`."""
        return self.read_plans()[0]

    def read_plans(self) -> tuple[list[Plan], list[Unusable]]:
        usable, unusable = list[Plan](), list[Unusable]()
        for entry in self.entries("plans", unusable):
            if not entry.name.endswith(".json") or not is_file_name(entry.name.removesuffix(".json")):
                unusable.append(self.unusable(entry.path, "its name is not a plan's", ours=False))
                continue
            found = self.read_cached(entry, parse_plan)
            if isinstance(found, Unusable):
                unusable.append(found)
            elif found is not None:
                usable.append(found)
        return usable, unusable

    def write_plan(self, plan: Plan) -> None:
        """Write a plan under its grid's name, replacing the one that has it. Errors: as for a record."""
        self.put(self.plan_path(plan.grid), write_plan(plan), parse_plan)

    def drop_plan(self, grid: str) -> None:
        self.plan_path(grid).unlink(missing_ok=True)

    def plan_path(self, grid: str) -> Path:
        return self.root / "plans" / f"{grid}.json"

    def renamed(self) -> list[str]:
        """Which plans are read under another name than their own, in words."""
        return []

    # ---- files --------------------------------------------------------------------------------------------------

    def entries(self, folder: str, foreign: list[Unusable]) -> list[os.DirEntry[str]]:
        """The entries of a folder, in order, without ignored ones; if it cannot be read, that is added to `foreign`."""
        try:
            found = [entry for entry in os.scandir(self.root / folder) if not IGNORED.fullmatch(entry.name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            foreign.append(self.unusable(self.root / folder, f"cannot be read: {error.strerror}", ours=False))
            return []
        return sorted(found, key=lambda entry: entry.name.removesuffix(".json"))

    def read_cached(self, entry: os.DirEntry[str], read: Read[T]) -> T | Unusable | None:
        """What `read_file` gives for a file, which is read again only when it has changed."""
        try:
            mark = mark_of(entry.stat())
        except OSError:
            return self.read_file(entry.path, read)
        if entry.path not in self.seen or self.seen[entry.path][0] != mark:
            found = self.read_file(entry.path, read)
            if found is None:
                return None
            self.seen[entry.path] = mark, found
        kept: T | Unusable = self.seen[entry.path][1]
        return kept

    def read_file(self, path: str | Path, read: Read[T]) -> T | Unusable | None:
        """What `read` makes of a file and its name; None if there is no file."""
        try:
            return read(read_whole(path), os.path.basename(path).removesuffix(".json"))
        except Unfit as reason:
            return self.unusable(path, str(reason), reason.ours, reason.newer)
        except FileNotFoundError:
            return self.unusable(path, "a link to nothing") if os.path.islink(path) else None
        except OSError as error:
            return self.unusable(path, f"cannot be read: {error.strerror}")

    def unusable(self, path: str | Path, reason: str, ours: bool = True, newer: bool = False) -> Unusable:
        return Unusable(printable(os.path.relpath(path, self.root)), reason, ours, newer)

    def put(self, path: Path, content: bytes, read: Read[T]) -> None:
        """Write a record or a plan; an unusable file in its place is set aside."""
        found = self.read_file(path, read)
        if isinstance(found, Unusable):
            self.set_aside([replace(found, ours=True)])
        self.write(path, content)

    def set_aside(self, unusable: list[Unusable]) -> None:
        """Move unusable files away from records and plans, so that their runs are repeated.

        Nothing is deleted, nothing foreign is moved. Errors: UserError if a newer spurbench wrote some of it.
        """
        newer = [one for one in unusable if one.newer]
        if newer:
            raise UserError(f"{self.root / newer[0].path}: {newer[0].reason}: upgrade, or move it out of the store")
        for one in unusable:
            if one.ours:
                path = self.root / one.path
                target = self.root / "set-aside" / f"{path.stem[:100]}-{time.time_ns()}.json"
                target.parent.mkdir(exist_ok=True)
                with suppress(FileNotFoundError):  # another process was faster
                    os.replace(path, target)

    def pack(self, file: Path) -> int:
        """Write plans and usable records into one `.jsonl` or `.jsonl.gz` file; returns the number of records."""
        records = list(self.whole_records())
        write_atomically(file, packed.encode(self.plans(), records, file.suffix == ".gz"))
        return len(records)

    def damage(self, file: Path, reason: str) -> None:
        """Note that a file kept beside the records is damaged."""
        self.damaged[f"{file}: {reason}"] = self.unusable(file, reason)

    def complaints(self) -> list[Unusable]:
        """What is not used of the store, as far as it was read, by path from the working directory."""
        folder = self.root.parent if isinstance(self, Packed) else self.root
        found = self.records()[1] if self.problems is None else self.problems
        known = [*found, *self.damaged.values()]
        return [replace(one, path=os.path.normpath(folder / one.path)) for one in known]


class Packed(Store):
    """One file of plans and records, as `Store.pack` writes it; nothing can be added."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.mark: Mark | None = None  # of the file as it was read
        self.content = packed.Contents()

    def contents(self) -> packed.Contents:
        """All usable content, and what cannot be used; read again only when the file has changed."""
        mark = mark_of(self.root.stat())
        if self.mark != mark:
            with without_collection():
                self.content = packed.read_contents(self.root)
            if not self.content.plans and not self.content.records:
                bad = self.content.unusable
                first = f" that can be used ({bad[0].path}: {bad[0].reason})" if bad else ""
                raise UserError(
                    f"{self.root} holds no plan and no record{first}; expected a file that `spurbench pack` wrote"
                )
            self.mark = mark
        return self.content

    def records(self) -> tuple[list[Summary], list[Unusable]]:
        found = self.contents()
        return [record.summary for record in found.records.values()], found.unusable

    def record(self, run_id: str) -> Record | None:
        return self.contents().records.get(run_id)

    def plans(self) -> list[Plan]:
        return self.contents().plans

    def renamed(self) -> list[str]:
        return self.contents().renamed

    def file_id(self, run_id: str) -> str:
        return self.contents().moved.get(run_id, run_id)

    def unusable(self, path: str | Path, reason: str, ours: bool = True, newer: bool = False) -> Unusable:
        return Unusable(printable(os.path.relpath(path, self.root.parent)), reason, ours, newer)

    def write_record(self, record: Record) -> None:
        raise self.refusal()

    def write_plan(self, plan: Plan) -> None:
        raise self.refusal()

    def refusal(self) -> UserError:
        return UserError(f"{self.root} is a packed store, for reading only; name a folder")


def checkpoint_of(store: Store, run_id: str) -> Path:
    """The file in which the state of a run in progress is saved."""
    return store.root / "checkpoints" / f"{run_id}.pt"
