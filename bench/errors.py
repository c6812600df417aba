"""The one exception that means "the user can mend this": printed as one line, exit code 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in what the user gave; its text says what came, what was expected and what to do."""


class StoreTrouble(UserError):
    """The store cannot be written: no fault of a run's, which goes on from what was saved."""


class BadData(UserError):
    """A dataset's files are not what they should be."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: the nearest valid name, then all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ";"
    return UserError(f"no {kind} '{name}'{hint} there are: {', '.join(names) or 'none'}")
