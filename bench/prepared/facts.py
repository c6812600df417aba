"""The facts in a folder of prepared arrays, validated when they are read, since they may come from anywhere."""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from spurbench.bench.core.errors import BadData, UserError

SCHEMA = 2
FACTS = "prepared.json"
MOST_BYTES = 64 << 20  # of the facts; those of a million examples have about 1 MB
ITEM_BYTES = {"uint8": 1, "bool": 1, "int32": 4, "int64": 8, "float32": 4}
Count = Annotated[int, Field(ge=0, le=10**12)]
Text = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Name = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]*$")]  # a file's
Hash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class ArrayFacts(TypedDict):
    """One array: its file, shape and checksums."""

    file: Name
    bytes: Count
    shape: list[Count]  # of one example; of an array that is in no split, all of it
    dtype: Literal["uint8", "bool", "int32", "int64", "float32"]
    parts: list[Hash]


class SplitFacts(TypedDict):
    """One split: its arrays, and its labels."""

    n: Count
    counts: dict[Text, list[Count]]  # of y, and of y × each attribute: y * values + a
    arrays: dict[Name, ArrayFacts]
    labels: Name
    labels_sha256: Hash


Facts = TypedDict(
    "Facts",
    {
        "schema": int,
        "name": Text,  # the dataset's
        "version": Text,  # and the folder's name
        "origin": NotRequired[Text],  # of images
        "options": NotRequired[dict[str, Text]],  # of the dataset, that chose the examples and labels
        "side": NotRequired[Annotated[int, Field(ge=1, le=100_000)]],  # of images
        "crop": NotRequired[dict[str, Any]],  # of images
        "examples": Text,  # what they are: "images of 32 × 32"
        "layout": Text,
        "from": str,
        "listing": NotRequired[Hash],  # fingerprint of what was listed
        "stamp": NotRequired[Hash],  # of the sizes and times of the files
        "content": NotRequired[Hash],  # of names, labels and bytes of the files, wherever they lie
        "classes": list[Text],
        "attributes": dict[Text, list[Text]],  # name → the names of its values
        "subsets": NotRequired[list[Text]],  # whose members are named among the labels
        "columns": NotRequired[list[Text]],  # of a table: what each number of an example is
        "splits": dict[Name, SplitFacts],
        "shared": NotRequired[dict[Name, ArrayFacts]],  # arrays that are in no split
        "left_out": NotRequired[list[tuple[str, str]]],  # image, reason
        "notes": NotRequired[list[Text]],  # what was done to the examples, or is to be known of them
        "unused": NotRequired[Count],  # files of the folder that are in no split
        "copies": NotRequired[dict[str, dict[str, Count]]],  # split → earlier split → examples in both
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
        facts = FACTS_ADAPTER.validate_python(upgraded(json.loads(text)))
    except OSError as error:
        raise BadData(f"{file} cannot be used ({error.strerror or error}): {remedy}") from None
    except (LookupError, TypeError, AttributeError) as error:  # facts of images that lack what they all have
        raise BadData(f"{file} cannot be used ({type(error).__name__}: {error}): {remedy}") from None
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


def upgraded(found: Any) -> Any:
    """Facts in this schema; the first one had images alone, with one attribute or none."""
    if not isinstance(found, dict) or found["schema"] > 1:
        return found
    side = found["side"]
    attributes = {"a": found["attributes"]} if found["attributes"] else {}
    splits = {name: upgraded_split(split, side, len(found["classes"])) for name, split in found["splits"].items()}
    examples = f"images of {side} × {side}"
    return found | {"examples": examples, "attributes": attributes, "splits": splits}


def upgraded_split(split: Any, side: int, classes: int) -> Any:
    """The facts of a split of images in this schema."""
    counts = split["counts"]
    values = len(counts) // classes
    of_label = {"": [sum(counts[y * values : (y + 1) * values]) for y in range(classes)]}
    x = {"file": split["pictures"], "bytes": split["bytes"], "shape": [3, side, side], "dtype": "uint8",
         "parts": split["parts"]}  # fmt: skip
    return split | {"counts": of_label | ({"a": counts} if values > 1 else {}), "arrays": {"x": x}}


def find_contradiction(facts: Facts) -> str:
    """What in the facts contradicts something else in them; empty if nothing does."""
    classes = len(facts["classes"])
    groups = {"": classes} | {name: classes * len(values) for name, values in facts["attributes"].items()}
    for name, split in facts["splits"].items():
        counts = split["counts"]
        if {key: len(each) for key, each in counts.items()} != groups or any(
            sum(each) != split["n"] for each in counts.values()
        ):
            return f"its counts of {name} do not match its classes, attributes and number of examples"
        for array in split["arrays"].values():
            if array["bytes"] < split["n"] * prod(array["shape"]) * ITEM_BYTES[array["dtype"]]:
                return f"its file of {name} is too small for that many examples"
    return "" if "train" in facts["splits"] else "it has no train split"
