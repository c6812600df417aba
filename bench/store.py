"""A store: plain files, each appearing by atomic rename or not at all; several writers may share one."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import orjson

from spurbench.bench.claims import Claims, alive, stale_seconds, take_away
from spurbench.bench.errors import StoreTrouble, UserError
from spurbench.bench.files import sweep, write_atomically
from spurbench.bench.record import SCHEMA, Record, canonical, fault, sealed, settled

MARK = "spurbench-store.json"
KINDS = ("records", "predictions", "drawings", "checkpoints", "plans")  # folders that temporary files may be left in


@dataclass(frozen=True)
class Unusable:
    """A record that cannot be used, by its path inside the store, and why."""

    path: str
    reason: str


class Store:
    """Records, plans, predictions, checkpoints and claims of one folder, or the packed records of one file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.claims = Claims(root / "claims")
        self.read: dict[str, tuple[str, dict[str, Any] | str]] = {}  # path → mark of the file, what was read from it

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
                    f"no store at {root}: there is no {MARK}; `spurbench run GRID --store {root}` makes one"
                )
            others = [p for p in root.iterdir() if not p.name.startswith(f".{MARK}")] if root.is_dir() else []
            if others and not mark.exists():  # another command may have made the store in the meantime
                raise UserError(f"{root} is not empty and not a store; name a new folder")
            write_atomically(mark, canonical({"schema": SCHEMA}))
        check_schema(mark)
        return cls(root)

    def path(self, kind: str, run_id: str, suffix: str) -> Path:
        return self.root / kind / run_id[:2] / f"{run_id}{suffix}"

    def write(self, path: Path, content: bytes) -> None:
        """Write one of the store's files. Raises StoreTrouble if that cannot be done, or the store is gone."""
        if not (self.root / MARK).exists():
            raise StoreTrouble(f"the store {self.root} is gone (moved or deleted?): runs go on where it is now")
        try:
            write_atomically(path, content)
        except OSError as error:
            raise StoreTrouble(
                f"cannot write {error.filename or path}: {error.strerror}; what was finished is kept, the same command "
                "goes on"
            ) from error

    def tidy(self) -> None:
        """Delete what writers left when they were killed: half-written files, claims, checkpoints of finished runs."""
        for kind in (*KINDS, "claims"):
            for folder in (self.root / kind, *(self.root / kind).glob("??")):
                sweep(folder, stale_seconds())
        sweep(self.root, stale_seconds())
        for claim in self.claims.files():
            if not alive(claim):
                take_away(claim)
        for file in (self.root / "checkpoints").glob("*.pt"):
            if not self.claims.path(file.stem).exists() and settled(self.record(file.stem)):
                file.unlink(missing_ok=True)

    # ---- records and plans --------------------------------------------------------------------------------------

    def write_record(self, record: Record) -> None:
        self.write(self.path("records", record["id"], ".json"), canonical(sealed(record)))

    def record(self, run_id: str) -> Record | None:
        """The record of a run; None if there is none or it is unusable."""
        path = self.path("records", run_id, ".json")
        found = read_record(str(path)) if path.exists() else None
        return None if isinstance(found, str) else found

    def records(self) -> tuple[list[Record], list[Unusable]]:
        """All usable records, ordered by id, and the unusable ones with their reasons."""
        usable, unusable = [], []
        with without_collection():
            for path, mark in record_files(self.root / "records"):
                found = self.once(path, mark, read_record)
                if isinstance(found, str):
                    unusable.append(Unusable(os.path.relpath(path, self.root), found))
                else:
                    usable.append(found)
        return usable, unusable + self.read_plans()[1]

    def set_aside(self, unusable: list[Unusable]) -> None:
        """Move unusable records out of the way, so that their runs are done again; nothing is deleted."""
        for one in unusable:
            target = self.root / "set-aside" / f"{Path(one.path).stem}-{int(time.time())}.json"
            target.parent.mkdir(exist_ok=True)
            os.replace(self.root / one.path, target)

    def plans(self) -> list[dict[str, Any]]:
        """What was planned, grid by grid; damaged plans are among the unusable of `records`."""
        return self.read_plans()[0]

    def read_plans(self) -> tuple[list[dict[str, Any]], list[Unusable]]:
        plans: list[dict[str, Any]] = []
        unusable: list[Unusable] = []
        for path in sorted(self.root.glob("plans/*.json")):
            found = self.once(str(path), mark_of(path.stat()), read_plan)
            if isinstance(found, str):
                unusable.append(Unusable(str(path.relative_to(self.root)), found))
            else:
                plans.append(found)
        return plans, unusable

    def once(self, path: str, mark: str, read: Callable[[str], dict[str, Any] | str]) -> dict[str, Any] | str:
        """What `read` makes of a file, read again only when the file has changed."""
        if self.read.get(path, ("",))[0] != mark:
            self.read[path] = mark, read(path)
        return self.read[path][1]

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        self.write(self.root / "plans" / f"{plan['grid']}.json", json.dumps(plan, indent=1).encode())

    def drop_plan(self, grid: str) -> None:
        (self.root / "plans" / f"{grid}.json").unlink(missing_ok=True)

    def pack(self, file: Path) -> int:
        """Write plans and usable records into one `.jsonl` or `.jsonl.gz` file; their number."""
        records, _ = self.records()
        lines = [{"plan": plan} for plan in self.plans()] + [{"record": record} for record in records]
        text = b"".join(canonical(line) + b"\n" for line in lines)
        if file.suffix == ".gz":
            buffer = io.BytesIO()
            with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as zipped:
                zipped.write(text)
            text = buffer.getvalue()
        write_atomically(file, text)
        return len(records)


