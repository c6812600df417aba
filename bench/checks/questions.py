"""Questions about a plug-in, each answered in one line, whatever it raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError


@dataclass(frozen=True)
class Check:
    """The answer to one question about a plug-in."""

    name: str
    ok: bool
    message: str


class Failure(Exception):
    """A check that failed; its text says why, in one line."""


def ask(name: str, question: Callable[[Any], str], about: Any) -> Check:
    """Ask one question; whatever it raises becomes a failed check of one line."""
    try:
        return Check(name, True, question(about))
    except Failure as failure:
        return Check(name, False, str(failure))
    except (Exception, SystemExit) as error:
        return Check(name, False, describe_error(error))


def describe_error(error: BaseException) -> str:
    """An exception in one line, with the place in the plug-in's file where it arose."""
    if isinstance(error, UserError):
        return str(error)
    text = " ".join(str(error).split())[:200]
    trace, line = error.__traceback__, ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "torch" not in file.parts and file.name not in {"conformance.py", "method.py"}:
            line = f" ({file.name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {text}{line}" if text else f"{type(error).__name__}{line}"
