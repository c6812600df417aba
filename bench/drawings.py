"""What is kept of a run for drawing: arrays by name, such as logits on a lattice, in one file beside its predictions.

A packed store has those of all its runs in one `.drawings.npz` beside it, as `RUN-ID/name`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from spurbench.bench.errors import UserError
from spurbench.bench.files import write_atomically
from spurbench.bench.store import Packed, Store

Array = NDArray[Any]
KIND = "drawings"


def keep(store: Store, run_id: str, arrays: Mapping[str, Array]) -> None:
    """Add a run's arrays to those kept of it; one of the same name gives way."""
    if arrays:
        store.write(store.path(KIND, run_id, ".npz"), zipped(kept(store, run_id) | dict(arrays)))


def kept(store: Store, run_id: str) -> dict[str, Array]:
    """All that is kept of a run, by name; empty if nothing is."""
    return dict(each(store, [run_id])).get(run_id, {})


def each(store: Store, run_ids: Iterable[str]) -> Iterator[tuple[str, dict[str, Array]]]:
    """What is kept of each of these runs of which anything is; the file of a packed store is opened once."""
    if not isinstance(store, Packed):
        for run_id in run_ids:
            with opened(store.path(KIND, run_id, ".npz")) as found:
                if found:
                    yield run_id, dict(found)
        return
    with opened(beside(store.root)) as found:
        names: dict[str, list[str]] = {}
        for name in found:
            names.setdefault(name.partition("/")[0], []).append(name)
        for run_id in run_ids:
            if run_id in names:
                yield run_id, {name.removeprefix(f"{run_id}/"): found[name] for name in names[run_id]}


@contextmanager
def opened(file: Path) -> Iterator[Mapping[str, Array]]:
    """The arrays of a file, each read when it is asked for; none if there is no file."""
    if not file.exists():
        yield {}
        return
    try:
        with np.load(file, allow_pickle=False) as found:
            yield found
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}): delete it and make it anew") from None


def forget(store: Store, run_id: str) -> None:
    """Delete what is kept of a run."""
    store.path(KIND, run_id, ".npz").unlink(missing_ok=True)


def beside(file: Path) -> Path:
    """Where the drawings of a packed store are: `records.drawings.npz` for `records.jsonl.gz`."""
    return file.with_name(f"{file.name.removesuffix('.gz').removesuffix('.jsonl')}.drawings.npz")


def pack(store: Store, file: Path, run_ids: Iterable[str]) -> int:
    """Write the drawings of these runs beside a packed store; how many runs have any."""
    found = dict(each(store, run_ids))
    every = {f"{run_id}/{name}": value for run_id in found for name, value in found[run_id].items()}
    write_atomically(beside(file), zipped(every))
    return len(found)


def unpack(store: Store, source: Store, run_ids: Iterable[str]) -> int:
    """Take over from another store what this one lacks of these runs; how many runs had something new."""
    new = 0
    for run_id, theirs in each(source, run_ids):
        own = kept(store, run_id)
        more = {name: value for name, value in theirs.items() if name not in own}
        keep(store, run_id, more)
        new += bool(more)
    return new


def zipped(arrays: Mapping[str, Any]) -> bytes:
    """The content of one compressed file; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: arrays[name] for name in sorted(arrays)})
    return buffer.getvalue()
