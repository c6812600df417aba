"""Which process works on which run of a store. A claim is a file that one process makes and keeps alive.

A claim contains a token. Its holder checks that token before every write, so that a process that was suspended longer
than a claim lives, and whose run was taken over, writes nothing more. The age of a sign of life is measured by the file
system's clock: those of two machines need not agree.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import StoreTrouble
from spurbench.bench.core.files import now_in, running

TASK = "SPURBENCH_TASK"  # environment variable: the name of a task that may be stopped and restarted
STALE_VARIABLE = "SPURBENCH_CLAIM_SECONDS"  # environment variable, see `stale_seconds`
NAME = re.compile(r"[0-9a-f]{4,64}\.json")  # of a claim, not of a copy made by a file synchroniser
CLAIM_BYTES = 400  # bytes: a sign of life replaces the claim's content in one write of the same length


class Lost(Exception):
    """A claim is no longer this process's: another has taken the run over."""


def stale_seconds() -> float:
    """A claim without a sign of life for this long is taken over: ten minutes, or $SPURBENCH_CLAIM_SECONDS."""
    return float(os.environ.get(STALE_VARIABLE) or 600)


@dataclass
class Claims:
    """The claims of one store, and the tokens of those that this process holds."""

    root: Path  # the folder of the claims
    tokens: dict[str, str] = field(default_factory=dict)  # run id → token

    def path(self, run_id: str) -> Path:
        return self.root / run_id[:2] / f"{run_id}.json"

    def take(self, run_id: str) -> bool:
        """Reserve a run for this process; False if another living process has it."""
        path, token = self.path(run_id), secrets.token_hex(8)
        try:
            if self.root.parent.exists():  # a store that was deleted does not come back
                path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not alive(path):
                remove_dead(path)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(encode(holder() | {"token": token}))
            except OSError:
                path.unlink(missing_ok=True)
                raise
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreTrouble(f"cannot claim a run, {path}: {error.strerror}") from None
        self.tokens[run_id] = token
        return True

    def check(self, run_id: str) -> None:
        """Raise Lost unless this process still holds the claim; to be called before every write."""
        os.close(self.open_held(run_id))

    def keep(self, run_id: str, step: int, steps: int) -> None:
        """A sign of life, with the progress of the run. Raises Lost like `check`."""
        descriptor = self.open_held(run_id)
        try:  # if the run is taken over from here on, this writes to a deleted file
            os.pwrite(descriptor, encode(holder() | {"token": self.tokens[run_id], "step": step, "steps": steps}), 0)
        finally:
            os.close(descriptor)

    def open_held(self, run_id: str) -> int:
        """This process's claim, opened. Raises Lost if it has none."""
        for _ in range(20):
            try:
                descriptor = os.open(self.path(run_id), os.O_RDWR)
                if parse_claim(os.pread(descriptor, CLAIM_BYTES, 0)).get("token") == self.tokens.get(run_id, ""):
                    return descriptor
                os.close(descriptor)
                break
            except FileNotFoundError:
                pass
            except OSError as error:
                raise StoreTrouble(f"cannot read the claim {self.path(run_id)}: {error.strerror}") from None
            time.sleep(0.02)  # another process may have moved it for a moment, see `take_away`
        raise Lost(run_id)

    def release(self, run_id: str) -> None:
        """Release a run, if this process still holds it."""
        token = self.tokens.pop(run_id, None)
        if token is not None and read_token(self.path(run_id)) == token:
            self.path(run_id).unlink(missing_ok=True)

    def remove(self, run_id: str) -> None:
        """Remove a claim, whoever holds it: for a launcher that knows the holder to be gone."""
        self.path(run_id).unlink(missing_ok=True)

    def living(self) -> dict[str, dict[str, Any]]:
        """The runs under way: run id → holder, its progress and the age in seconds of its last sign of life."""
        found = {}
        for path in self.files():
            with suppress(OSError):
                if alive(path):
                    age = now_near(path) - path.stat().st_mtime
                    found[path.stem] = {"task": None, **parse_claim(path.read_bytes()), "age": max(0.0, age)}
        return found

    def files(self) -> Iterator[Path]:
        """The file of every claim; other files are ignored."""
        return (path for path in self.root.glob("??/*.json") if NAME.fullmatch(path.name))


@contextmanager
def kept_alive(claims: Claims, run_ids: Sequence[str], progress: Callable[[], tuple[int, int]]) -> Iterator[set[str]]:
    """Keep claims alive from a thread of its own, with the step and steps that `progress` gives.

    Whatever this process does, they are not taken over while it runs. Yields the claims that were lost nevertheless.
    """
    lost: set[str] = set()
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(min(10.0, stale_seconds() / 6)):
            for run_id in run_ids:
                try:
                    if run_id in claims.tokens:
                        claims.keep(run_id, *progress())
                except Lost:
                    lost.add(run_id)
                except (OSError, StoreTrouble):  # a disk that is full for a moment; the next sign may succeed
                    continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        stop.set()
        thread.join()


def encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode().ljust(CLAIM_BYTES)


def parse_claim(content: bytes) -> dict[str, Any]:
    """A claim's content; empty for one that is being written or is not a claim."""
    with suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    return {}


def read_token(claim: Path) -> str | None:
    try:
        return parse_claim(claim.read_bytes()).get("token")
    except FileNotFoundError:
        return None


@cache
def machine() -> str:
    """The scope in which a process id is unique: the host, its boot and its pid namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_start(pid: int) -> str:
    """When a process of this machine started, in kernel ticks; distinguishes it from a later one with the same id."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def holder() -> dict[str, Any]:
    """Who this process is; `task` is its name in a queue, which it keeps when it is restarted elsewhere."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": machine(), "pid": pid, "begun": process_start(pid),
            "task": os.environ.get(TASK)}  # fmt: skip


def alive(claim: Path) -> bool:
    """Whether the process that holds a claim still gives signs of life."""
    try:
        held, last_sign = parse_claim(claim.read_bytes()), claim.stat().st_mtime
    except FileNotFoundError:
        return False
    if not held:
        return now_near(claim) - last_sign < 5  # being written, or left half-written by a crash
    own = holder()
    here = held.get("machine") == own["machine"]
    itself = here and (held.get("pid"), held.get("begun")) == (own["pid"], own["begun"])
    if own["task"] is not None and held.get("task") == own["task"] and not itself:
        return False  # this same task, before it was requeued
    if here and not (running(held["pid"]) and process_start(held["pid"]) == held.get("begun")):
        return False
    return now_near(claim) - last_sign < stale_seconds()


def now_near(claim: Path) -> float:
    """The time by the clock that stamps the claim; if nothing may be written there, this machine's."""
    try:
        return now_in(claim.parent)
    except OSError:
        return time.time()


def remove_dead(claim: Path) -> None:
    """Remove a dead process's claim, and no other: one made in the meantime is put back."""
    aside = claim.with_name(f".{claim.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        os.replace(claim, aside)
        if alive(aside):
            with suppress(FileExistsError):
                os.link(aside, claim)
        aside.unlink()
