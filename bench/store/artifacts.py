"""Arrays kept of a run for drawing, by name, such as logits on a lattice: one file beside its predictions.

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
FOLDER = "drawings"
MAX_BYTES = 2**30  # bytes of one array


def save_arrays(store: Store, run_id: str, arrays: Mapping[str, Array]) -> None:
    """Add arrays to those kept of a run; one of the same name is replaced."""
    if arrays:
        store.write(store.path(FOLDER, run_id, ".npz"), compress(load_arrays(store, run_id) | dict(arrays)))


def load_arrays(store: Store, run_id: str) -> dict[str, Array]:
    """All that is kept of a run, by name; empty if nothing is. Damage is added to the store's complaints."""
    return dict(load_each(store, [run_id])).get(run_id, {})


def load_each(store: Store, run_ids: Iterable[str]) -> Iterator[tuple[str, dict[str, Array]]]:
    """The arrays of each of these runs that has any; the file of a packed store is opened once."""
    if not isinstance(store, Packed):
        for run_id in run_ids:
            with open_arrays(store, store.path(FOLDER, run_id, ".npz")) as found:
                if arrays := readable_arrays(found, found):
                    yield run_id, arrays
        return
    with open_arrays(store, drawings_file(store.root)) as found:
        names: dict[str, list[str]] = {}
        for name in found:
            names.setdefault(name.partition("/")[0], []).append(name)
        for run_id in run_ids:
            start = store.file_id(run_id)
            if arrays := readable_arrays(found, names.get(start, [])):
                yield run_id, {name.removeprefix(f"{start}/"): array for name, array in arrays.items()}


def readable_arrays(found: Mapping[str, Array | None], names: Iterable[str]) -> dict[str, Array]:
    """Those of the named arrays that can be read."""
    arrays = {name: found[name] for name in names}
    return {name: array for name, array in arrays.items() if array is not None}


class LazyArrays(Mapping[str, "Array | None"]):
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
            if size <= MAX_BYTES and isinstance(array := self.found[name], np.ndarray):
                return array
            why = "too large" if size > MAX_BYTES else "not an array"
        except Exception as error:  # numpy passes on whatever goes wrong
            why = printable(f"{type(error).__name__}: {error}"[:100])
        self.store.damage(self.file, f"{printable(name)} in it is damaged ({why}): delete the file and make it anew")
        return None


@contextmanager
def open_arrays(store: Store, file: Path) -> Iterator[Mapping[str, Array | None]]:
    """The arrays of a file; none if there is no file, or if it cannot be opened."""
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
            yield LazyArrays(store, file, found)
    else:
        yield {}


def delete_arrays(store: Store, run_id: str) -> None:
    """Delete what is kept of a run."""
    store.path(FOLDER, run_id, ".npz").unlink(missing_ok=True)


def drawings_file(file: Path) -> Path:
    """Where the drawings of a packed store are: `records.drawings.npz` for `records.jsonl.gz`."""
    return file.with_name(f"{file.name.removesuffix('.gz').removesuffix('.jsonl')}.drawings.npz")


def pack(store: Store, file: Path, run_ids: Iterable[str]) -> int:
    """Write the drawings of these runs beside a packed store; how many runs have any."""
    found = dict(load_each(store, run_ids))
    every = {f"{run_id}/{name}": value for run_id in found for name, value in found[run_id].items()}
    write_atomically(drawings_file(file), compress(every))
    return len(found)


def copy_missing(store: Store, source: Store, run_ids: Iterable[str]) -> int:
    """Copy from another store the arrays of these runs that this one lacks; how many runs had new ones."""
    new = 0
    for run_id, theirs in load_each(source, run_ids):
        own = load_arrays(store, run_id)
        more = {name: value for name, value in theirs.items() if name not in own}
        save_arrays(store, run_id, more)
        new += bool(more)
    return new


def compress(arrays: Mapping[str, Any]) -> bytes:
    """The content of one compressed file; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: arrays[name] for name in sorted(arrays)})
    return buffer.getvalue()
