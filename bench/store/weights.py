"""The networks kept of runs that others start from, after the steps that those need, and what they make of a split."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spurbench.bench.core.errors import StoreTrouble
from spurbench.bench.plugins.network import Networks
from spurbench.bench.store.store import Store

KIND = "weights"


def path_of(store: Store, run_id: str, step: int) -> Path:
    """Where the networks of a run after a step are, or are to be."""
    return store.path(KIND, run_id, f"@{step}.pt")


def has(store: Store, run_id: str, step: int) -> bool:
    """Whether the networks of a run after a step are kept, and can be read."""
    return load(store, run_id, step) is not None


def save(store: Store, run_id: str, step: int, networks: Networks) -> None:
    write(store, path_of(store, run_id, step), networks)


def load(store: Store, run_id: str, step: int) -> Networks | None:
    """The networks of a run after a step, on the CPU; None if they are not kept. A damaged file is deleted."""
    found: Networks | None = read(path_of(store, run_id, step), list)
    return found


def forget(store: Store, run_id: str) -> None:
    """Delete what is kept of a run."""
    first = path_of(store, run_id, 0)
    for file in first.parent.glob(f"{store.file_id(run_id)}@*.pt"):
        file.unlink(missing_ok=True)


def save_outputs(store: Store, run_id: str, step: int, split: str, outputs: dict[str, Tensor]) -> None:
    """Keep what the networks make of a split, by name."""
    write(store, path_of(store, run_id, step).with_suffix(f".{split}.pt"), outputs)


def load_outputs(store: Store, run_id: str, step: int, split: str) -> dict[str, Tensor] | None:
    """The same again, if it is kept; a large file is not read before it is used."""
    found: dict[str, Tensor] | None = read(path_of(store, run_id, step).with_suffix(f".{split}.pt"), dict)
    return found


def write(store: Store, path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    store.write(path, buffer.getvalue())


def read(path: Path, kind: type) -> Any:
    """What a file holds; None if there is none, or it is damaged: then it is deleted, and made anew.

    Errors: StoreTrouble where the machine cannot read it now.
    """
    found: Any = None
    try:
        found = load_file(path)
    except FileNotFoundError:
        return None
    except (OSError, MemoryError) as error:
        raise StoreTrouble(f"cannot read {path}: {error}: run the same command again") from None
    except Exception:  # torch lets through whatever it trips over
        found = None
    if isinstance(found, kind):
        return found
    path.unlink(missing_ok=True)
    return None


def load_file(path: Path) -> Any:
    """What torch finds in a file, mapped into memory; read where that fails, as it may though the file is sound."""
    with suppress(Exception):
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    return torch.load(io.BytesIO(path.read_bytes()), weights_only=True, map_location="cpu")
