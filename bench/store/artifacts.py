"""What is kept of a run for drawing: arrays by name, such as logits on a lattice, in one file beside its predictions.

A packed store has those of all its runs in one `.drawings.npz` beside it, as `RUN-ID/name`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from spurbench.bench.core.files import write_atomically
from spurbench.bench.records.parsing import printable
from spurbench.bench.store.store import Packed, Store

Array = NDArray[Any]
KIND = "drawings"
LIMIT = 2**30  # bytes of one array


def save_arrays(store: Store, run_id: str, arrays: Mapping[str, Array]) -> None:
    """Add a run's arrays to those kept of it; one of the same name gives way."""
    if arrays:
        store.write(store.path(KIND, run_id, ".npz"), zipped(load_arrays(store, run_id) | dict(arrays)))


def load_arrays(store: Store, run_id: str) -> dict[str, Array]:
    """All that is kept of a run, by name; empty if nothing is. What is damaged joins the store's complaints."""
    return dict(each(store, [run_id])).get(run_id, {})


def each(store: Store, run_ids: Iterable[str]) -> Iterator[tuple[str, dict[str, Array]]]:
    """What is kept of each of these runs of which anything is; the file of a packed store is opened once."""
    if not isinstance(store, Packed):
        for run_id in run_ids:
            with opened(store, store.path(KIND, run_id, ".npz")) as found:
                if arrays := whole(found, found):
                    yield run_id, arrays
        return
    with opened(store, beside(store.root)) as found:
        names: dict[str, list[str]] = {}
        for name in found:
            names.setdefault(name.partition("/")[0], []).append(name)
        for run_id in run_ids:
            start = store.home(run_id)
            if arrays := whole(found, names.get(start, [])):
                yield run_id, {name.removeprefix(f"{start}/"): array for name, array in arrays.items()}


def whole(found: Mapping[str, Array | None], names: Iterable[str]) -> dict[str, Array]:
    """Those of these arrays that can be read."""
    arrays = {name: found[name] for name in names}
    return {name: array for name, array in arrays.items() if array is not None}


class Arrays(Mapping[str, "Array | None"]):
    """The arrays of a file, each read when it is asked for; None for one that is damaged."""

    def __init__(self, store: Store, file: Path, found: NpzFile) -> None:
        self.store, self.file, self.found = store, file, found
        self.sizes = {one.filename: one.file_size for one in found.zip.infolist()} if found.zip else {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.found.files)

    def __len__(self) -> int:
        return len(self.found.files)

    def __getitem__(self, name: str) -> Array | None:
        try:
            size = self.sizes.get(name) or self.sizes[f"{name}.npy"]
            if size <= LIMIT and isinstance(array := self.found[name], np.ndarray):
                return array
            why = "too large" if size > LIMIT else "not an array"
        except Exception as error:  # numpy lets through whatever it trips over
            why = printable(f"{type(error).__name__}: {error}"[:100])
        self.store.damage(self.file, f"{printable(name)} in it is damaged ({why}): delete the file and make it anew")
        return None


@contextmanager
def opened(store: Store, file: Path) -> Iterator[Mapping[str, Array | None]]:
    """The arrays of a file; none if there is no file, or none that can be opened."""
    found: Any = None
    if os.path.lexists(file):
        try:
            found = np.load(file, allow_pickle=False) if file.is_file() else None
            why = "" if isinstance(found, NpzFile) else "not an archive of arrays"
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            why = type(error).__name__
        if why:
            store.damage(file, f"it is damaged ({why}): delete it and make it anew")
    if isinstance(found, NpzFile):
        with found:
            yield Arrays(store, file, found)
    else:
        yield {}


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
        own = load_arrays(store, run_id)
        more = {name: value for name, value in theirs.items() if name not in own}
        save_arrays(store, run_id, more)
        new += bool(more)
    return new


def zipped(arrays: Mapping[str, Any]) -> bytes:
    """The content of one compressed file; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: arrays[name] for name in sorted(arrays)})
    return buffer.getvalue()
