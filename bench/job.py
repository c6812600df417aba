"""A job: the runs of one cell that train together, and how they are to be computed. No torch is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spurbench.bench.record import Record, Run, fingerprint


@dataclass(frozen=True)
class Options:
    """How to compute, not what: nothing here is part of a run's identity."""

    device: str = "cpu"
    threads: int = 1
    micro_batch: int = 2500  # rows; 1,000 to 5,000 keep the activations in cache
    history: int = 20  # points of the learning curve
    checkpoint_seconds: float = 60.0


@dataclass(frozen=True)
class Job:
    """What a launcher hands to a worker; plain values, so that it survives JSON."""

    runs: list[Run]
    label: str
    options: Options = field(default_factory=Options)

    @property
    def name(self) -> str:
        return fingerprint([run.id for run in self.runs])[:16]

    @property
    def title(self) -> str:
        seeds = [run.seed for run in self.runs]
        shown = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds from {seeds[0]}"
        return f"{self.runs[0].dataset} × {self.label}, {shown}"

    @property
    def steps(self) -> int:
        return int(self.runs[0].training["steps"])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Job:
        return cls([Run.from_dict(run) for run in fields["runs"]], fields["label"], Options(**fields["options"]))


def settled(record: Record | None, retry: bool = False) -> bool:
    """Whether a run needs no further work: done, or failed for a reason of its own (unless those are to be retried).

    A run that something outside it ended (killed, cancelled) is done again without being asked.
    """
    if record is None:
        return False
    return record["status"] == "done" or not (retry or record["cause"]["kind"] in ("killed", "cancelled"))


def gather(runs: Iterable[tuple[Run, str]], height: int, options: Options) -> list[Job]:
    """Jobs of at most `height` runs of one cell, in the order of the runs (each with its label)."""
    cells: dict[str, list[tuple[Run, str]]] = {}
    for run, label in runs:
        cells.setdefault(run.cell_key, []).append((run, label))
    return [
        Job([run for run, _ in group[at : at + height]], group[0][1], options)
        for group in cells.values()
        for at in range(0, len(group), height)
    ]
