"""The facts in a folder of prepared images, validated when they are read, since they may come from anywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from spurbench.bench.core.errors import BadData, UserError

SCHEMA = 1
FACTS = "prepared.json"
MOST_BYTES = 64 << 20  # of the facts; those of a million images have about 1 MB
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
        "options": NotRequired[dict[str, Text]],  # of the dataset, that chose the images and labels
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
        "left_out": list[tuple[str, str]],  # image, reason
        "unused": NotRequired[Count],  # files of the folder that are in no split
        "copies": NotRequired[dict[str, dict[str, Count]]],  # split → earlier split → images in both
        "contradicting": NotRequired[Count],  # images that also occur with another label
        "checksum": Hash,
        "prepared": Text,
        "versions": dict[str, Text],
    },
)
FACTS_ADAPTER = TypeAdapter(Facts)


def read_facts(folder: Path, called: str) -> Facts:
    """The facts in a folder that is, or will be, called `called`. Raises UserError for facts that cannot be used."""
    file, remedy = folder / FACTS, f"delete {folder} and prepare it again"
    try:
        text = read_bounded(file)
        check_schema(folder, text)
        facts = FACTS_ADAPTER.validate_json(text)
    except OSError as error:
        raise BadData(f"{file} cannot be used ({error.strerror or error}): {remedy}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:80]
        raise BadData(
            f"{file} cannot be used ({f'{where}: ' if where else ''}{first['msg'][:200]}): {remedy}"
        ) from None
    if (facts["version"], facts["name"]) != (called, folder.parent.name):
        was = f"{facts['name']} {facts['version']}"
        raise BadData(f"{folder} holds what was prepared as {was}: restore that name, or delete it")
    if problem := find_contradiction(facts):
        raise BadData(f"{file} cannot be used ({problem}): {remedy}")
    return facts


def read_bounded(file: Path) -> bytes:
    """The content of a file of facts; raises OSError if it is not one."""
    if not file.is_file():
        raise OSError("there is no such file" if not os.path.lexists(file) else "it is not a file")
    if file.stat().st_size > MOST_BYTES:
        raise OSError(f"it has more than {MOST_BYTES:,} bytes")
    return file.read_bytes()


class Version(TypedDict):
    """What is read first, to learn whether this version can read the rest."""

    schema: int


VERSION_ADAPTER = TypeAdapter(Version)


def check_schema(folder: Path, text: bytes) -> None:
    """Raise UserError for facts with a newer schema than this version's."""
    schema = VERSION_ADAPTER.validate_json(text)["schema"]
    if schema > SCHEMA:
        raise UserError(f"{folder} was prepared by a newer spurbench (layout {schema}, this one reads {SCHEMA})")


def find_contradiction(facts: Facts) -> str:
    """What in the facts contradicts something else in them; empty if nothing does."""
    groups = len(facts["classes"]) * max(1, len(facts["attributes"]))
    for name, split in facts["splits"].items():
        if len(split["counts"]) != groups or sum(split["counts"]) != split["n"]:
            return f"its counts of {name} do not match its classes, attributes and number of images"
        if split["bytes"] < split["n"] * 3 * facts["side"] ** 2:
            return f"its file of {name} is too small for that many images"
    return "" if "train" in facts["splits"] else "it has no train split"