class Packed(Store):
    """One file of plans and records, as `Store.pack` writes it; nothing can be added."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.mark = ""  # of the file as it was read
        self.content: tuple[list[dict[str, Any]], list[Record], list[Unusable]] = [], [], []

    def contents(self) -> tuple[list[dict[str, Any]], list[Record], list[Unusable]]:
        """Plans, usable records and unusable ones; read again only when the file has changed."""
        mark = mark_of(self.root.stat())
        if self.mark != mark:
            plans, usable, unusable = self.content = [], [], []
            with without_collection():
                for number, line in self.lines():
                    if is_plan(line.get("plan")):
                        plans.append(line["plan"])
                    elif reason := fault(line.get("record")):
                        unusable.append(Unusable(f"{self.root.name}:{number}", reason))
                    else:
                        usable.append(line["record"])
            if not plans and not usable:
                raise UserError(f"{self.root} holds no plan and no record; expected a file that `spurbench pack` wrote")
            self.mark = mark
        return self.content

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every line with its number, the first being 1; what cannot be read is an empty one."""
        number = 0
        try:
            with gzip.open(self.root, "rb") if self.root.suffix == ".gz" else open(self.root, "rb") as file:
                for number, text in enumerate(file, 1):
                    line = None
                    with suppress(ValueError):
                        line = json.loads(text)
                    yield number, line if isinstance(line, dict) else {}
        except (EOFError, gzip.BadGzipFile, zlib.error):  # cut short, or never a gzip file
            yield number + 1, {}

    def records(self) -> tuple[list[Record], list[Unusable]]:
        return self.contents()[1:]

    def record(self, run_id: str) -> Record | None:
        return next((record for record in self.records()[0] if record["id"] == run_id), None)

    def plans(self) -> list[dict[str, Any]]:
        return self.contents()[0]

    def write_record(self, record: Record) -> None:
        raise self.refusal()

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        raise self.refusal()

    def refusal(self) -> UserError:
        return UserError(f"{self.root} is a packed store, for reading only; name a folder")


def checkpoint_of(store: Store, run_id: str) -> Path:
    """Where the state of a run that is under way is saved."""
    return store.root / "checkpoints" / f"{run_id}.pt"


def record_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Path of each record file, in order, and a mark that changes when the file does."""
    if not folder.is_dir():
        return
    for group in sorted(os.scandir(folder), key=lambda entry: entry.name):
        for entry in sorted(os.scandir(group), key=lambda entry: entry.name):
            if entry.name.endswith(".json"):
                yield entry.path, mark_of(entry.stat())


def is_plan(plan: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(plan, dict) and isinstance(plan.get("grid"), str) and isinstance(plan.get("cells"), list)


def mark_of(stat: os.stat_result) -> str:
    """What changes when a file does."""
    return f"{stat.st_ino} {stat.st_mtime_ns}"


@contextmanager
def without_collection() -> Iterator[None]:
    """No garbage collection, and none later of what is made here: among 10,000 records it takes half the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()


def read_record(path: str) -> Record | str:
    """The record in a file, or the reason why it cannot be used."""
    with open(path, "rb") as file:
        text = file.read()
    try:
        record = orjson.loads(text)
    except ValueError:
        return "not valid JSON (truncated?)"
    return fault(record, text) or record


def read_plan(path: str) -> dict[str, Any] | str:
    """The plan in a file, or the reason why it cannot be used."""
    with suppress(ValueError):
        plan = json.loads(Path(path).read_bytes())
        if is_plan(plan):
            return plan
    return "not a plan (truncated?)"


def check_schema(mark: Path) -> None:
    try:
        schema = int(json.loads(mark.read_bytes())["schema"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{mark} is damaged; it should read {canonical({'schema': SCHEMA}).decode()}") from None
    if schema > SCHEMA:
        raise UserError(
            f"{mark.parent} was written by a newer spurbench (schema {schema}; this one reads up to {SCHEMA}): upgrade"
        )
