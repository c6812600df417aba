"""What is written down of a run: what is known before it, what it cost, why it failed."""

from __future__ import annotations

from datetime import UTC, datetime

import torch
from msgspec.structs import replace

from spurbench.bench.core import machine
from spurbench.bench.core.errors import BadSeed
from spurbench.bench.jobs.bases import BaseFailed
from spurbench.bench.jobs.memory import peak_memory
from spurbench.bench.plugin_files import places
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.method import CannotBegin
from spurbench.bench.provenance import commit, plugin_code
from spurbench.bench.records.record import SCHEMA, Cause, Cost, Provenance, Record
from spurbench.bench.records.run import Run
from spurbench.bench.store.store import Store
from spurbench.bench.training.execution import Options


def code_of_bases(run: Run, store: Store) -> dict[str, str]:
    """The code of the methods that made the runs that a run starts from, as their records have it, by its parts."""
    made: dict[str, str] = {}
    for record in filter(None, (store.record(base.id) for base, _ in run.bases)):
        parts = plugin_code.makers(record.identity)
        made |= {name: record.provenance.code.get(part, "") for part, name in parts.items()
                 if plugin_code.kind_of(part) == "method"}  # fmt: skip
    parts = plugin_code.makers(run.to_dict())
    return {part: made[name] for part, name in parts.items() if plugin_code.kind_of(part) != part and made.get(name)}


def begin_record(run: Run, options: Options, hardware: bool = True) -> Record:
    """Everything that is known of a run before it is done; usable even where a plug-in is not."""
    method, dataset = registry.methods().get(run.method), registry.datasets().get(run.dataset)
    makers = plugin_code.makers(run.to_dict())
    files = {
        kind: info.path
        for kind, name in makers.items()
        if (info := registry.plugins(plugin_code.kind_of(kind)).get(name))
    }
    code = {kind: plugin_code.loaded(kind, name) for kind, name in makers.items()}
    names = places.name_files(files.values())
    for kind, path in files.items():
        places.remember(names[path], code[kind], path)
    provenance = Provenance(
        **commit.code(),  # type: ignore[arg-type]  # commit, diff and perhaps snapshot
        code=code,
        paths={kind: names[path] for kind, path in files.items()},
        data="",
        files={},
        versions=commit.versions(),
        hardware=machine.hardware(options.device if hardware else "cpu"),
        device=options.device,
        started=now(),
    )
    return Record(
        schema=SCHEMA,
        id=run.id,
        **run.to_dict(),
        status="failed",
        cause=Cause("unfinished", "the run has not come to an end"),
        needs=sorted(method.needs) if method else [],
        headline=list(dataset.headline) if dataset else [],
        splits={},
        measures={},
        history=[],
        predictions=None,
        cost=Cost(
            seconds=0.0, seconds_per_step=0.0, peak_memory_mb=0.0, replicas=1, threads=options.threads, resumed=0
        ),
        provenance=provenance,
    )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def finish(record: Record) -> Record:
    """The record with the time of now as that of its end."""
    return record.with_(provenance=replace(record.provenance, finished=now()))


def fail(record: Record, kind: str, message: str, detail: str = "") -> Record:
    """The record of a run that came to nothing, with its cause."""
    cause = Cause(kind, places.without_folders(message), places.without_folders(detail))
    return finish(record.with_(status="failed", cause=cause))


def find_cause(run: Run, error: BaseException) -> tuple[str, str]:
    """Why a run failed: the kind, and a line for the user."""
    if isinstance(error, BadSeed):
        return "bad_data", str(error)
    if isinstance(error, BaseFailed):
        return "base_failed", str(error)
    if isinstance(error, CannotBegin):
        return "cannot_begin", str(error)
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return "out_of_memory", message + suggest_remedy(run)
    return "exception", message


def suggest_remedy(run: Run) -> str:
    """What to change after running out of memory."""
    batch = run.training.get("batch")
    return f"; try training.batch {batch // 2}" if batch and batch > 1 else "; try a smaller training set or network"


# ---- cost -----------------------------------------------------------------------------------------------------------


def cost(seconds: float, steps: int, replicas: int, resumed: int, options: Options) -> Cost:
    """What a run cost: its share of the stack's training time, and the peak memory of the stack."""
    return Cost(
        seconds=round(seconds / replicas, 3),
        seconds_per_step=round(seconds / replicas / max(steps, 1), 6),
        peak_memory_mb=round(peak_memory(options.device) / 2**20, 1),
        replicas=replicas,
        threads=options.threads,
        compiled=options.compile,
        resumed=resumed,
    )
