"""The state of every cell of a store: done, running, queued, failed with its cause, waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spurbench.bench.cluster.task_states import describe_runs
from spurbench.bench.provenance import edits
from spurbench.bench.records.plan import Cell
from spurbench.bench.records.record import Summary, is_settled
from spurbench.bench.store.store import Store

STATES = ("done", "running", "queued", "failed", "waiting")
COLUMNS = {"grid": "grid", "dataset": "dataset", "label": "method", "precision": "precision"} | {
    name: name for name in (*STATES, "note")
}


def states_of(store: Store) -> list[dict[str, Any]]:
    """One row per cell: how many of its runs are in each state, and why some failed."""
    known, rows = read_state(store), []
    for plan in store.plans():
        for cell in plan.cells:
            ids = [*cell.draw_ids, *cell.ids]
            rows.append({"grid": plan.grid, "dataset": cell.dataset, "label": cell.label,
                         "precision": cell.precision, **tally(ids, known, cell)})  # fmt: skip
    return rows


def read_state(store: Store) -> StoreState:
    """All that is currently known about the runs of a store."""
    records = store.records()[0]
    edits.clear_caches()
    old = {record.id: files for record in records if (files := edits.find_edited_files(record))}
    return StoreState({record.id: record for record in records}, store.claims.living(), describe_runs(store), old)


@dataclass(frozen=True)
class StoreState:
    """All that is known about the runs of a store, by run id."""

    records: dict[str, Summary]
    claims: dict[str, Any]
    elsewhere: dict[str, tuple[str, str]]
    edited: dict[str, list[str]] = field(default_factory=dict)  # runs made before their files were edited

    def state(self, id: str) -> str:
        record, queued = self.records.get(id), self.elsewhere.get(id, ("", ""))[0]
        repeated = record is not None and not record.done and queued in ("queued", "running")
        if repeated or not is_settled(record):
            over = queued == "failed"
            if id in self.claims and not (over and self.claims[id]["task"]):  # else it is the claim of a dead task
                return "running"
            if id in self.elsewhere:
                return queued
        if record is not None:
            return "done" if record.done else "failed"
        return "waiting"

    def note(self, id: str) -> str:
        """How far a run is, why it failed, or why it is not done."""
        state = self.state(id)
        if state == "running" and "step" in self.claims.get(id, {}):
            return "{step:,} of {steps:,} steps, seen {age:.0f} s ago".format(**self.claims[id])
        if state == "failed" and id in self.records and (cause := self.records[id].cause):
            return f"{cause.kind}: {cause.message}"
        return "" if state == "done" else self.elsewhere.get(id, ("", ""))[1]


def tally(ids: Sequence[str], known: StoreState, cell: Cell) -> dict[str, Any]:
    """The states of a cell's runs; the note gives progress, causes, or why the cell cannot be run."""
    states = [known.state(id) for id in ids]
    notes = sorted({known.note(id) for id in ids} - {""})
    if old := [id for id in ids if id in known.edited]:
        files = sorted({file for id in old for file in known.edited[id]})
        notes.append(f"{len(old)} made before {', '.join(files)} was edited (--fresh repeats them)")
    if cell.na:
        notes = [f"n/a: {cell.na}"]
    elif cell.pending:
        notes.append("search not finished")
    return {name: states.count(name) for name in STATES} | {"note": "; ".join(notes)}
