"""The code as it was when a grid was submitted, kept in the store by its hash: what runs is what was submitted."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from spurbench.bench.core.files import ROOT
from spurbench.bench.core.hashing import canonical, fingerprint
from spurbench.bench.provenance import commit

FOLDERS = ("bench", "methods", "datasets", "slurm", "ray_pool")


def take(store: Path, plugins: Iterable[str]) -> tuple[Path, list[str]]:
    """Copy the package and the plug-in files into the store, unless they are there; the copy and its plug-ins.

    The copy is a folder to put on Python's path. Beside the package lies where it came from, for the records.
    """
    package = ROOT
    files = {f"spurbench/{name}": file for name, file in sources(package)}
    own = {f"plugins/{i}/{Path(path).name}": Path(path) for i, path in enumerate(plugins)}
    files |= own
    digests = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    target = store.resolve() / "code" / fingerprint(digests)[:16]
    if not target.exists():
        copy(files, target)
    return target, [str(target / name) for name in own]


def sources(package: Path) -> Iterator[tuple[str, Path]]:
    """The files of the package, by their names in it, in order."""
    yield "__init__.py", package / "__init__.py"
    for folder in FOLDERS:
        for file in sorted((package / folder).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file.relative_to(package).as_posix(), file


def copy(files: dict[str, Path], target: Path) -> None:
    """Copy the files to `target`, which appears at once and whole, or not at all."""
    half = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        for name, file in files.items():
            put(half / name, file.read_bytes(), target / name)
        put(half / commit.BESIDE, canonical(commit.code() | {"snapshot": target.name}), target / commit.BESIDE)
        os.rename(half, target)
    except OSError:
        if not target.exists():  # else another command was faster
            raise
    finally:
        shutil.rmtree(half, ignore_errors=True)


def put(file: Path, content: bytes, meant: Path) -> None:
    """Write a file that will be `meant` when all are whole; that is what an error names."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        error.filename = str(meant)
        raise
