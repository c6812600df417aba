"""The one exception that means "the user can fix this": printed as one line, exit code 2."""

from collections.abc import Iterable
from difflib import get_close_matches

MESSAGE = 2000  # characters in a message, at most
LONGEST = 80  # characters in a name in a message


class UserError(Exception):
    """A mistake in what the user gave; its text says what came, what was expected and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(short(message, MESSAGE))


class StoreTrouble(UserError):
    """The store cannot be written: not the fault of a run, which continues from what was saved."""


class BadData(UserError):
    """A dataset's files are not what they should be."""


class BadSeed(BadData):
    """What a dataset gives for one seed cannot be used; other seeds may be fine."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: the nearest valid name, then all of them in alphabetical order."""
    return UserError(say_unknown(kind, name, sorted(known)))


def say_unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The text for a name that does not exist, with the nearest one."""
    return f"no {kind} '{cut(name)}'{others(name, known)}"


def others(name: str, known: Iterable[str]) -> str:
    """What follows after a name that does not exist: the nearest one, then all there are."""
    names = list(known)
    near = get_close_matches(name[:LONGEST], names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ";"
    return f"{hint} there are: {', '.join(names) or 'none'}"


def cut(text: str) -> str:
    """A name as a message shows it: its beginning and its end, which tells a file, if it is long."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"


def short(text: str, most: int) -> str:
    """The text, without its middle if longer than `most`: it begins with what is wrong and ends with what to do."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}… ({len(text) - most:,} characters) …{text[-(most // 2) :]}"


def reason(error: BaseException) -> str:
    """Why something of a user's failed, in one line."""
    try:
        text = " ".join(str(error).split()[:200])
    except Exception:  # its own text may raise, too
        text = ""
    if isinstance(error, UserError):
        return text
    return short(f"{type(error).__name__}: {text or 'no message'}", 500)
