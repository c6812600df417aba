"""The pools there are, by name."""

from __future__ import annotations

from spurbench.bench.core.errors import UserError, reason, unknown
from spurbench.bench.launch.local import Local
from spurbench.bench.launch.pool import Pool
from spurbench.bench.plugin_files.entry_points import called, find_entry_points

HERE = "local"  # this machine's name, which no entry point announces


def find_pool(name: str) -> Pool:
    """The pool of that name. Errors: UserError if there is none, or it cannot be used."""
    if name == HERE:
        return Local()
    announced = {entry.name: entry for entry in find_entry_points("spurbench.pools")}
    if name in {entry.name for entry in find_entry_points("spurbench.launchers")} - announced.keys():
        raise UserError(f"{name} does not run jobs while you wait: `spurbench submit --launcher {name}` sends them")
    if name not in announced:
        raise unknown("launcher", name, {HERE, *announced})
    try:
        cls = announced[name].load()
    except (Exception, SystemExit) as error:  # a package may even end the process
        raise UserError(f"{called(announced[name])}: {reason(error)}") from None
    if not (isinstance(cls, type) and issubclass(cls, Pool)):
        raise UserError(f"{called(announced[name])}: expected a class derived from {Pool.__module__}.Pool, got {cls!r}")
    return cls()
