"""Records and plans for tests, from as few fields as a test is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.records.migrations import UNKNOWN
from spurbench.bench.records.plan import Cell, Draw, Plan, Search
from spurbench.bench.records.record import SCHEMA, Counts, Record
from spurbench.bench.records.run import Run, run_ids

COST: dict[str, Any] = {"seconds": 1.0, "seconds_per_step": 0.1, "peak_memory_mb": 9.0, "replicas": 1, "threads": 1}
RECORD: dict[str, Any] = {
    "schema": SCHEMA, "dataset": "moon", "dataset_options": {}, "protocol_version": 1, "method": "erm",
    "hyper_parameters": {}, "training": {"steps": 3}, "precision": "float32", "seed": 0, "status": "done",
    "needs": [], "headline": [], "cause": None, "splits": {}, "measures": {}, "history": [], "predictions": None,
}  # fmt: skip
CELL: dict[str, Any] = {
    "dataset": "moon", "dataset_options": {}, "protocol_version": 1, "method": "erm", "published": None,
    "hyper_parameters": {}, "training": {"steps": 3}, "precision": "float32", "na": None, "seeds": [0], "search": None,
}  # fmt: skip
PLAN: dict[str, Any] = {"schema": SCHEMA, "description": "", "selection": {"rule": "none"}, "notes": []}


def make_record(**fields: Any) -> Record:
    """A record of these fields, plain values or typed ones; the others have defaults, and the id fits them."""
    found = RECORD | fields
    found["cost"] = COST | dict(found.get("cost") or {})
    found["provenance"] = UNKNOWN | dict(found.get("provenance") or {})
    found.setdefault("id", Run.from_dict(found).id)
    record = msgspec.convert(msgspec.to_builtins(found), Record)
    return record.with_(digest=seal(record.to_dict())["digest"])


def make_counts(*correct: float, n: float | Sequence[float] = 100, loss: float = 1.0, entropy: float = 1.0) -> Counts:
    """Counts of groups with so many right answers, each of `n` examples or of as many as stand there."""
    each = list(n) if isinstance(n, Sequence) else [n] * len(correct)
    return Counts(n=each, correct=list(correct), loss_sum=loss, entropy_sum=entropy)


def make_cell(**fields: Any) -> Cell:
    """A cell of these fields; the others have defaults, and the ids fit them."""
    found = CELL | {"label": fields.get("method", "erm")} | fields
    known = found["hyper_parameters"] is not None and not found["na"]
    found.setdefault("ids", run_ids(found, found["seeds"]) if known else [])
    return msgspec.convert(msgspec.to_builtins(found), Cell)


def make_search(*draws: Run, rule: str = "test_accuracy", text: str = "draws", chosen: int | None = 0) -> Search:
    """A search among these runs, each a draw."""
    found = [
        Draw(
            dataset_options=dict(run.dataset_options),
            hyper_parameters=dict(run.hyper_parameters),
            training=dict(run.training),
            seeds=[run.seed],
            ids=[run.id],
        )
        for run in draws
    ]
    return Search(rule=rule, text=text, draws=found, chosen=chosen)


def make_plan(**fields: Any) -> Plan:
    """A plan of these fields; the others have defaults."""
    return msgspec.convert(msgspec.to_builtins(PLAN | fields), Plan)


def seal(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record with the digest of what they are, right or wrong."""
    body = {name: value for name, value in fields.items() if name != "digest"}
    return {**body, "digest": fingerprint(body)}
