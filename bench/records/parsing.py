"""From the bytes of a file to a record or a plan, or to the reason why it cannot be used.

Whatever lies in a store or arrives in a packed one may be foreign, damaged, older or newer: nothing is trusted before
it has come through here.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from operator import le
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import orjson
from msgspec import Struct, structs

from spurbench.bench.core.errors import UserError, others
from spurbench.bench.core.hashing import canonical
from spurbench.bench.plugins import registry
from spurbench.bench.records.migrations import migrate_plan, migrate_record
from spurbench.bench.records.plan import Cell, Choice, Plan, Search
from spurbench.bench.records.record import NEWER, SCHEMA, Counts, Record, digest_fits, seal
from spurbench.bench.records.run import Run, run_ids

LIMIT = 64 * 2**20  # bytes of a record, a plan or a line of a packed store; the largest of `results/` has 53 kB
MESSAGE, DETAIL = 2_000, 50_000  # characters kept of a failure's message and of its traceback
MOST_FILE_NAME = 200  # bytes
T = TypeVar("T")


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


def read_whole(path: str | Path) -> bytes:
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


# ---- records --------------------------------------------------------------------------------------------------------


def parse_record(text: bytes, name: str | None = None) -> Record:
    """The record that a text holds, in today's schema; `name` is the id it is kept under. Raises Unfit."""
    return record_from(parse_json(text, "a record"), text, name)


def record_from(fields: Any, text: bytes = b"", name: str | None = None) -> Record:
    """As `parse_record`, of what was read already; `text` is what it was read from, if known."""
    if not isinstance(fields, dict) or "digest" not in fields or type(fields.get("schema")) is not int:
        raise Unfit("not a record")
    if fields["schema"] > SCHEMA:
        raise Unfit(f"{NEWER} (schema {fields['schema']}, this one reads up to {SCHEMA})", newer=True)
    try:
        if not digest_fits(text, fields):
            raise Unfit("its content does not match its digest (edited by hand or damaged)")
        if Run.from_dict(fields).id != fields["id"]:
            raise Unfit("its id does not match what it describes")
    except KeyError as error:
        raise Unfit(f"not a record: it has no {error}") from None
    except (RecursionError, TypeError, ValueError) as error:
        raise Unfit(f"not a record: {error}") from None
    if name is not None and fields["id"] != name:
        raise Unfit(f"it is the record of another run, {fields['id']}")
    return today(fields, "a record", migrate_record, Record, contradiction_in)


def contradiction_in(record: Record) -> str | None:
    """Which parts of a record do not belong together, or None."""
    if record.done != (record.cause is None):
        return f"its status is {record.status} and its cause {'null' if record.cause is None else record.cause.kind}"
    every = [*record.splits.values(), *(counts for look in record.looks for counts in look.splits.values())]
    if not all(map(is_consistent, every)):
        return "a split has more correct predictions than examples, or they are of different groups"
    if record.splits and record.done and not record.groups:
        return "it has splits and no groups"
    if max(record.conflicting, default=-1) >= len(record.groups):
        return "its conflicting groups are not among its groups"
    scored = record.looks[0].splits.keys() if record.looks else set()
    if any(look.splits.keys() != scored for look in record.looks) or not scored <= record.splits.keys():
        return "its looks are at other splits than it has"
    return None


def is_consistent(counts: Counts) -> bool:
    return len(counts.n) == len(counts.correct) and all(map(le, counts.correct, counts.n))


# ---- plans ----------------------------------------------------------------------------------------------------------


def parse_plan(text: bytes, name: str | None = None) -> Plan:
    """The plan that a text holds, in today's schema; `name` is the one it is kept under. Raises Unfit."""
    return plan_from(parse_json(text, "a plan"), name)


def plan_from(fields: Any, name: str | None = None) -> Plan:
    """As `parse_plan`, of what was read already."""
    if not isinstance(fields, dict) or "grid" not in fields or not isinstance(fields.get("cells"), list):
        raise Unfit("not a plan")
    schema = fields.get("schema", 1)
    if type(schema) is not int or schema < 1:
        raise Unfit(f"not a plan: its schema is {brief(schema)}")
    if schema > SCHEMA:
        raise Unfit(f"{NEWER} (schema {schema}, this one reads up to {SCHEMA})", newer=True)
    plan = today({**BARE, **fields, "schema": schema}, "a plan", migrate_plan, Plan, fault_in_plan)
    if name is not None and plan.grid != name:
        raise Unfit(f"it is the plan of the grid {brief(plan.grid)} under another name (a copy?)", ours=False)
    return plan


BARE = {"description": "", "selection": {"rule": "none", "oracle": False, "text": "not said"}, "notes": []}
"""What a plan may leave out."""


def fault_in_plan(plan: Plan) -> str | None:
    if not is_file_name(plan.grid):
        return f"its grid is {brief(plan.grid)}; expected a name that a file can have"
    if wrong := unknown_rule(plan.selection):
        return wrong
    return next((f"cell {place}: {why}" for place, cell in enumerate(plan.cells, 1) if (why := fault_in(cell))), None)


