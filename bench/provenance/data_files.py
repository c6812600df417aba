"""The data files that a process reads to load a dataset, and hashes of their content."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from spurbench.bench.core.files import ROOT
from spurbench.bench.plugin_files import places

Files = dict[str, str]
"""Name of a data file → hash of its content."""


FACTS = "prepared.json"  # of prepared images: holds a checksum of the files beside it


WHOLE = 256 << 20  # bytes up to which a data file is hashed whole


ENDS = 1 << 20  # bytes hashed at the beginning and the end of a larger one


_opened: list[str] | None = None  # paths opened while a dataset loads


_read: dict[str, dict[Path, str]] = {}  # dataset and options → files this process has read for it; some cache them


@contextmanager
def watching(dataset: str) -> Iterator[Files]:
    """The files read to load a dataset inside the block, or earlier in this process; filled in at its end.

    `dataset` names it with its options, which may say what is read.
    """
    global _opened
    listen_for_opens()
    files: Files = {}
    opened: list[str] = []
    _opened = opened
    try:
        yield files
    finally:
        _opened = None
    known = _read.setdefault(dataset, {})
    for path in (Path(name) for name in dict.fromkeys(opened)):
        if is_data(path):
            known[path.absolute()] = content_of(path)
    for path, name in places.name_files(known).items():
        files[name] = known[path]
        places.remember(name, files[name], path)


@cache
def listen_for_opens() -> None:
    """Once per process: have Python report every file that is opened for reading."""

    def record_open(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _opened is not None:
            file, mode, flags = arguments
            reads = "w" not in (mode or "") and not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR))
            if isinstance(file, str | bytes | os.PathLike) and reads and len(_opened) < 100_000:
                _opened.append(os.fsdecode(file))

    sys.addaudithook(record_open)


@cache
def non_data_folders() -> tuple[Path, ...]:
    """Folders whose files are not a dataset's data: Python, packages, the system, spurbench."""
    rooms = [ROOT / room for room in ("bench", "methods", "datasets", "slurm")]
    python = [Path(prefix).resolve() / "lib" for prefix in (sys.prefix, sys.base_prefix)]
    packages = [Path(place).resolve() for place in sys.path if "site-packages" in place]
    return tuple(rooms + python + packages + [Path(p) for p in ("/proc", "/sys", "/dev", "/etc", "/usr/share")])


def is_data(path: Path) -> bool:
    with suppress(OSError):
        there = path.resolve()
        if there.suffix in (".py", ".pyc", ".so", ".pth") or any(
            there.is_relative_to(one) for one in non_data_folders()
        ):
            return False
        return there.is_file() and there.parent.name != places.REMEMBERED and not prepared_part(there)
    return False


def prepared_part(path: Path) -> bool:
    """Whether a file belongs to prepared images, whose facts hold a checksum of it."""
    return path.name != FACTS and (path.parent / FACTS).is_file()


def content_of(path: Path) -> str:
    """Sixteen hex digits that change with a data file's content; "" if it cannot be read."""
    with suppress(OSError):
        stat = path.stat()
        return read_content(str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return ""


@lru_cache(maxsize=4096)
def read_content(file: str, mtime: int, size: int, inode: int) -> str:
    path = Path(file)
    if path.name == FACTS:  # when and where images were prepared does not matter
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(path.read_bytes())["checksum"])[:16]
    digest = hashlib.sha256(f"{size} ".encode())
    with open(path, "rb") as opened:
        if size <= WHOLE:
            return hashlib.file_digest(opened, lambda: digest).hexdigest()[:16]
        digest.update(opened.read(ENDS))
        opened.seek(size - ENDS)
        digest.update(opened.read())
    return digest.hexdigest()[:16]


def differ(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names of files that two runs have both read with different content."""
    return [Path(name).name for name, content in one.items() if other.get(name, content) != content]
