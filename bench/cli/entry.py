"""What all commands share: errors as one line, commands of other packages, `~` in paths."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from spurbench.bench.core import terminal
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import at_home

if TYPE_CHECKING:
    from spurbench.bench.leaderboard.build import RecordSource
    from spurbench.bench.store.store import Store


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn the user's mistakes and the system's refusals into one line and exit code 2."""
    try:
        yield
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        if error.errno is None:
            raise
        fail(f"cannot write or read {error.filename or 'a file'}: {explain(error)}; what was finished is kept")


def explain(error: OSError) -> str:
    """The system's message, or an explanation where it says too little."""
    if error.errno == errno.EEXIST and isinstance(error.filename, str):
        there = os.path.exists(error.filename)
        return "it is a file, not a folder" if there else "it is a broken link"
    return error.strerror or type(error).__name__


def fail(message: str) -> None:
    print(f"spurbench: {terminal.line(message, 3000)}", file=sys.stderr)
    sys.exit(2)


def check_working_directory() -> None:
    """Errors: UserError if the working directory is gone, in which case many imports fail."""
    try:
        os.getcwd()
    except OSError:
        raise UserError("the working directory is gone or not readable: change to another one") from None


def load_commands(add_to: Callable[[typer.Typer], None], app: typer.Typer) -> typer.Typer:
    """The commands that a package adds, built once in a command line of their own, so that failures stay separate."""
    alone = typer.Typer()
    alone.callback()(lambda: None)
    add_to(alone)
    taken = set(command_names(app)) & set(command_names(alone))
    if taken:
        raise UserError(f"there is already a command '{min(taken)}'")
    return alone


def command_names(of: typer.Typer) -> list[str]:
    return list(typer.main.get_group(of).commands)


def expand_home_in_paths(app: typer.Typer) -> None:
    """Make every command of a command line, and of its groups, expand `~` in the paths it is given."""
    for one in (app, *(group.typer_instance for group in app.registered_groups)):
        for command in one.registered_commands if one else ():
            command.callback = command.callback and with_home(command.callback)


def with_home(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with `~` expanded in its paths: a shell does not expand it after `--store=`."""

    def own(value: Any) -> Any:
        if isinstance(value, list):
            return [own(part) for part in value]
        return at_home(value) if isinstance(value, Path) else value

    @wraps(command)
    def called(**arguments: Any) -> None:
        command(**{name: own(value) for name, value in arguments.items()})

    return called


def file_to_write(path: Path) -> Path:
    """The path, if it can be that of a file.

    Errors: UserError for a folder.
    """
    if not path.name or path.is_dir():
        raise UserError(f"'{path}' is a folder: name the file to write")
    return path


def print_answers(answers: Iterable[tuple[str, bool, str]]) -> list[str]:
    """Print each check, whether it is in order and what was found; returns the names of those that are not."""
    bad = []
    for name, ok, found in answers:
        print(f"{'ok  ' if ok else 'FAIL'}  {terminal.line(name)}: {terminal.line(found)}")
        bad += [] if ok else [name]
    return bad


def open_stores(paths: Sequence[Path]) -> RecordSource:
    """The store at a path, or those at several read as if they were merged; renamed plans are reported."""
    from spurbench.bench.store.merge import join
    from spurbench.bench.store.store import Store

    stores = [Store.open(path) for path in dict.fromkeys(paths)]
    if len(stores) == 1:
        return stores[0]
    joined = join(stores)
    for line in joined.renamed:
        print(f"spurbench: {terminal.line(line)}", file=sys.stderr)
    return joined


def report_unused(store: Store) -> bool:
    """Report on standard error what of a store is not used; returns whether that includes a record or plan."""
    found = store.complaints()
    for one in found:
        print(f"spurbench: not used: {one.path}: {one.reason}", file=sys.stderr)
    return any(one.ours for one in found)
