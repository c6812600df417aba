"""A store: plain files, each appearing by atomic rename or not at all; several writers may share one."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import orjson

from spurbench.bench.errors import UserError
from spurbench.bench.record import SCHEMA, Record, canonical, fault, sealed

MARK = "spurbench-store.json"
TASK = "SPURBENCH_TASK"  # environment variable: the name of a task that may be ended and started again
STALE_SECONDS = 600  # a claim without a sign of life for this long is taken over


@dataclass(frozen=True)
class Unusable:
    """A record that cannot be used, by its path inside the store, and why."""

    path: str
    reason: str


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say where it is
            error.filename = str(path)
        with suppress(OSError):
            temporary.unlink()
        raise


class Store:
    """Records, plans, predictions, checkpoints and claims of one folder, or the packed records of one file."""

    def __init__(self, root: Path) -> None:
        self.root = root
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

    # ---- records and plans --------------------------------------------------------------------------------------

    def write_record(self, record: Record) -> None:
        write_atomically(self.path("records", record["id"], ".json"), canonical(sealed(record)))

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
        write_atomically(self.root / "plans" / f"{plan['grid']}.json", json.dumps(plan, indent=1).encode())

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

    # ---- claims -------------------------------------------------------------------------------------------------

    def claim(self, run_id: str) -> bool:
        """Reserve a run for this process; False if another living process has it."""
        path = self.path("claims", run_id, ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not alive(path):
            take_away(path)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            json.dump(holder(), file)
        return True

    def keep(self, run_id: str, step: int, steps: int) -> None:
        """A sign of life for a claim of this process, with its progress."""
        write_atomically(self.path("claims", run_id, ".json"), canonical(holder() | {"step": step, "steps": steps}))

    def claims(self) -> dict[str, dict[str, Any]]:
        """The runs under way: run id → holder, its progress and the age in seconds of its last sign of life."""
        found = {}
        for path in self.root.glob("claims/??/*.json"):
            with suppress(FileNotFoundError, ValueError):
                if alive(path):
                    found[path.stem] = json.loads(path.read_bytes()) | {"age": time.time() - path.stat().st_mtime}
        return found

    def release(self, run_id: str) -> None:
        self.path("claims", run_id, ".json").unlink(missing_ok=True)


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


def holder() -> dict[str, Any]:
    """Who this process is; `task` is its name in a queue, which it keeps when it is started again elsewhere."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "task": os.environ.get(TASK)}


def alive(claim: Path) -> bool:
    """Whether the process that holds a claim still gives signs of life."""
    try:
        held, age = json.loads(claim.read_bytes()), time.time() - claim.stat().st_mtime
    except FileNotFoundError:
        return False
    except ValueError:
        return time.time() - claim.stat().st_mtime < 5  # being written, or left half-written by a crash
    own = holder()
    if (
        own["task"] is not None
        and held.get("task") == own["task"]
        and (held["host"], held["pid"]) != (own["host"], own["pid"])
    ):
        return False  # what this task was before it was put back into the queue
    if held["host"] == own["host"] and not running(held["pid"]):
        return False
    return age < STALE_SECONDS


def take_away(claim: Path) -> None:
    """Remove a dead process's claim, and no other: one made since it was found dead is put back."""
    aside = claim.with_name(f"{claim.stem}.dead.{socket.gethostname()}.{os.getpid()}")
    with suppress(FileNotFoundError):
        os.replace(claim, aside)
        if alive(aside):
            with suppress(FileExistsError):
                os.link(aside, claim)
        aside.unlink()


def running(pid: int) -> bool:
    """Whether a process of this machine lives; one that has ended but was not waited for (a zombie) does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
