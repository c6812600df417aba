"""What is written down of a run: what is known before it, what it cost, why it failed."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from spurbench.bench.core import machine
from spurbench.bench.plugins import registry
from spurbench.bench.provenance import commit, plugin_code
from spurbench.bench.records.record import SCHEMA, Record, Run
from spurbench.bench.training.execution import Options


def frame(run: Run, options: Options, hardware: bool = True) -> Record:
    """Everything that is known of a run before it is done; usable even where a plug-in is not."""
    method, dataset = registry.methods().get(run.method), registry.datasets().get(run.dataset)
    makers = plugin_code.makers(run.to_dict())
    paths = {kind: info.path for kind, name in makers.items() if (info := registry.plugins(kind).get(name))}
    source = commit.code() | {
        "code": {kind: plugin_code.loaded(kind, name) for kind, name in makers.items()},
        "paths": {kind: str(path) for kind, path in paths.items()},
        "data": "",
        "files": {},
        "versions": commit.versions(),
        "hardware": machine.hardware(options.device if hardware else "cpu"),
        "device": options.device,
        "started": now(),
    }
    return {
        "schema": SCHEMA,
        "id": run.id,
        **run.to_dict(),
        "needs": sorted(method.needs) if method else [],
        "headline": [list(pair) for pair in dataset.headline] if dataset else [],
        "cause": None,
        "splits": {},
        "measures": {},
        "history": [],
        "predictions": None,
        "cost": {"seconds": 0.0, "seconds_per_step": 0.0, "peak_memory_mb": 0.0, "replicas": 1,
                 "threads": options.threads, "resumed": 0},
        "provenance": source,
    }  # fmt: skip


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def finished(record: Record) -> Record:
    return record | {"provenance": record["provenance"] | {"finished": now()}}


def failed(record: Record, kind: str, message: str, detail: str = "") -> Record:
    """The record of a run that came to nothing, with its cause."""
    return finished(record | {"status": "failed", "cause": {"kind": kind, "message": message, "detail": detail}})


# ---- cost -----------------------------------------------------------------------------------------------------------


def cost(seconds: float, steps: int, replicas: int, resumed: int, options: Options) -> dict[str, Any]:
    """What a run cost: its share of the stack's training time, and the peak memory of the stack."""
    return {
        "seconds": round(seconds / replicas, 3),
        "seconds_per_step": round(seconds / replicas / max(steps, 1), 6),
        "peak_memory_mb": round(peak_memory(options.device) / 2**20, 1),
        "replicas": replicas,
        "threads": options.threads,
        "compiled": options.compile,
        "resumed": resumed,
    }


def reset_peak_memory(device: str) -> None:
    """Begin to measure anew: pages kept from earlier jobs are given back, the peak so far is forgotten."""
    if device.startswith("cuda"):
        torch.cuda.init()  # type: ignore[no-untyped-call]  # before it there is no peak, and torch refuses
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """Bytes: of the GPU where there is one, else of this process since the job began."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
