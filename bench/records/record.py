"""Runs, their identity, and the record each leaves behind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spurbench.bench.core.hashing import fingerprint

SCHEMA = 2
NEWER = "written by a newer spurbench"
Record = dict[str, Any]
OUTSIDE = {"killed", "cancelled", "preempted", "time_limit", "node_failure"}
"""Causes that are none of a run's own: it is done again without being asked."""
FIRST_FIELDS = {"width": 300, "hidden_layers": 1, "init": "torch", "dropout": 0.0, "batch_norm": False, "momentum": 0.0}


@dataclass(frozen=True)
class Run:
    """dataset × method × hyper-parameters × seed, every default filled in: all that defines the science."""

    dataset: str
    dataset_options: Mapping[str, Any]
    protocol_version: int
    method: str
    hyper_parameters: Mapping[str, Any]
    training: Mapping[str, Any]
    precision: str
    seed: int

    @cached_property
    def id(self) -> str:
        """Sixteen hex digits of the hash of the identity; no path, device or version is in it."""
        return fingerprint(identity(self.to_dict()))[:16]

    @cached_property
    def cell_key(self) -> str:
        """The identity without the seed, hashed: runs of one key are replicas of one experiment."""
        return fingerprint(identity({**self.to_dict(), "seed": None}))[:16]

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Run:
        """The run a record or job describes; further keys are left alone."""
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})


def identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is hashed of a run, a record or a cell of a plan, given as their fields.

    `training` holds only what has an effect. Once every field of it was there, whatever the network and optimizer, so
    that the first ones count as their defaults where they are absent: ids given since then stay.
    """
    found = used(fields)
    return found | {"training": FIRST_FIELDS | found["training"]}


IDENTITY = tuple(name for name in Run.__dataclass_fields__ if name != "seed")


def run_ids(row: Mapping[str, Any], seeds: Iterable[int]) -> list[str]:
    """What `Run.id` gives for each seed, without building the runs (10,000 ids in a fraction of a second)."""
    shared = identity({name: row[name] for name in IDENTITY})
    return [fingerprint({**shared, "seed": seed})[:16] for seed in seeds]


def used(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without those that are None: a protocol may gain an optional field and keep its ids."""
    return {k: used(v) if isinstance(v, dict | Mapping) else v for k, v in fields.items() if v is not None}


def sealed(record: Record) -> Record:
    """The record with its digest, so that a truncated or edited one is recognised."""
    body = {key: value for key, value in record.items() if key != "digest"}
    return {**body, "digest": fingerprint(body)}


def fault(record: Any, text: bytes = b"") -> str | None:
    """Why this record cannot be trusted, or None; `text` is what it was read from, if known."""
    if not isinstance(record, dict) or "digest" not in record or type(record.get("schema")) is not int:
        return "not a record"
    if record["schema"] > SCHEMA:
        return f"{NEWER} (schema {record['schema']}, this one reads up to {SCHEMA})"
    try:
        if not intact(record, text):
            return "its content does not match its digest (edited by hand or damaged)"
        if Run.from_dict(record).id != record["id"]:
            return "its id does not match what it describes"
    except KeyError as error:
        return f"not a record: it has no {error}"
    except (RecursionError, TypeError, ValueError) as error:
        return f"not a record: {error}"
    return None


def intact(record: Record, text: bytes) -> bool:
    """Whether the content is what the digest was made of.

    The text as `canonical` wrote it, without its digest, need not be encoded again (a third of the time to read it).
    """
    digest = str(record["digest"])
    body = text.strip().replace(f'"digest":"{digest}",'.encode(), b"", 1)
    return hashlib.sha256(body).hexdigest() == digest or sealed(record)["digest"] == digest


def told(record: Record) -> Record:
    """What a record says of the science; what it cost and where it was computed left out."""
    return {name: record[name] for name in record if name not in ("digest", "cost", "provenance", "predictions")}


def settled(record: Record | None, retry: bool = False) -> bool:
    """Whether a run needs no further work: done, or failed for a reason of its own (unless those are to be retried)."""
    if record is None:
        return False
    return record["status"] == "done" or not (retry or record["cause"]["kind"] in OUTSIDE)
