"""The starvation probe: its features against finite differences, its verdicts on Two-Moon, its command on any run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_record

from spurbench.bench.core.errors import UserError
from spurbench.bench.evaluation import starvation
from spurbench.bench.evaluation.starvation import Probe, Settings
from spurbench.bench.figures import probe_runs
from spurbench.bench.grid.ad_hoc import adhoc_grid
from spurbench.bench.grid.expand import expand
from spurbench.bench.jobs import retrain
from spurbench.bench.jobs.job import Job
from spurbench.bench.jobs.memory import tune_process
from spurbench.bench.jobs.worker import run_job
from spurbench.bench.plugins import registry
from spurbench.bench.store import artifacts
from spurbench.bench.store.store import Store
from spurbench.bench.training.engine import Engine
from spurbench.bench.training.execution import Options
from spurbench.bench.training.replica import prepare


def engine_of(
    dataset: str, method: str, seeds: list[int], data: dict[str, Any], hyper: Any = None, **training: Any
) -> Engine:
    chosen, rule = registry.load_dataset(dataset)(**data), registry.load_method(method)(**(hyper or {}))
    protocol = replace(chosen.training, **training)
    drawn = [prepare(chosen, rule, protocol, seed) for seed in seeds]
    return Engine(rule, protocol, "float32", Options(history=1), drawn)


def probed(method: str, hyper: Any = None, **training: Any) -> dict[str, Any]:
    """What a probe sees of a short training on Two-Moon, seed 0."""
    tune_process(1)
    settings = Settings(points=12)
    engine = engine_of("two_moon", method, [0], {"delta": 0.1}, hyper, **training)
    probe = Probe(engine.model(0), engine.training.steps, settings)
    engine.train(lambda engine: probe.observe(engine.step))
    probe.observe(engine.step)
    found = starvation.read_probe(probe.arrays(), settings)
    assert found is not None
    return found


SHORT = {"width": 50, "steps": 1500, "lr": 0.1}  # of 10,000 steps ten times as small


def test_two_moon_starves_under_erm_and_recovers_under_sd() -> None:
    erm, sd = probed("erm", **SHORT), probed("sd", {"coef": 0.003}, **SHORT)
    assert (erm["strengths"] == sd["strengths"]).all() and (erm["responses"][0] == sd["responses"][0]).all()
    rows = {name: starvation.summary([one]) for name, one in (("erm", erm), ("sd", sd))}
    due = [row["feature"] for row in rows["erm"] if row["due"] > 0.03]
    assert due[:2] == [1, 2] and len(due) > 2  # two features of the separating axis, then those of the moons' shape
    assert [rows["erm"][j]["verdict"] for j in due] == ["grew", "grew"] + ["starved"] * len(due[2:])
    assert {rows["sd"][j]["verdict"] for j in due} == {"grew"}
    last = {name: {j: row["last"] for j, row in enumerate(of)} for name, of in rows.items()}
    assert last["erm"][1] > 20 * last["erm"][6] and last["sd"][1] < 5 * last["sd"][6]
    assert last["sd"][1] < last["erm"][1] / 4 and last["sd"][6] > 1.4 * last["erm"][6]


def test_features_are_those_of_finite_differences() -> None:
    engine = engine_of("two_moon", "erm", [3], {"examples": 12}, width=4)
    model = engine.model(0)
    split = model.data.train
    sign = (2 * split.y - 1).double()
    U, strengths = starvation.find_features(model, split.x, sign, 12)
    columns = []
    for parameter in model.parameters.values():
        for i in range(parameter.numel()):
            column = []
            for step in (1e-2, -1e-2):
                with torch.no_grad():
                    parameter.view(-1)[i] += step
                    column.append(model.score(split.x).double())
                    parameter.view(-1)[i] -= step
            columns.append((column[0] - column[1]) / 2e-2)
    jacobian = sign[:, None] * torch.stack(columns, 1)
    wanted, values, _ = torch.linalg.svd(jacobian, full_matrices=False)
    assert torch.allclose(strengths, values, rtol=2e-2, atol=2e-2)
    assert (U[:, :3] * wanted[:, :3]).sum(0).abs().min() > 0.99


@pytest.mark.parametrize("dataset", ["two_moon", "colored_mnist"])
def test_randomised_features_are_the_exact_ones(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"two_moon": {}, "colored_mnist": {"train_size": 300}}[dataset]
    model = engine_of(dataset, "erm", [5], options, width=20).model(0)
    data = model.data.train
    sign = (2 * data.y - 1).double()
    exact = starvation.find_features(model, data.x, sign, 6)
    monkeypatch.setattr(starvation, "EXACT", 0)
    near = starvation.find_features(model, data.x, sign, 6)
    assert near[1] is not exact[1] and torch.allclose(near[1], exact[1], rtol=1e-3)
    assert ((near[0] * exact[0]).sum(0).abs() > 0.99).all()
    assert torch.allclose(near[0].T @ near[0], torch.eye(6, dtype=torch.float64), atol=1e-9)


def test_equal_margins_are_what_is_due() -> None:
    """A network with the margin m everywhere has learned of each feature what it is due, whatever m is."""
    due = probed("erm", width=20, steps=2)["due"]
    run = {"due": due, "strengths": due, "responses": np.sqrt(due)[None] * 7, "norms": [7.0]}
    for row in starvation.summary([run]):
        assert row["learned"] == pytest.approx(row["due"]) and row["verdict"] in ("grew", "minor")
    poor = {**run, "responses": run["responses"] * np.where(due == due.max(), 0.7, 1)}
    assert [r["verdict"] for r in starvation.summary([poor]) if r["due"] == due.max()] == ["starved"]


def test_what_features_are_about() -> None:
    """All features together make up the constant and the attribute; one that is the colour is named after it."""
    model = engine_of("colored_mnist", "erm", [0], {"train_size": 40}, width=20).model(0)
    found = Probe(model, 0, Settings(features=40))
    split = model.data.train
    seen = found.arrays()
    assert seen["probe/constant"].sum() == pytest.approx(1) and seen["probe/attribute"].sum() == pytest.approx(1)
    colour = (2 * split.attribute - 1) / 40**0.5  # type: ignore[operator]
    found.U = (found.sign * colour)[:, None]
    assert found.arrays()["probe/attribute"] == pytest.approx([1.0])
    rows = [{"constant": 0.2, "attribute": 0.7}, {"constant": 0.6, "attribute": 0.1}, {"constant": 0.3}, {}]
    assert [starvation.main_subject(row) for row in rows] == ["attribute", "constant", "", ""]


def test_moments_and_sample_are_stated() -> None:
    assert Settings(points=5).steps(1000)[0] == 0 and Settings(points=5).steps(1000)[-1] == 1000
    assert Settings(points=5, spacing="even").steps(1000) == [0, 250, 500, 750, 1000]
    first, same, other = (starvation.draw_sample(500, 50, seed) for seed in (1, 1, 2))
    assert first.equal(same) and not first.equal(other) and len(set(first.tolist())) == 50
    assert starvation.draw_sample(40, 50, 1).tolist() == list(range(40))


def test_three_classes_are_refused() -> None:
    model = engine_of("two_moon", "erm", [0], {}, width=4).model(0)
    model.data.classes = 3
    with pytest.raises(UserError, match="3 classes"):
        Probe(model, 0, Settings())
    record = make_record(dataset="letters", groups=["y0a0", "y0a1", "y1a0", "y1a1", "y2a0", "y2a1"])
    with pytest.raises(UserError, match=rf"run {record.id} of letters has 3 classes: .* two classes"):
        probe_runs.check_binary(record)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two seeds of small runs of both datasets, each cell one stack, and a row that does not train."""
    made = Store.open(tmp_path_factory.mktemp("probe") / "store", create=True)
    wishes = {"two_moon": ["examples=30"], "colored_mnist": ["train_size=120"]}
    for dataset, options in wishes.items():
        sets = [f"{dataset}.{options[0]}", "training.steps=4", "training.width=6"]
        methods = ["erm"] if dataset == "two_moon" else ["irm", "random"]
        plan = expand(adhoc_grid(dataset, methods, "0-1", sets), {})
        made.write_plan(plan)
        cells: dict[str, list[Any]] = {}
        for run, _ in plan.runs():
            cells.setdefault(run.method, []).append(run)
        for stack in cells.values():
            run_job(Job(stack, "x"), made, lambda step: None, lambda: False)
    return made


