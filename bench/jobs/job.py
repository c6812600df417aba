"""A job: the runs of one cell that train together, and how they are to be computed. No torch is imported here."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.records.record import Summary, is_settled
from spurbench.bench.records.run import Run
from spurbench.bench.training.execution import Options


@dataclass(frozen=True)
class Redo:
    """Which runs that have come to an end are to be done again."""

    failed: bool = False
    edited: bool = False  # those made by plug-ins or data that have been edited since

    def asks_for(self, record: Summary | None) -> bool:
        """Whether a run with this record (None: without one) is to be done."""
        if not is_settled(record, self.failed):
            return True
        from spurbench.bench.provenance import edits

        return self.edited and record is not None and bool(edits.find_edited_files(record))


@dataclass(frozen=True)
class Job:
    """What a launcher hands to a worker; plain values, so that it survives JSON."""

    runs: list[Run]
    label: str
    options: Options = field(default_factory=Options)
    keep: list[int] = field(default_factory=list)  # steps after which the networks are kept, for runs that start there

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
        return int(self.runs[0].training.get("steps", 0))  # none: it does not train

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Job:
        return cls(
            [Run.from_dict(run) for run in fields["runs"]],
            fields["label"],
            Options(**fields["options"]),
            list(fields.get("keep", ())),
        )


def gather(
    runs: Iterable[tuple[Run, str]], wanted: Container[str], height: Callable[[Run, int], int], options: Options
) -> list[Job]:
    """Jobs of the wanted runs, by id, each of some runs of one cell.

    `runs` are all planned ones with their labels: which run shares a job with which is settled among those, whatever
    is done already, so that an interrupted job finds its checkpoint. `height` gives how many runs of a cell of that
    many share one. The jobs go round the cells, so that a launch cut short leaves the same seeds of each.
    """
    cells: dict[str, list[tuple[Run, str]]] = {}
    for run, label in runs:
        cells.setdefault(run.cell_key, []).append((run, label))
    parts = []
    for group in cells.values():
        size = height(group[0][0], len(group))
        parts.append([group[at : at + size] for at in range(0, len(group), size)])
    jobs = []
    for turn in zip_longest(*parts, fillvalue=()):
        for part in turn:
            chosen = [run for run, _ in part if run.id in wanted]
            if chosen:
                jobs.append(Job(chosen, part[0][1], options))
    return jobs
