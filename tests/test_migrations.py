"""Records and plans of earlier schemas: what of their identity had no effect is gone, everything else stays."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.grid.expand import expand, runs
from spurbench.bench.grid.load import load_grid
from spurbench.bench.records.migrations import migrated_plan, migrated_record
from spurbench.bench.records.record import Run, sealed, used

FILE = Path(__file__).with_name("data") / "schema-1.jsonl.gz"  # all of results/ when that was the schema
FULL = {
    "network": "mlp", "width": 500, "hidden_layers": 1, "init": "torch", "dropout": 0.0, "batch_norm": False,
    "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "steps": 1000,
}  # fmt: skip


def of_schema_1(method: str = "erm", **training: Any) -> dict[str, Any]:
    run = Run("two_moon", {"delta": 0.1}, 1, method, {}, FULL | training, "float32", 3)
    return sealed({"schema": 1, "id": run.id, **run.to_dict(), "status": "done", "cause": None})


@pytest.fixture(scope="module")
def committed() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records and plans that were kept with the project in schema 1."""
    with gzip.open(FILE) as file:
        lines = [json.loads(line) for line in file]
    return [line["record"] for line in lines if "record" in line], [line["plan"] for line in lines if "plan" in line]


def settings(record: dict[str, Any]) -> tuple[Any, ...]:
    """What tells committed records apart that get another id."""
    return record["dataset"], record["method"], record["precision"], record["training"]["lr"]


def test_only_ids_that_rested_on_what_had_no_effect_change(committed: Any) -> None:
    old = [record for record in committed[0] if record["schema"] == 1]
    pairs = [(record, migrated_record(record)) for record in old]
    changed = [settings(before) for before, after in pairs if before["id"] != after["id"]]
    assert len(pairs) == 434 and {one: changed.count(one) for one in changed} == {
        ("two_moon", "erm", "float32", 1e-4): 10,  # momentum with Adam
        ("two_moon", "erm", "float32", 3e-3): 10,
        ("colored_mnist", "random", "float32", 1e-4): 10,  # does not train
        ("colored_mnist", "random", "bf16", 1e-4): 10,
    }
    assert len({after["id"] for _, after in pairs}) == len(pairs)
    for before, after in pairs:
        assert after == sealed(after) and Run.from_dict(after).id == after["id"]
        own = {"schema", "id", "training", "digest", "classes", "attributes"}
        assert len(after["groups"]) in (0, after.get("classes", 0) * after.get("attributes", 0))
        assert {name: before[name] for name in before if name not in own} == {
            name: after[name] for name in after if name not in own
        }
        assert after["training"].items() <= before["training"].items()


def test_grids_find_the_same_runs_among_migrated_records(committed: Any) -> None:
    records, plans = committed
    before, after = ({record["id"]: record for record in every} for every in (records, map(migrated_record, records)))
    for plan in plans:
        migrated, now = migrated_plan(plan), expand(load_grid(plan["grid"]), after, [migrated_plan(plan)])
        ids = [[run.id for run, _ in runs(each)] for each in (plan, migrated, now)]
        assert ids[1] == ids[2] and len(ids[0]) == len(ids[1])
        assert [id in before for id in ids[0]] == [id in after for id in ids[1]] and any(id in before for id in ids[0])
        assert [used(cell) for cell in json.loads(json.dumps(now["cells"]))] == [
            used(cell) for cell in migrated["cells"]
        ]


def test_one_migration_is_enough(committed: Any) -> None:
    record, plan = migrated_record(committed[0][0]), migrated_plan(committed[1][0])
    assert migrated_record(record) is record and migrated_plan(plan) == plan


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"optimizer": "adam"}, {"optimizer": "adam", "momentum": 0.0}),
        ({"nesterov": False}, {"nesterov": None}),
        ({"batch": 8, "balanced": False}, {"batch": 8}),
        ({"balanced": True, "augment": "flip"}, {}),
        ({"network": "small_conv", "init": "xavier", "dropout": 0.5}, {"network": "small_conv", "width": 300}),
        ({"drops": ".75,.5"}, {"drops": "0.5,0.75"}),
        ({"hidden_layers": 0, "batch_norm": True}, {"hidden_layers": 0, "width": 300}),
        ({"a field of mine": 1, "optimizer": "adam"}, {"a field of mine": 1, "optimizer": "adam", "nesterov": True}),
    ],
)
def test_equal_science_gets_one_id(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = (migrated_record(of_schema_1(**given)) for given in (one, other))
    assert first["id"] == second["id"] and first["training"] == second["training"]
    assert of_schema_1(**one)["id"] != of_schema_1(**other)["id"]
    assert of_schema_1()["id"] == migrated_record(of_schema_1())["id"]
