"""Records and plans of earlier schemas as this one writes them; nothing is trained again, and no file is looked at.

Schema 1 held every field of training, whatever the network and optimizer, and for methods that train nothing too.
Where one without an effect had another value than the first ones had by default, the identity, and so the id, differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spurbench.bench.plugins.training_settings import reduced
from spurbench.bench.records.record import Record, Run, run_ids, sealed

UNTRAINED = {"random"}  # the methods of schema 1 that train nothing


def migrated_record(record: Record) -> Record:
    """A record of schema 1 in schema 2, with its id and digest; one of a later schema as it is."""
    if record["schema"] != 1:
        return record
    found = record | {"schema": 2, "training": in_effect(record["method"], record["training"])} | counted(record)
    return sealed(found | {"id": Run.from_dict(found).id})


def counted(record: Record) -> dict[str, int]:
    """How many classes and attributes the data have, by the names of their groups; nothing of a run without data."""
    groups = [str(name).removeprefix("y").split("a") for name in record.get("groups", ())]
    if not groups:
        return {}
    return {"classes": len({y for y, *_ in groups}), "attributes": len({a for _, *rest in groups for a in rest}) or 1}


def migrated_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan of schema 1 in schema 2, with the ids of its runs; one of a later schema as it is."""
    if plan["schema"] != 1:
        return dict(plan)
    return {**plan, "schema": 2, "cells": [migrated_cell(cell) for cell in plan["cells"]]}


def migrated_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    found = migrated_part(cell, cell)
    if cell["search"] is not None:
        draws = [migrated_part(draw, cell) for draw in cell["search"]["draws"]]
        found["search"] = cell["search"] | {"draws": draws}
    return found


def migrated_part(part: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell, or a draw of its search, with the ids it has of its settings; none where there were none."""
    found = {**part, "training": in_effect(cell["method"], part["training"])}
    return found | {"ids": run_ids({**cell, **found}, part["seeds"]) if part["ids"] else []}


def in_effect(method: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's settings of training has an effect."""
    return {} if method in UNTRAINED else reduced(training)
