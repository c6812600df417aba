"""`show`: everything of one run, found by the beginning of its id."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_cell, make_counts, make_plan, make_record, make_search

from spurbench.bench.store.store import Store

CELL = ["--dataset", "two_moon", "--method", "sd", "--seeds", "0-1", "--set", "training.steps=3"]


@pytest.fixture
def store(tmp_path: Path, command: Any) -> Store:
    """A store of two finished runs."""
    command("run", *CELL, "--store", tmp_path / "s")
    return Store.open(tmp_path / "s")


def words(text: str) -> str:
    return " ".join(text.split())


def test_everything_of_a_run_is_shown(store: Store, command: Any) -> None:
    first, _ = store.records()[0]
    said = words(command("show", first.id[:9], store.root).stdout)
    (plan,) = store.plans()
    for part in (
        f"run {first.id} (two_moon × sd, seed {first.seed})",
        f"is sd of the grid {plan.grid}",
        "status done",
        "hyper-parameters coef=0.003, delay=0, rescale=False",
        "steps=3",
        "dataset options delta=0.1, examples=300, rotation=0",
        "settings are published: Pezeshki et al. 2021, Figure 6, but for training.steps",
        "unbiased",
        "margin",
        "easy",
        "y0 y1",
        "of 150 ",
        "learning curve",
        "train accuracy (%)",
        f"files records/{first.id[:2]}/{first.id}.json (",
        f"predictions/{first.id[:2]}/{first.id}.npz (",
        "of training",
        "torch",
    ):
        assert part in said, part


def test_json_is_the_record(store: Store, command: Any) -> None:
    one = store.record(store.records()[0][0].id)
    assert one is not None
    said = command("show", one.id, store.root, "--json").stdout
    assert json.loads(said) == json.loads(json.dumps(one.to_dict()))


def test_a_packed_store_is_as_good(store: Store, command: Any, tmp_path: Path) -> None:
    store.pack(tmp_path / "s.jsonl.gz")
    (id, _) = (one.id for one in store.records()[0])
    here, there = (command("show", id, where).stdout for where in (store.root, tmp_path / "s.jsonl.gz"))
    assert here.partition("files ")[0] == there.partition("files ")[0]
    assert words(there).endswith("files s.jsonl.gz")


def test_an_id_that_there_is_not_or_that_is_several(store: Store, command: Any) -> None:
    ids = sorted(one.id for one in store.records()[0])
    wrong = ids[0][:8] + ("0" if ids[0][8] != "0" else "1")
    said = command("show", wrong, store.root, code=2).stderr
    assert f"no run '{wrong}' among the 2 of {store.root}; did you mean {ids[0]} (two_moon × sd, seed " in said
    assert said.count("\n") == 1
    assert f"no run 'x' among the 2 of {store.root}\n" in command("show", "x", store.root, code=2).stderr
    command("show", "", store.root, code=2)
    for seed in range(40):
        store.write_record(make_record(seed=seed))
    same = sorted(one.id for one in store.records()[0] if one.id[0] == ids[0][0])
    if len(same) == 1:
        same = next(found for c in "0123456789abcdef"
                    if len(found := sorted(one.id for one in store.records()[0] if one.id[0] == c)) > 1)  # fmt: skip
    said = command("show", same[0][0], store.root, code=2).stderr
    assert f"{len(same)} runs of {store.root} begin with '{same[0][0]}': {same[0]} (" in said
    assert said.count("\n") == 1 and said.endswith("give more characters\n") and same[1] in said


def test_a_run_that_failed_one_that_waits_and_a_draw(tmp_path: Path, command: Any) -> None:
    store = Store.open(tmp_path / "s", create=True)
    cause = {"kind": "exception", "message": "ZeroDivisionError: division by zero", "detail": "line 3\nline 4"}
    failed = make_record(status="failed", cause=cause)
    store.write_record(failed)
    draw = make_record(seed=7, hyper_parameters={"coef": 0.5}, method="sd")
    search = make_search(draw.run, text="1 random draw", chosen=0)
    cell = make_cell(method="sd", label="ours", hyper_parameters={"coef": 0.5}, seeds=[1], search=search)
    store.write_plan(make_plan(grid="g", cells=[make_cell(seeds=[0, 5]), cell]))
    said = command("show", failed.id, store.root).stdout
    assert "failed, exception: ZeroDivisionError: division by zero" in words(said) and "line 3\nline 4\n" in said
    waiting = make_cell(seeds=[5]).ids[0]
    said = words(command("show", waiting, store.root).stdout)
    assert "status waiting" in said and said.endswith("files none")
    assert f"run {waiting} has no record: waiting" in command("show", waiting, store.root, "--json", code=2).stderr
    said = words(command("show", draw.id, store.root).stdout)
    assert "is draw 1 of 1 in the search of ours, grid g" in said and "settings are drawn by the search" in said
    said = words(command("show", cell.ids[0], store.root).stdout)
    assert "settings are found by a search: 1 random draw" in said


def test_of_many_groups_the_worst_are_shown_and_the_step_is_the_rules(tmp_path: Path, command: Any) -> None:
    store = Store.open(tmp_path / "s", create=True)
    right = [float(share) for share in range(50, 70)]
    counts = {name: make_counts(*right) for name in ("train", "validation", "test")}
    best = {name: make_counts(*(one + 30 for one in right)) for name in ("validation", "test")}
    one = make_record(
        splits=counts, looks=[{"step": 2, "splits": best}], groups=[f"y{y}" for y in range(20)], classes=20,
        training={"steps": 3, "evaluate": 2},
    )  # fmt: skip
    rule = {"rule": "validation_accuracy", "oracle": False, "text": ""}
    store.write_record(one)
    store.write_plan(make_plan(grid="g", cells=[make_cell(training=one.training, selection=rule)]))
    said = words(command("show", one.id, store.root).stdout)
    assert "scores, the step chosen by" in said and "accuracy by group: the 12 worst of 20" in said
    assert "test 2,000 2 89.50" in said and "train 2,000 3 59.50" in said
    assert "y0 80.0 of 100 50.0 of 100 80.0 of 100" in said and "y11" in said and "y12 " not in said
