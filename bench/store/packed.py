"""The file that holds a whole store: a line of JSON for each plan and each record, perhaps compressed."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spurbench.bench.core.hashing import canonical
from spurbench.bench.records.parsing import LIMIT, Unfit, Unusable, brief, parse_json, plan_from, record_from
from spurbench.bench.records.plan import Plan
from spurbench.bench.records.plan_merge import merge_plans
from spurbench.bench.records.record import Record, agree, seal

MAX_LINE = LIMIT + 1000  # bytes
MAX_UNPACKED = 16 * 2**30  # bytes, since a small compressed file may expand to any size
MAX_FAULTS = 1000  # unusable lines after which reading stops


@dataclass
class Contents:
    """What a packed store holds."""

    plans: list[Plan] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)  # which plans got a name of their own, in words
    records: dict[str, Record] = field(default_factory=dict)  # by id
    unusable: list[Unusable] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)  # id → the one it is kept under, where that is another


def read_contents(file: Path) -> Contents:
    """All usable content of a packed store, and the unusable lines with the reasons."""
    found, plans, places = Contents(), list[tuple[Plan, str]](), dict[str, list[str]]()
    for number, text in read_lines(file):
        place = f"{file.name}:{number}"
        try:
            if isinstance(text, Unfit):
                raise text
            kind, value = parse_line(text)
            if kind == "plan":
                plans.append((plan_from(value), place))
            else:
                record = record_from(value, text.strip().removeprefix(b'{"record":').removesuffix(b"}"))
                add_record(found, record, place, places)
                if record.id != value["id"]:
                    found.moved[record.id] = value["id"]
        except Unfit as reason:
            found.unusable.append(Unusable(place, str(reason), newer=reason.newer))
        if len(found.unusable) == MAX_FAULTS:
            found.unusable.append(Unusable(place, f"{MAX_FAULTS} lines cannot be used: what follows is not read"))
            break
    found.plans, found.renamed = merge_plans(plans)
    found.records = {id: record for id, record in found.records.items() if len(places[id]) == 1}
    return found


def add_record(found: Contents, record: Record, place: str, places: dict[str, list[str]]) -> None:
    """Add a record; of two that contradict each other about one run neither is used.

    A failed one is replaced by a finished one, and of two that agree the first is kept.
    """
    id = record.id
    first = found.records.get(id)
    if len(places.get(id, ())) > 1:
        found.unusable.append(contradiction_of(id, place))
    elif first is None:
        found.records[id], places[id] = record, [place]
    elif first.status == record.status == "done" and not agree(first, record):
        places[id].append(place)
        found.unusable += [contradiction_of(id, one) for one in places[id]]
    elif first.status == "failed" and record.status == "done":
        found.records[id], places[id] = record, [place]


def contradiction_of(id: str, place: str) -> Unusable:
    return Unusable(place, f"the finished records of run {id} in this file contradict each other")


def read_lines(file: Path) -> Iterator[tuple[int, bytes | Unfit]]:
    """Every non-empty line with its number, from 1; the last may say why no more can be read."""
    number, left = 0, MAX_UNPACKED
    with open(file, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(file, "rb") if compressed else open(file, "rb") as stream:
            while text := stream.readline(MAX_LINE + 1):
                number += 1
                left -= len(text)
                if len(text) > MAX_LINE or left < 0:
                    what = f"line has more than {LIMIT // 2**20} MiB"
                    what = what if left >= 0 else f"file has more than {MAX_UNPACKED:,} bytes"
                    yield number, Unfit(f"the {what}: it is not read, nor is what follows")
                    return
                if text.strip():
                    yield number, text
    except (EOFError, OSError, zlib.error) as error:
        yield number + 1, Unfit(f"cut short or damaged ({error}): this line and what follows cannot be read")


def parse_line(text: bytes) -> tuple[str, Any]:
    """What a line holds, `plan` or `record`, and its content."""
    line = parse_json(text, "a plan or record")
    if not isinstance(line, dict) or not line:
        raise Unfit(f"neither a plan nor a record: it is {brief(line)}")
    if len(line) > 1 or not line.keys() & {"plan", "record"}:
        kinds = ", ".join(brief(name) for name in sorted(line)[:3])
        raise Unfit(f"neither a plan nor a record, but {kinds} (written by a newer spurbench?)")
    ((kind, value),) = line.items()
    return kind, value


def encode(plans: Sequence[Plan], records: Sequence[Record], compress: bool) -> bytes:
    """The content of a packed store; the same plans and records give the same bytes."""
    found = [{"plan": plan.to_dict()} for plan in plans] + [{"record": seal(record)} for record in records]
    text = b"".join(canonical(line) + b"\n" for line in found)
    if not compress:
        return text
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as zipped:
        zipped.write(text)
    return buffer.getvalue()
