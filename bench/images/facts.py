"""What stands in a folder of prepared pictures about them, checked where it is read: it may come from anywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from spurbench.bench.core.errors import BadData, UserError

SCHEMA = 1
FACTS = "prepared.json"
MOST_BYTES = 64 << 20  # of the facts; those of a million pictures have about 1 MB
Count = Annotated[int, Field(ge=0, le=10**12)]
Text = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Name = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]*$")]  # a file's
Hash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class SplitFacts(TypedDict):
    """One split: its files, their size and checksums."""

    n: Count
    counts: list[Count]  # of each group y * attributes + a
    pictures: Name
    bytes: Count
    parts: list[Hash]
    labels: Name
    labels_sha256: Hash


Facts = TypedDict(
    "Facts",
    {
        "schema": int,
        "name": Text,  # the dataset's
        "version": Text,  # and the folder's name
        "origin": Text,
        "options": NotRequired[dict[str, Text]],  # of the dataset, that chose the pictures and labels
        "side": Annotated[int, Field(ge=1, le=100_000)],
        "crop": dict[str, Any],
        "layout": Text,
        "from": str,
        "listing": NotRequired[Hash],  # fingerprint of what was listed
        "stamp": NotRequired[Hash],  # of the sizes and times of the files
        "content": NotRequired[Hash],  # of names, labels and bytes of the files, wherever they lie
        "classes": list[Text],
        "attributes": list[Text],
        "splits": dict[Name, SplitFacts],
        "left_out": list[tuple[str, str]],  # picture, reason
        "unused": NotRequired[Count],  # files of the folder that are in no split
        "copies": NotRequired[dict[str, dict[str, Count]]],  # split → earlier split → pictures of it that are there too
        "contradicting": NotRequired[Count],  # pictures that are there with another label too
        "checksum": Hash,
        "prepared": Text,
        "versions": dict[str, Text],
    },
)
FORM = TypeAdapter(Facts)


def read_facts(folder: Path, called: str) -> Facts:
    """The facts in a folder that is, or is to be, called so. Raises UserError for what cannot be used."""
    file, again = folder / FACTS, f"delete {folder} and prepare it again"
    try:
        text = whole(file)
        newer(folder, text)
        facts = FORM.validate_json(text)
    except OSError as error:
        raise BadData(f"{file} cannot be used ({error.strerror or error}): {again}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:80]
        raise BadData(f"{file} cannot be used ({f'{where}: ' if where else ''}{first['msg'][:200]}): {again}") from None
    if (facts["version"], facts["name"]) != (called, folder.parent.name):
        was = f"{facts['name']} {facts['version']}"
        raise BadData(f"{folder} holds what was prepared as {was}: give it that name again, or delete it")
    if problem := contradiction(facts):
        raise BadData(f"{file} cannot be used ({problem}): {again}")
    return facts


def whole(file: Path) -> bytes:
    """The content of a file of facts; raises OSError if it is none."""
    if not file.is_file():
        raise OSError("there is no such file" if not os.path.lexists(file) else "it is no file")
    if file.stat().st_size > MOST_BYTES:
        raise OSError(f"it has more than {MOST_BYTES:,} bytes")
    return file.read_bytes()


class Version(TypedDict):
    """All that is read before it is known whether this version can read the rest."""

    schema: int


VERSION = TypeAdapter(Version)


def newer(folder: Path, text: bytes) -> None:
    """Raise UserError for facts of a layout that is not known yet."""
    schema = VERSION.validate_json(text)["schema"]
    if schema > SCHEMA:
        raise UserError(f"{folder} was prepared by a newer spurbench (layout {schema}, this one reads {SCHEMA})")


def contradiction(facts: Facts) -> str:
    """What in the facts cannot be together; empty if all can."""
    groups = len(facts["classes"]) * max(1, len(facts["attributes"]))
    for name, split in facts["splits"].items():
        if len(split["counts"]) != groups or sum(split["counts"]) != split["n"]:
            return f"its counts of {name} do not fit its classes, attributes and number of pictures"
        if split["bytes"] < split["n"] * 3 * facts["side"] ** 2:
            return f"its file of {name} is too small for so many pictures"
    return "" if "train" in facts["splits"] else "it has no train split"
