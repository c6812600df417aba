"""Files that appear whole or not at all, and the one clock that all users of a folder share: its file system's."""

from __future__ import annotations

import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path

from spurbench.bench.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
"""The folder of the package: bench/, methods/, datasets/, slurm/."""
TEMPORARY = re.compile(r"\..+\.(?P<host>[^/]+)\.(?P<pid>\d+)\.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old one or the new one, whole.

    A link is followed; a pipe or a device is written to directly.
    """
    if is_special(path):
        path.write_bytes(content)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError):  # not the temporary file's name; a full disk gives none
            error.filename = str(path)
        with suppress(OSError):
            temporary.unlink()
        raise


def is_special(path: Path) -> bool:
    """Whether the path is something other than a file or a folder."""
    with suppress(OSError):
        mode = os.stat(path).st_mode
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False


def temporary_of(path: Path) -> Path:
    """Where this process writes what will become `path`; its name says whose it is, see `sweep`."""
    name = path.name if len(path.name) < 100 else path.name[-100:]
    return path.with_name(f".{name}.{socket.gethostname()}.{os.getpid()}.tmp")


def sweep(folder: Path, older_than: float) -> None:
    """Delete temporary files in a folder that killed writers left behind.

    One whose writer may live, on this machine or another, stays until it is `older_than` seconds old.
    """
    with suppress(OSError):
        for entry in os.scandir(folder):
            if (match := TEMPORARY.fullmatch(entry.name)) and abandoned(entry, match, older_than):
                with suppress(OSError):
                    os.unlink(entry.path)


def abandoned(file: os.DirEntry[str], match: re.Match[str], older_than: float) -> bool:
    if match["host"] == socket.gethostname() and not running(int(match["pid"])):
        return True
    with suppress(OSError):
        return now_in(Path(file.path).parent) - file.stat().st_mtime > older_than
    return False


def now_in(folder: Path) -> float:
    """The time by the clock of a folder's file system, in seconds since 1970; no machine's own clock is used."""
    probe = folder / f".clock.{socket.gethostname()}.{os.getpid()}.tmp"
    try:
        descriptor = os.open(probe, os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            os.utime(probe)
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
    finally:
        with suppress(OSError):
            probe.unlink()


def running(pid: int) -> bool:
    """Whether a process of this machine lives; one that has ended but was not waited for (a zombie) does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def home() -> Path | None:
    """The home folder; None if neither HOME nor the user database names one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def data_folder() -> Path:
    """Where prepared data lie: $SPURBENCH_DATA, else the user's cache.

    Errors: UserError if that is in the home folder and there is none.
    """
    named = os.environ.get("SPURBENCH_DATA")
    try:
        return Path(named).expanduser() if named else Path.home() / ".cache" / "spurbench" / "data"
    except RuntimeError:
        raise UserError("there is no home folder here: set SPURBENCH_DATA to a folder for prepared data") from None


def at_home(path: Path) -> Path:
    """The path with a leading `~` or `~name` expanded as a shell does.

    Errors: UserError if there is no such home folder.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(
            f"no home folder for {path}: set HOME, write the whole path, or ./{path} for that name"
        ) from None
