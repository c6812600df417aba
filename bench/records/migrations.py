"""Records and plans of earlier schemas as this one writes them; nothing is trained again, and no file is looked at.

Schema 1 held every field of training, whatever the network and optimizer, and for methods that train nothing too.
Where one without an effect had another value than the first ones had by default, the identity, and so the id, differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.plugins.training_settings import reduced
from spurbench.bench.records.run import Run, run_ids

UNTRAINED = {"random"}  # the methods of schema 1 that train nothing
Fields = dict[str, Any]


UNKNOWN: Fields = {"commit": None, "diff": None, "code": {}, "paths": {}, "data": "", "files": {}, "versions": {},
           "hardware": {}, "device": "", "started": ""}  # fmt: skip
"""What a record's provenance may leave out."""


def migrate_record(record: Fields) -> Fields:
    """The fields of a record in the schema of today, with its id and digest."""
    known = {name: value for name, value in record["provenance"].items() if value is not None}
    found = record | {"provenance": without_folders(UNKNOWN | known)}
    if record["schema"] != 1:
        return found
    found |= {"schema": 2, "training": in_effect(record["method"], record["training"])} | counted(record)
    found["id"] = Run.from_dict(found).id
    return found | {"digest": fingerprint({key: value for key, value in found.items() if key != "digest"})}


def without_folders(provenance: Fields) -> Fields:
    """The provenance with the bare names of files whose folders were recorded once; others are as they are now."""

    def name(path: str) -> str:
        return PurePath(path).name if PurePath(path).is_absolute() else path

    paths = {part: name(path) for part, path in provenance["paths"].items()}
    return provenance | {"paths": paths, "files": {name(path): old for path, old in provenance["files"].items()}}


def counted(record: Fields) -> dict[str, int]:
    """How many classes and attributes the data have, by the names of their groups; nothing of a run without data."""
    groups = [str(name).removeprefix("y").split("a") for name in record.get("groups", ())]
    if not groups:
        return {}
    return {"classes": len({y for y, *_ in groups}), "attributes": len({a for _, *rest in groups for a in rest}) or 1}


def migrate_plan(plan: Fields) -> Fields:
    """The fields of a plan in the schema of today, with the ids of its runs."""
    cells = [without_empty(cell, "selection") if isinstance(cell, dict) else cell for cell in plan["cells"]]
    found = without_empty(plan, "origin") | {"cells": cells}
    if plan["schema"] != 1:
        return found
    return found | {"schema": 2, "cells": [migrate_cell(cell) for cell in cells]}


def without_empty(fields: Fields, name: str) -> Fields:
    """The fields without one that is empty, as it was written where it was not known."""
    return {key: value for key, value in fields.items() if key != name or value != {}}


def migrate_cell(cell: Fields) -> Fields:
    found = migrate_part(cell, cell)
    if cell["search"] is not None:
        draws = [migrate_part(draw, cell) for draw in cell["search"]["draws"]]
        found["search"] = cell["search"] | {"draws": draws}
    return found


def migrate_part(part: Mapping[str, Any], cell: Mapping[str, Any]) -> Fields:
    """A cell, or a draw of its search, with the ids it has of its settings; none where there were none."""
    found = {**part, "training": in_effect(cell["method"], part["training"])}
    return found | {"ids": run_ids({**cell, **found}, part["seeds"]) if part["ids"] else []}


def in_effect(method: str, training: Mapping[str, Any]) -> Fields:
    """What of a run's settings of training has an effect."""
    return {} if method in UNTRAINED else reduced(training)
