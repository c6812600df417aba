"""What is written down beside a submission: its jobs, and the ends of its tasks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from spurbench.bench.core.errors import UserError
from spurbench.bench.jobs.job import Job
from spurbench.bench.records.parsing import Unfit, parse_json, read_whole
from spurbench.bench.records.record import OUTSIDE

KINDS = OUTSIDE | {"out_of_memory"}  # of ends: another try, with more memory, may do
T = TypeVar("T")
End = tuple[str, str]
"""How a task ended, as the kind of a record's cause, and in words."""


def read_note(file: Path, kind: str, read: Callable[[Any], T]) -> T:
    """What `read` makes of the content of a submission's file.

    Errors: UserError if it is gone or damaged.
    """
    try:
        return read(parse_json(read_whole(file), f"a {kind}"))
    except FileNotFoundError:
        what = "gone"
    except (Unfit, AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"damaged ({type(error).__name__})"
    raise UserError(
        f"the {kind} {file} is {what}: without it no one knows what the tasks of that submission are; "
        f"delete the folder {file.parent} to forget it"
    )


def jobs_in(content: Any) -> list[list[Job]]:
    return [[Job.from_dict(fields) for fields in jobs] for jobs in content["tasks"]]


def known_ends(folder: Path) -> dict[str, End]:
    """How tasks of a submission ended, as far as it was written down."""
    with suppress(FileNotFoundError, Unfit, AttributeError, TypeError, ValueError):
        found = parse_json(read_whole(folder / "ends.json"), "ends")
        return {id: (kind, " ".join(str(text).split())) for id, (kind, text) in found.items() if kind in KINDS}
    return {}
