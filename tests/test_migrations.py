"""Records and plans of earlier schemas: what of their identity had no effect is gone, everything else stays."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from make_records import seal

from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid
from spurbench.bench.records.migrations import migrate_plan, migrate_record
from spurbench.bench.records.parsing import plan_from, record_from
from spurbench.bench.records.run import Run, used

FILE = Path(__file__).with_name("data") / "schema-1.jsonl.gz"  # all of results/ when that was the schema
FULL = {
    "network": "mlp", "width": 500, "hidden_layers": 1, "init": "torch", "dropout": 0.0, "batch_norm": False,
    "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "steps": 1000,
}  # fmt: skip


def of_schema_1(method: str = "erm", **training: Any) -> dict[str, Any]:
    run = Run("two_moon", {"delta": 0.1}, 1, method, {}, FULL | training, "float32", 3)
    return seal({"schema": 1, "id": run.id, **run.to_dict(), "provenance": {}})


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
    pairs = [(record, migrate_record(record)) for record in old]
    changed = [settings(before) for before, after in pairs if before["id"] != after["id"]]
    assert len(pairs) == 434 and {one: changed.count(one) for one in changed} == {
        ("two_moon", "erm", "float32", 1e-4): 10,  # momentum with Adam
        ("two_moon", "erm", "float32", 3e-3): 10,
        ("colored_mnist", "random", "float32", 1e-4): 10,  # does not train
        ("colored_mnist", "random", "bf16", 1e-4): 10,
    }
    assert len({after["id"] for _, after in pairs}) == len(pairs)
    for before, after in pairs:
        assert after == seal(after) and Run.from_dict(after).id == after["id"]
        own = {"schema", "id", "training", "digest", "classes", "attributes", "provenance"}
        assert len(after["groups"]) in (0, after.get("classes", 0) * after.get("attributes", 0))
        assert {name: before[name] for name in before if name not in own} == {
            name: after[name] for name in after if name not in own
        }
        assert after["training"].items() <= before["training"].items()
        known = {name: value for name, value in before["provenance"].items() if value is not None}
        assert known.items() <= after["provenance"].items()


def ids_in(plan: dict[str, Any]) -> list[str]:
    """The ids of a plan's runs, each once."""
    parts = [part for cell in plan["cells"] for part in [*(cell["search"] or {"draws": []})["draws"], cell]]
    return list(dict.fromkeys(id for part in parts for id in part["ids"]))


def test_grids_find_the_same_runs_among_migrated_records(committed: Any) -> None:
    records, plans = committed
    before, after = {record["id"] for record in records}, {one.id: one for one in map(record_from, records)}
    for plan in plans:
        migrated = plan_from(plan)
        now = expand(load_grid(plan["grid"]), after, [migrated])
        old, new, again = ids_in(plan), [run.id for run, _ in migrated.runs()], [run.id for run, _ in now.runs()]
        assert new == again and len(old) == len(new)
        assert [id in before for id in old] == [id in after for id in new] and any(id in before for id in old)
        silent = {"source": None}  # the committed plans do not say where settings are from
        cells = [[used(cell | silent) for cell in each.to_dict()["cells"]] for each in (now, migrated)]
        assert cells[0] == cells[1]


def test_one_migration_is_enough(committed: Any) -> None:
    record, plan = migrate_record(committed[0][0]), migrate_plan(committed[1][0])
    assert migrate_record(record) == record and migrate_plan(plan) == plan


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
    first, second = (migrate_record(of_schema_1(**given)) for given in (one, other))
    assert first["id"] == second["id"] and first["training"] == second["training"]
    assert of_schema_1(**one)["id"] != of_schema_1(**other)["id"]
    assert of_schema_1()["id"] == migrate_record(of_schema_1())["id"]
