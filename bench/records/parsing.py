"""From the bytes of a file to a record or a plan, or to the reason why it cannot be used.

Whatever lies in a store or arrives in a packed one may be foreign, damaged, older or newer: nothing is trusted before
it has come through here.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import orjson

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.hashing import canonical
from spurbench.bench.records.migrations import migrated_plan, migrated_record
from spurbench.bench.records.record import NEWER, SCHEMA, Record, fault, sealed
from spurbench.bench.records.validation import Plan, brief, plan_misfit, record_misfit

LIMIT = 64 * 2**20  # bytes of a record, a plan or a line of a packed store; the largest of `results/` has 53 kB
MESSAGE, DETAIL = 2_000, 50_000  # characters kept of a failure's message and of its traceback


@dataclass(frozen=True)
class Unusable:
    """What is not used of a store, by its path inside it (in a packed one by its line), and why."""

    path: str
    reason: str
    ours: bool = True  # it lies where a record or a plan belongs; else it is foreign, and left alone
    newer: bool = False  # nothing is wrong with it: a newer spurbench wrote it


class Unfit(Exception):
    """A content that cannot be used; its text says why."""

    def __init__(self, reason: str, newer: bool = False, ours: bool = True) -> None:
        super().__init__(reason)
        self.newer, self.ours = newer, ours


def content_of(path: str | Path) -> bytes:
    """What a file holds. Raises Unfit for what is no file or too large a one, OSError for one that cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that no one writes to is not waited for
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unfit("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not a file")
        if found.st_size > LIMIT:
            raise Unfit(too_large(found.st_size))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def printable(path: str) -> str:
    """A path that can be printed, on one line, whatever it holds."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def too_large(size: int) -> str:
    return f"it is larger than {LIMIT // 2**20} MiB ({size // 2**20:,} MiB)"


def record_in(text: bytes, name: str | None = None) -> Record:
    """The record that a text holds, in today's schema; `name` is the id it is kept under. Raises Unfit."""
    return record_of(parsed(text, "a record"), text, name)


def record_of(found: Any, text: bytes = b"", name: str | None = None) -> Record:
    """As `record_in`, of what was read already; `text` is what it was read from, if known."""
    if reason := fault(found, text):
        raise Unfit(reason, newer=reason.startswith(NEWER))
    if name is not None and found["id"] != name:
        raise Unfit(f"it is the record of another run, {found['id']}")
    return checked(found, "a record", migrated_record, record_misfit)


def plan_in(text: bytes, name: str | None = None) -> Plan:
    """The plan that a text holds, in today's schema; `name` is the one it is kept under. Raises Unfit."""
    return plan_of(parsed(text, "a plan"), name)


def plan_of(found: Any, name: str | None = None) -> Plan:
    """As `plan_in`, of what was read already."""
    if not isinstance(found, dict) or "grid" not in found or not isinstance(found.get("cells"), list):
        raise Unfit("not a plan")
    schema = found.get("schema", 1)
    if type(schema) is not int or schema < 1:
        raise Unfit(f"not a plan: its schema is {brief(schema)}")
    if schema > SCHEMA:
        raise Unfit(f"{NEWER} (schema {schema}, this one reads up to {SCHEMA})", newer=True)
    plan = checked({**BARE, **found, "schema": schema}, "a plan", migrated_plan, plan_misfit)
    if name is not None and plan["grid"] != name:
        raise Unfit(f"it is the plan of the grid {brief(plan['grid'])} under another name (a copy?)", ours=False)
    return plan


def checked(
    found: dict[str, Any],
    what: str,
    migrate: Callable[[dict[str, Any]], dict[str, Any]],
    misfit: Callable[[dict[str, Any]], str | None],
) -> dict[str, Any]:
    """A content in today's schema, which it fits. Raises Unfit."""
    try:
        today = migrate(found)
        wrong = misfit(today)
    except RecursionError:
        wrong = "it is nested too deeply"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        wrong = f"it cannot be migrated from schema {found['schema']} ({type(error).__name__}: {error})"[:200]
    if wrong:
        raise Unfit(f"not {what} as it should be: {wrong}")
    return today


