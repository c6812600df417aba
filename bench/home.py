"""The user's home folder, which not every process has."""

from __future__ import annotations

from pathlib import Path

from spurbench.bench.errors import UserError


def home() -> Path | None:
    """The home folder; None where neither HOME nor the list of users names one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def at_home(path: Path) -> Path:
    """The path with a leading `~` or `~name` as a shell takes it.

    Errors: UserError if there is no such home folder.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(
            f"no home folder for {path}: set HOME, write the whole path, or ./{path} for that name"
        ) from None
