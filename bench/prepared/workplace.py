"""The folder in which a version is prepared: whose it is, what is left of others, and its name once it is complete.

What a killed preparation leaves behind is deleted by a later one if it was not continued for KEEP_WEEKS.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import data_folder
from spurbench.bench.prepared.facts import FACTS
from spurbench.bench.prepared.folder import Prepared, expected_files

KEEP_WEEKS = 2


def workplace(name: str, version: str) -> Path:
    """Where a version of a dataset is prepared."""
    return data_folder() / name / f".{version}.preparing"


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Only one command prepares a folder at a time; the lock ends with its process, however that ends."""
    work.mkdir(parents=True, exist_ok=True)
    lock = work / "lock"
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):  # the latter if it has just finished
            raise UserError(f"another command is preparing {work}: wait for it, or end it") from None
        yield


def delete_abandoned(work: Path) -> None:
    """Delete what killed preparations and downloads left behind, unless in use now or in the last weeks."""
    lock = work / "lock"
    os.utime(lock)
    now = lock.stat().st_mtime  # by the file system's clock, like all these times
    for left in find_unfinished():
        with suppress(OSError, UserError):
            if left != work and now - last_written(left) > KEEP_WEEKS * 7 * 86400:
                with locked(left):
                    shutil.rmtree(left)
                print(f"deleted {left}, which was not continued for {KEEP_WEEKS} weeks", file=sys.stderr)


def find_unfinished(name: str = "*") -> list[Path]:
    """The folders of a dataset's preparations and downloads that are under way or were killed."""
    folder = data_folder()
    return sorted([*folder.glob(f"{name}/.*.preparing/"), *folder.glob(f"downloads/.{name}.downloading/")])


def last_written(folder: Path) -> float:
    return max(entry.stat().st_mtime for entry in (folder, *folder.rglob("*")))


def check_space(work: Path, needed: int) -> None:
    """Raise UserError unless so many bytes of arrays fit on the disk, beside those that are there already."""
    needed -= sum(old.stat().st_blocks * 512 for old in work.glob("*.npy"))
    free = shutil.disk_usage(work).free
    if needed > free:
        raise UserError(
            f"{work} needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free; "
            "set SPURBENCH_DATA to another folder"
        )


def delete_all_but(work: Path, kept: set[str]) -> None:
    """Delete everything in a folder except what is kept."""
    for entry in work.iterdir():
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def move_into_place(here: Prepared) -> Prepared:
    """The folder under its own name, without the files that were only needed on the way."""
    target = here.folder.parent / here.facts["version"]
    if os.path.lexists(target):
        raise UserError(f"{target} already exists: delete it to prepare it anew")
    delete_all_but(here.folder, {FACTS} | {file for file, _ in expected_files(here.facts)})
    os.rename(here.folder, target)
    return Prepared.open(target)
