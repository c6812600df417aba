"""What is kept of a run for drawing: arrays by name, such as logits on a lattice, in one file beside its predictions.

A packed store has those of all its runs in one `.drawings.npz` beside it, as `RUN-ID/name`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spurbench.bench.errors import UserError
from spurbench.bench.store import Packed, Store, write_atomically

Array = NDArray[Any]
KIND = "drawings"


def keep(store: Store, run_id: str, arrays: Mapping[str, Array]) -> None:
    """Add a run's arrays to those kept of it; one of the same name gives way."""
    if arrays:
        write(store.path(KIND, run_id, ".npz"), kept(store, run_id) | dict(arrays))


def kept(store: Store, run_id: str) -> dict[str, Array]:
    """All that is kept of a run, by name; empty if nothing is."""
    if isinstance(store, Packed):
        file, start = beside(store.root), f"{run_id}/"
    else:
        file, start = store.path(KIND, run_id, ".npz"), ""
    if not file.exists():
        return {}
    try:
        with np.load(file, allow_pickle=False) as found:
            return {name.removeprefix(start): found[name] for name in found.files if name.startswith(start)}
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}): delete it and make it anew") from None


def beside(file: Path) -> Path:
    """Where the drawings of a packed store are: `records.drawings.npz` for `records.jsonl.gz`."""
    return file.with_name(f"{file.name.removesuffix('.gz').removesuffix('.jsonl')}.drawings.npz")


def pack(store: Store, file: Path, run_ids: Iterable[str]) -> int:
    """Write the drawings of these runs beside a packed store; how many runs have any."""
    found = {run_id: kept(store, run_id) for run_id in run_ids}
    write(beside(file), {f"{run_id}/{name}": value for run_id in found for name, value in found[run_id].items()})
    return sum(map(bool, found.values()))


def unpack(store: Store, source: Store, run_ids: Iterable[str]) -> int:
    """Take over from another store what this one lacks of these runs; how many runs had something new."""
    new = 0
    for run_id in run_ids:
        own = kept(store, run_id)
        more = {name: value for name, value in kept(source, run_id).items() if name not in own}
        keep(store, run_id, more)
        new += bool(more)
    return new


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """One compressed file; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: arrays[name] for name in sorted(arrays)})
    write_atomically(path, buffer.getvalue())