def fault_in(cell: Cell) -> str | None:
    if wrong := unknown_rule(cell.selection, cell.search):
        return wrong
    if cell.search and cell.search.chosen is not None and not 0 <= cell.search.chosen < len(cell.draws):
        return f"its search has chosen draw {cell.search.chosen} of {len(cell.draws)}"
    if any(
        ids != run_ids(shared, seeds)[: len(ids)] for shared, seeds, ids in cell.parts() if ids
    ):  # none: unknown yet
        return "its ids are not those of the runs it describes"
    return None


def unknown_rule(*parts: Choice | Search | None) -> str | None:
    known = registry.rules()
    wrong = next((part.rule for part in parts if part and part.rule not in known), None)
    if wrong is None:
        return None
    return f"its rule is {brief(wrong)}, which is not known{others(wrong, known)} (or --plugin FILE)"


def is_file_name(name: str) -> bool:
    """Whether a text can be the name of a file, and of nothing outside its folder: plans are kept under theirs."""
    bad = any(letter in "/\\" or ord(letter) < 32 or ord(letter) == 127 for letter in name)
    return bool(name) and not bad and name[0] != "." and len(name.encode()) <= MOST_FILE_NAME


# ---- both -----------------------------------------------------------------------------------------------------------


def today(
    fields: dict[str, Any],
    what: str,
    migrate: Callable[[dict[str, Any]], dict[str, Any]],
    kind: type[T],
    fault: Callable[[T], str | None],
) -> T:
    """A content in today's schema, of the types it should have. Raises Unfit."""
    try:
        found = msgspec.convert(migrate(fields), kind)
        wrong = fault(found)
    except msgspec.ValidationError as error:
        wrong = str(error).replace(" - at `$", " at `").replace("`$`", "the top")
        wrong = wrong if len(wrong) <= 200 else f"{wrong[:100]}…{wrong[-90:]}"  # it may hold a value, however large
    except RecursionError:
        wrong = "it is nested too deeply"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        wrong = f"it cannot be migrated from schema {fields['schema']} ({type(error).__name__}: {error})"[:200]
    if wrong:
        raise Unfit(f"not {what} as it should be: {wrong}")
    return found


def schemas_in(mark: Path) -> tuple[int, int]:
    """The schema of the newest records there may be in a store, as its mark says, and of the oldest.

    Errors: UserError for a mark that is none, or of a newer spurbench.
    """
    try:
        found = parse_json(read_whole(mark), "a mark")
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


def parse_json(text: bytes, what: str) -> Any:
    """Raises Unfit for what is not JSON, for numbers that are none and for what is nested a thousand times."""
    try:
        return orjson.loads(text)
    except ValueError as error:
        why = f"no valid JSON (cut short?): {error}"[:200] if text.strip() else "empty"
        raise Unfit(f"not {what} but {why}") from None


def brief(value: Any) -> str:
    """A value in a few words, however large it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"a text of {len(value):,} characters"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    return json.dumps(value)[:40] if value is None or isinstance(value, bool) else repr(value)[:40]


# ---- writing --------------------------------------------------------------------------------------------------------


def write_record(record: Record) -> bytes:
    """A record as it is written, with its digest.

    Errors: UserError that names what is at fault if it could not be read again as what it is.
    """
    if record.cause:
        cause = msgspec.structs.replace(
            record.cause, message=shorten(record.cause.message, MESSAGE), detail=shorten(record.cause.detail, DETAIL)
        )
        record = record.with_(cause=cause)
    what = f"the record of run {record.id}"
    return write_readable(record, what, lambda: canonical(seal(record)), parse_record)


def write_plan(plan: Plan) -> bytes:
    """A plan as it is written. Errors: as for a record."""
    what = f"the plan of the grid {brief(plan.grid)}"
    return write_readable(plan, what, lambda: json.dumps(plan.to_dict(), indent=1).encode(), parse_plan)


def write_readable(content: Any, what: str, write: Callable[[], bytes], read: Callable[[bytes], Any]) -> bytes:
    try:
        if wrong := unwritable_in(content):
            raise Unfit(wrong)
        text = write()
        if len(text) > LIMIT:
            raise Unfit(too_large(len(text)))
        read(text)
    except (TypeError, ValueError, RecursionError, Unfit) as error:
        raise UserError(f"{what} cannot be kept: {error}") from None
    return text


def shorten(text: str | None, most: int) -> str | None:
    """A part of a cause as it can be kept: of a bounded length, no half characters (of a file's name, say)."""
    return None if text is None else text[:most].encode("utf-8", "replace").decode()


def unwritable_in(value: Any) -> str | None:
    """Where a content holds what would not be read again as it is, and what; None if nowhere."""
    value = structs.asdict(value) if isinstance(value, Struct) else value
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)  # type: ignore[assignment]
    else:
        return unwritable_value(value)
    for key, part in parts:
        if isinstance(value, dict) and type(key) is not str:
            return f"the key {key!r} is no text"
        if wrong := unwritable_in(part):
            return f"{key}{' ' if wrong.startswith('is ') else '.'}{wrong}"
    return None


def unwritable_value(value: Any) -> str | None:
    if isinstance(value, float):
        return None if isfinite(value) else f"is {value}"
    if isinstance(value, str):
        broken = value.encode("utf-8", "replace").decode() != value
        return f"is {brief(value)}, which is not valid Unicode" if broken else None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**64 else f"is {brief(value)}, a whole number of more than 64 bits"
    return None if value is None else f"is of type {type(value).__name__}, neither a number nor a text"