@pytest.fixture
def probe(command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`spurbench probe` in this process and a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, code=0: command("probe", *arguments, "--jobs", "1", code=code)


def test_cells_and_runs_of_any_binary_dataset(probe: Any, store: Store, tmp_path: Path) -> None:
    said = probe(store.root, "--cell", "irm", "--cell", "two_moon/*", "--features", 4, "--points", 3)
    assert "retraining 4 runs" in said.stderr and said.stderr.count("as recorded") == 2
    assert "not quite" not in said.stderr
    assert "colored_mnist × irm, 2 runs, 120 examples" in said.stdout and "two_moon × erm, 2 runs, 30 ex" in said.stdout
    (first, _, second, _) = json.loads((tmp_path / "probe.json").read_text())["panels"]
    (part,) = first["data"]["series"]
    assert part["steps"] == [0, 1, 4] and len(part["responses"]) == 4 and part["n"] == 2
    assert "attribute" in part["summary"][0] and "attribute" not in second["data"]["series"][0]["summary"][0]
    kept = [starvation.read_probe(artifacts.load_arrays(store, id), Settings(4, points=3)) for id in part["runs"]]
    assert np.allclose(part["responses"], np.mean([one["responses"] for one in kept if one], 0).T, rtol=1e-3)
    assert second["data"]["series"][0]["name"] == "two_moon × erm"
    again_ = probe(store.root, "--cell", "irm", "--features", 4, "--points", 3)
    assert "retraining" not in again_.stderr  # it is kept
    (id,) = {r.id for r in store.records()[0] if (r.method, r.seed) == ("irm", 1)}
    assert "irm, seed 1, 120 examples" in probe(store.root, "--run", id[:9]).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name what to probe"),
        (["--run", "zz"], "no run zz"),
        (["--run", ""], "runs begin with"),
        (["--cell", "imr"], "did you mean irm?"),
        (["--cell", "random"], "does not train"),
        (["--cell", "irm", "--spacing", "evn"], "did you mean even?"),
    ],
)
def test_mistakes_are_one_line(probe: Any, store: Store, arguments: list[str], words: str) -> None:
    said = probe(store.root, *arguments, code=2).stderr
    assert words in said and len([line for line in said.splitlines() if line.startswith("spurbench:")]) == 1


def test_a_packed_store_cannot_keep_what_a_probe_sees(probe: Any, store: Store, tmp_path: Path) -> None:
    store.pack(tmp_path / "p.jsonl")
    assert "for reading only: `spurbench merge" in probe(tmp_path / "p.jsonl", "--cell", "irm", code=2).stderr


def test_a_stack_is_watched_run_by_run(store: Store) -> None:
    records = [r for r in store.records()[0] if r.method == "irm"]
    settings = Settings(3, points=2)
    retrain.retrain(retrain.Retraining(records, store.root, False, settings))
    together = [artifacts.load_arrays(store, r.id)["probe/responses"] for r in records]
    for record, seen in zip(records, together, strict=True):
        retrain.retrain(retrain.Retraining([record], store.root, False, settings))
        assert np.allclose(artifacts.load_arrays(store, record.id)["probe/responses"], seen, rtol=1e-3)
    assert not np.allclose(together[0], together[1], rtol=0.1)