BARE = {"description": "", "selection": {"rule": "none", "oracle": False, "text": "not said"}, "notes": []}
"""What a plan may leave out."""


def schemas_in(mark: Path) -> tuple[int, int]:
    """The schema of the newest records there may be in a store, as its mark says, and of the oldest.

    Errors: UserError for a mark that is none, or of a newer spurbench.
    """
    try:
        found = parsed(content_of(mark), "a mark")
        newest, oldest = found["schema"], found.get("oldest", found["schema"])
        if not (type(newest) is type(oldest) is int and 1 <= oldest <= newest):
            raise ValueError
    except (Unfit, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{mark} is damaged; it should read {canonical({'schema': SCHEMA}).decode()}") from None
    if newest > SCHEMA:
        raise UserError(
            f"{mark.parent} was written by a newer spurbench (schema {newest}; this one reads up to {SCHEMA}): upgrade"
        )
    return newest, oldest


def parsed(text: bytes, what: str) -> Any:
    """Raises Unfit for what is not JSON, for numbers that are none and for what is nested a thousand times."""
    try:
        return orjson.loads(text)
    except ValueError as error:
        why = f"no valid JSON (cut short?): {error}"[:200] if text.strip() else "empty"
        raise Unfit(f"not {what} but {why}") from None


# ---- writing --------------------------------------------------------------------------------------------------------


def text_of_record(record: Record) -> bytes:
    """A record as it is written, with its digest.

    Errors: UserError that names what is at fault if it could not be read again as what it is.
    """
    if record.get("cause"):
        record = {**record, "cause": {name: shortened(name, value) for name, value in record["cause"].items()}}
    return readable(record, f"the record of run {record.get('id')}", lambda: canonical(sealed(record)), record_in)


def text_of_plan(plan: Mapping[str, Any]) -> bytes:
    """A plan as it is written. Errors: as for a record."""
    what = f"the plan of the grid {brief(plan.get('grid'))}"
    return readable(plan, what, lambda: json.dumps(plan, indent=1).encode(), plan_in)


def readable(content: Any, what: str, write: Callable[[], bytes], read: Callable[[bytes], Any]) -> bytes:
    try:
        if wrong := unkept(content):
            raise Unfit(wrong)
        text = write()
        if len(text) > LIMIT:
            raise Unfit(too_large(len(text)))
        read(text)
    except (TypeError, ValueError, RecursionError, Unfit) as error:
        raise UserError(f"{what} cannot be kept: {error}") from None
    return text


def shortened(name: str, text: Any) -> Any:
    """A part of a cause as it can be kept: of a bounded length, no half characters (of a file's name, say)."""
    if not isinstance(text, str):
        return text
    most = DETAIL if name == "detail" else MESSAGE
    return text[:most].encode("utf-8", "replace").decode()


def unkept(value: Any) -> str | None:
    """Where a content holds what would not be read again as it is, and what; None if nowhere."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)  # type: ignore[assignment]
    else:
        return unkept_value(value)
    for key, part in parts:
        if isinstance(value, dict) and type(key) is not str:
            return f"the key {key!r} is no text"
        if wrong := unkept(part):
            return f"{key}{' ' if wrong.startswith('is ') else '.'}{wrong}"
    return None


def unkept_value(value: Any) -> str | None:
    if isinstance(value, float):
        return None if isfinite(value) else f"is {value}"
    if isinstance(value, str):
        broken = value.encode("utf-8", "replace").decode() != value
        return f"is {brief(value)}, which is not valid Unicode" if broken else None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**64 else f"is {brief(value)}, a whole number of more than 64 bits"
    return None if value is None else f"is of type {type(value).__name__}, neither a number nor a text"
