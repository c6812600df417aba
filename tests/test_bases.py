"""Runs that start from finished runs: what they are given, what their answers change, and that chains survive."""

from __future__ import annotations

import copy
import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spurbench.bench.core.errors import StoreTrouble, UserError
from spurbench.bench.grid.ad_hoc import adhoc_grid
from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid
from spurbench.bench.jobs import bases, worker
from spurbench.bench.jobs.job import Job, Redo
from spurbench.bench.jobs.session import Stopped, start_over
from spurbench.bench.jobs.setup import set_up
from spurbench.bench.leaderboard.build import build_from_store
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Training
from spurbench.bench.plugins.method import Draw, Start
from spurbench.bench.provenance import edits, plugin_code
from spurbench.bench.records.record import Record, agree
from spurbench.bench.records.run import Run
from spurbench.bench.store import predictions, weights
from spurbench.bench.store.store import Store
from spurbench.bench.training.engine import Engine
from spurbench.bench.training.execution import Options
from spurbench.bench.training.replica import Frozen, Replica, prepare

DATASET = '''"""Points with a core and a spurious coordinate, which agree in most of the training examples.

Source: these tests.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from spurbench.bench.plugins.dataset import Data, Dataset, Split, Training


@dataclass(frozen=True)
class Shortcut(Dataset):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    headline: ClassVar[tuple[tuple[str, str], ...]] = (("test", "worst_group_accuracy"),)
    training: ClassVar[Training] = Training(network="mlp", width=16, optimizer="sgd", lr=0.1, momentum=0.9, steps=60,
                                            batch=32)
    conflicting: ClassVar[tuple[int, ...]] = (1, 2)

    def load(self, seed, build):
        generator = torch.Generator().manual_seed(seed)
        train, validation, test = (self.draw(n, rare, generator) for n, rare in ((600, 0.05), (200, 0.3), (400, 0.5)))
        torch.manual_seed(seed)
        return Data(train, {"validation": validation, "test": test}, attributes=2), build(train.x)

    def draw(self, n, rare, generator):
        y = torch.arange(n) % 2
        a = torch.where(torch.rand(n, generator=generator) < rare, 1 - y, y)
        noise = torch.randn(n, 2, generator=generator)
        x = torch.stack([0.7 * (2 * y - 1) + noise[:, 0] * 0.7, 3.0 * (2 * a - 1) + noise[:, 1] * 0.3], 1)
        return Split(x.float(), y, a)
'''
BASED = [name for name, info in registry.methods().items() if info.base]


@pytest.fixture(autouse=True)
def shortcut(tmp_path: Path) -> Any:
    file = tmp_path / "shortcut.py"
    file.write_text(DATASET)
    registry.add_plugin(file)
    yield file
    registry.forget_plugins()


def runs_of(row: str, seeds: str = "0-1", **training: Any) -> list[Run]:
    """The runs of one row on these points; `row` is as in a grid."""
    folder = Path.cwd()
    (folder / "g.yaml").write_text(
        f"seeds: {seeds}\ndatasets: [{{dataset: shortcut, training: {json.dumps(training)}, methods: [{row}]}}]\n"
    )
    return [run for run, _ in expand(load_grid(folder / "g.yaml"), {}).runs()]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store.open(tmp_path / "s", create=True)


def finish(runs: list[Run], store: Store, stop: Callable[[], bool] = lambda: False) -> list[Record]:
    """The records of runs that train together."""
    worker.run_job(Job(runs, "", Options(history=1, threads=1)), store, lambda step: None, stop)
    found = [store.record(run.id) for run in runs]
    assert all(found)
    return [record for record in found if record]


def worst(records: list[Record]) -> float:
    """The mean worst-group accuracy on test."""
    each = [min(c / n for c, n in zip(r.splits["test"].correct, r.splits["test"].n, strict=True)) for r in records]
    return sum(each) / len(each)


LONGER = "training: {steps: 200}"
ROWS = {
    "jtt": "{method: jtt, hyper_parameters: {upweight: 20}}",
    "afr": "{method: afr, hyper_parameters: {share: 1.0}, training: {batch: null, momentum: 0, steps: 200, lr: 1.0}}",
    "cnc": f"{{method: cnc, {LONGER}}}",
    "crt": "{method: crt, training: {batch: null, steps: 300}}",
    "dfr_subpopbench": "{method: dfr_subpopbench, hyper_parameters: {strength: 0.01, lr: 0.01, steps: 500}}",
    "eiil": "{method: eiil, hyper_parameters: {updates: 2000, penalty_weight: 10, anneal: 20}, training: {lr: 0.01}}",
    "evals": "{method: evals, hyper_parameters: {share: 0.5}}",
    "spare": f"{{method: spare, {LONGER}}}",
    "xrm": f"{{method: group_dro, groups: xrm, {LONGER}}}",
}


@pytest.mark.parametrize("name", BASED)
def test_every_method_runs_and_says_what_it_started_from(name: str, store: Store) -> None:
    runs = runs_of(ROWS.get(name, name))
    records = finish(runs, store)
    assert [(r.status, r.cause) for r in records] == [("done", None)] * 2
    base = runs[0].base
    assert base is not None and records[0].base == base and base["step"] > 0
    made = {record.method for record in store.records()[0]}
    assert made == {name, base["method"]}, "the base is an ordinary run with a record of its own"
    assert all(weights.has(store, run.base_run(base).id, base["step"]) for run in runs)


@pytest.mark.parametrize("name", [*BASED, "xrm"])
def test_the_minority_gains_where_erm_fails_it(name: str, store: Store) -> None:
    erm, own = finish(runs_of("erm"), store), finish(runs_of(ROWS.get(name, name)), store)
    assert worst(erm) < 0.2 and worst(own) > 0.4


def test_a_base_is_trained_once_for_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    whole = worker.train_stack
    monkeypatch.setattr(worker, "train_stack", lambda job, *rest: begun.append(job.runs[0].method) or whole(job, *rest))
    for row in ("dfr", "llr", "cnc", "erm"):
        finish(runs_of(row), store)
    assert begun == ["erm", "dfr", "llr", "erm", "cnc"], "the network of an earlier step is made from there"
    assert len([record for record in store.records()[0] if record.method == "erm"]) == 2


def test_weights_are_kept_on_request(command: Any, store: Store) -> None:
    """Those of every run after its last step, and they give what the run recorded."""
    import spurbench

    line = [
        "run",
        "--plugin",
        "shortcut.py",
        "--dataset",
        "shortcut",
        "--method",
        "erm",
        "--method",
        "jtt",
        "--seeds",
        "0",
    ]
    command(*line, "--store", "s", "--jobs", 0, "--keep-weights")
    registry.add_plugin("shortcut.py")  # the command has forgotten it
    results = spurbench.load("s")
    for record in store.records()[0]:
        (kept,) = results.weights(record.id)
        (network,) = set_up(Job([record.run], "", Options())).draw(record.run).networks
        network.load_state_dict(kept["parameters"] | kept["buffers"])
        x = set_up(Job([record.run], "", Options())).draw(record.run).data.tests["test"].x
        assert torch.allclose(network(x), torch.as_tensor(results.predictions(record.id)["test"]), atol=1e-5)
    with pytest.raises(UserError, match="after step 7 are not kept: run it with --keep-weights"):
        results.weights(record.id, step=7)


def test_networks_that_are_gone_are_made_again_and_the_record_stands(store: Store) -> None:
    before = finish(runs_of("erm"), store)
    finish(runs_of("dfr"), store)
    shutil.rmtree(store.root / "weights")
    first = finish(runs_of("llr"), store)
    assert [store.record(one.id) for one in before] == before and all(record.done for record in first)


def test_seeds_together_equal_seeds_alone(store: Store, tmp_path: Path) -> None:
    for name in ("jtt", "afr", "self_llr", "cnc"):
        together = finish(runs_of(ROWS.get(name, name)), store)
        other = Store.open(tmp_path / name, create=True)
        alone = [finish([run], other)[0] for run in runs_of(ROWS.get(name, name))]
        assert [r.splits for r in together] == [r.splits for r in alone], name


@pytest.mark.parametrize("name", ["jtt", "afr", "cnc", "bam"])
def test_a_chain_that_is_stopped_anywhere_ends_with_the_same_records(name: str, store: Store, tmp_path: Path) -> None:
    """It is asked to stop after one look more each time: in the base, between the stages, in the second one."""
    more = {"average": "swad", "n_converge": 1, "n_tolerance": 2} if name == "cnc" else {}
    runs, patience = runs_of(name, steps=12, evaluate=4, **more), 0
    expected = finish(runs, Store.open(tmp_path / "unbroken", create=True))
    while True:
        looks = iter(range(patience))
        patience += 3
        try:
            found = finish(runs, store, lambda looks=looks: next(looks, None) is None)
            break
        except Stopped:
            continue
    assert patience > 9
    assert all(agree(one, other) for one, other in zip(found, expected, strict=True))


def test_a_failed_base_is_named_and_its_dependants_are_no_errors(store: Store) -> None:
    runs = runs_of("{method: dfr, base: {training: {lr: 1.0e+30}}}")
    causes = [record.cause for record in finish(runs, store)]
    assert [cause and cause.kind for cause in causes] == ["base_failed"] * 2
    assert causes[0] and "erm, seed 0 (run" in causes[0].message and "diverged" in causes[0].message


def test_an_empty_error_set_is_said(store: Store) -> None:
    (record, _) = finish(runs_of("{method: jtt, base: {training: {steps: 1}}}"), store)
    assert record.done, "a network of one step has errors"
    seen = bases.Look(record.run.base_run(record.base or {}), 1, Options(), store)
    y = seen.replica.data.train.y
    weights.save_outputs(store, seen.run.id, 1, "train", seen.outputs("train") | {"logits": (2.0 * y - 1) * 9})
    shutil.rmtree(store.root / "records" / record.id[:2])
    (record, _) = finish(runs_of("{method: jtt, base: {training: {steps: 1}}}"), store)
    assert record.cause and record.cause.kind == "cannot_begin"
    assert "the error set is empty: all 600 training examples are right" in record.cause.message


def test_marks_are_compared_with_the_true_minorities(store: Store) -> None:
    (record, _) = finish(runs_of("jtt"), store)
    found = record.measures["train"]
    assert found["marked"] > 0 and found["marked_precision"] > 0.5 and 0.3 < found["marked_recall"] <= 1


def test_a_head_alone_is_scored_as_the_whole_network(store: Store) -> None:
    """What a run of the last layer records on features is what the network with that layer gives on the inputs."""
    (run, _) = runs_of(ROWS["afr"])
    finish([run], store)
    setup = set_up(Job([run], "", Options()))
    engine = setup.make_engine([bases.begin(setup.draw(run), run, setup, store)])
    before = engine.whole_model(0).score(engine.replicas[0].frozen.data.tests["test"].x)  # type: ignore[union-attr]
    base = bases.Look(run.base_run(run.base or {}), 60, Options(), store)
    assert torch.equal(before, base.outputs("test")["logits"])
    engine.train()
    whole = engine.whole_model(0)
    assert torch.allclose(
        whole.score(whole.data.tests["test"].x),
        engine.model(0).score(engine.replicas[0].data.tests["test"].x),
        atol=1e-5,
    )


def test_what_is_trained_on_of_validation_is_not_held_out(store: Store) -> None:
    (record, _) = finish(runs_of("llr"), store)
    assert sum(record.splits["validation"].n) == 100 and sum(record.splits["train"].n) == 600
    ids = predictions.load_arrays(store, record.id)["id/validation"]
    assert len(set(ids.tolist())) == 100 and max(ids) > 100


def test_inferred_groups_train_and_select(store: Store) -> None:
    row = "{method: group_dro, groups: xrm, label: x}"
    runs = runs_of(row, evaluate=20)
    records = finish(runs, store)
    assert all(record.done and record.base is None for record in records)
    assert {record.method for record in store.records()[0]} == {"group_dro", "xrm"}
    record = records[0]
    inferred, plain = record.splits["inferred_validation"], record.splits["validation"]
    assert sum(inferred.n) == sum(plain.n) and inferred.n != plain.n
    assert {"marked", "marked_precision", "marked_recall"} <= record.measures["train"].keys()
    assert record.looks[0].splits.keys() >= {"inferred_validation"}
    assert record.inferred_by and record.inferred_by["infer"]["method"] == "xrm"


def test_groups_that_only_select_are_counted_in_kept_predictions(store: Store) -> None:
    """JTT takes no groups: its record with inferred ones is what training it again would have given."""
    row = "{method: jtt, groups: xrm, label: x}"
    run = runs_of(row, "0", evaluate=20)[0]
    assert run.trained_alike and run.trained_alike.id == runs_of("jtt", "0", evaluate=20)[0].id
    (record,) = finish([run], store)
    assert {one.method for one in store.records()[0]} == {"jtt", "erm", "xrm"}
    assert record.looks[0].splits["inferred_validation"].n != record.looks[0].splits["validation"].n
    kept = predictions.load_arrays(store, run.id)
    predictions.path_of(store, run.trained_alike.id).unlink()
    store.path("records", run.id, ".json").unlink()
    (again,) = finish([run], store)  # there is nothing to count: it is trained
    assert agree(record, again)
    assert {name: array.tolist() for name, array in kept.items()} == {
        name: array.tolist() for name, array in predictions.load_arrays(store, run.id).items()
    }


def test_groups_may_select_for_a_method_that_trains_by_the_true_ones(store: Store) -> None:
    (run,) = runs_of("{method: group_dro, groups: {from: xrm, use: selection}, label: x}", "0")
    (record,) = finish([run], store)
    plain = store.record(run.trained_alike.id)  # type: ignore[union-attr]
    assert plain and plain.done and plain.splits.items() < record.splits.items()
    assert "marked" not in record.measures.get("train", {})


def test_what_its_like_fails_of_fails_with_inferred_groups(store: Store) -> None:
    (run,) = runs_of("{method: jtt, groups: xrm, training: {lr: 1e20}, label: x}", "0")
    (record,) = finish([run], store)
    alike = store.record(run.trained_alike.id)  # type: ignore[union-attr]
    assert alike and record.cause == alike.cause and record.cause


# ---- grids ----------------------------------------------------------------------------------------------------------


def test_a_base_is_the_run_of_the_row_itself(store: Store) -> None:
    plain = runs_of("erm")
    (run, _) = runs_of("dfr")
    assert [base.id for base, _ in run.bases] == [plain[0].id]
    (other, _) = runs_of("{method: dfr, base: {training: {lr: 0.01}}}")
    assert other.id != run.id and other.bases[0][0].training["lr"] == 0.01


def test_shares_become_steps(store: Store) -> None:
    (run, _) = runs_of("{method: jtt, hyper_parameters: {stop: 0.25}}")
    assert run.base and run.base["step"] == 15
    (run, _) = runs_of("{method: jtt, base: {step: 7}}")
    assert run.base and run.base["step"] == 7
    (run, _) = runs_of("self_llr")
    assert run.base and (run.base["step"], run.base["earlier"]) == (60, 12)


def test_runs_without_a_base_keep_their_ids(store: Store) -> None:
    (run, _) = runs_of("erm")
    assert run.id == replace(run, base=None).id and "base" not in json.dumps(run.id)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{method: erm, base: {method: sd}}", "erm starts from no other run"),
        ("{method: dfr, base: {method: dfr}}", "dfr → dfr: a run cannot start from one of the same method"),
        ("{method: dfr, base: {method: random}}", "random trains nothing to start from"),
        ("{method: dfr, base: {method: nothing}}", "no method 'nothing'"),
        ("{method: dfr, base: {method: irm}}", "irm needs environments, which shortcut does not give"),
        ("{method: dfr, base: {training: {lr: [0.1, 0.2]}}}", "lr varies: a base has one value of it"),
        ("{method: jtt, base: {step: 100}}", "step 100: the run to start from has 60 steps; give one of them"),
        ("{method: jtt, base: {step: 1.5}}", "step 1.5: the run to start from has 60 steps; give one of them"),
        ("{method: jtt, base: {step: late}}", "step in base should be a number, not 'late'"),
        ("{method: jtt, base: {training: {steps: 0}}}", "step 0.5: the run to start from takes no steps"),
        ("{method: cnc, base: {method: dfr, step: 1}}", "dfr makes a last layer alone, and no run can start from that"),
        ("{method: eiil, base: afr}", "afr makes a last layer alone, and no run can start from that"),
        ("{method: afr, training: {width: 8}}", "width has no effect with afr, which trains a last layer on features"),
        ("{method: llr, training: {network: small_conv}}", "network has no effect with llr, which trains a last layer"),
        ("{method: llr, training: {augment: flip}}", "give it to that, `base: {training: {augment: …}}`"),
        (
            "{method: afr, search: {draws: 2, rule: train_accuracy, space: {training.width: [3, 4]}}}",
            "width has no effect with afr, which trains a last layer on features of its base",
        ),
        ("{method: jtt, base: 7}", "base in methods should be a mapping of keys, or a method's name, not 7"),
        ("{method: self_llr, base: {step: 2}}", "step 2 is not after the earlier one, 12"),
        ("{method: group_dro, groups: erm}", "erm infers no groups; these do:"),
        ("{method: group_dro, groups: {form: xrm}}", "unknown key 'form' in groups; did you mean from?"),
        ("{method: dfr, base: {dataset: two_moon}}", "unknown key 'dataset' in base"),
    ],
)
def test_what_cannot_be_started_from_is_said_with_its_line(row: str, said: str, store: Store) -> None:
    with pytest.raises(UserError) as error:
        runs_of(row)
    assert said in str(error.value) and "g.yaml:2" in str(error.value)


def test_network_fields_are_for_the_bases_of_heads(store: Store) -> None:
    """A block's are inherited; on the command line they go to the rows whose network they are, and to their bases."""
    (run, _) = runs_of("{method: afr, base: {training: {width: 5}}}", width=7)
    assert run.base and run.base["training"]["width"] == 5 and run.training["width"] == 7
    (run, _) = runs_of("afr", width=7)
    assert run.base and run.base["training"]["width"] == 7
    sets = ["training.width=9", "training.lr=0.2"]
    runs_of("erm, afr")
    cells = load_grid("g.yaml", sets).cells
    assert [(cell.training["width"], cell.training["lr"]) for cell in cells] == [(9, 0.2), (16, 0.2)]
    assert (cells[1].base or {})["training"]["width"] == 9
    cells = adhoc_grid("shortcut", ["erm", "afr"], "0", sets).cells
    assert [(cell.training["width"], cell.training["lr"]) for cell in cells] == [(9, 0.2), (9, 0.2)]
    assert (cells[1].base or {})["training"]["width"] == 9


@pytest.mark.parametrize("row", [
    "{method: jtt, training: {lr: 0.3}, base: {training: {lr: 0.4, momentum: 0.9}}}",
    "{method: group_dro, groups: {from: eiil, base: {training: {lr: 0.4, momentum: 0.9}}}}",
    "{method: jtt, base: {training: {lr: 0.4, momentum: 0.9}}, search: "
    "{draws: 2, rule: validation_worst_group, training: {steps: 9}, space: {upweight: [4, 6]}}}",
])  # fmt: skip
def test_what_is_set_reaches_the_runs_that_rows_start_from(row: str, store: Store) -> None:
    """Above what the file says of them, where it has an effect; and with several values each row has its own."""
    runs_of(row)

    def found(*sets: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The training of each cell, or of each draw of its search, and that of the run it starts from."""
        cells = load_grid("g.yaml", sets).cells
        each: list[Any] = [one for cell in cells for one in (cell.search.draws if cell.search else [cell])]
        return [(one.training, (getattr(one, "inferred_by", None) or one.base)["training"]) for one in each]

    assert {base["lr"] for _, base in found()} == {0.4}
    for trainings in found("training.lr=0.2", "training.steps=8"):
        assert [(one["lr"], one["steps"]) for one in trainings] == [(0.2, 8)] * 2
    for own, base in found("training.optimizer=adam"):
        assert own["optimizer"] == base["optimizer"] == "adam" and "momentum" not in base
    if "search" not in row:
        assert [(own["lr"], base["lr"]) for own, base in found("training.lr=[0.1, 0.2]")] == [(0.1, 0.1), (0.2, 0.2)]
    with pytest.raises(UserError, match="--set training.pretrained=timm: no cell of g.yaml has a use for it"):
        found("training.pretrained=timm")
    with pytest.raises(UserError, match="--set training.lr=fast: lr of training must be a number"):
        found("training.lr=fast")


def test_swad_looks_at_validation_and_rows_say_so(store: Store, tmp_path: Path) -> None:
    runs = runs_of("erm", steps=60, evaluate=10, average="swad")
    finish(runs, store)
    (row, *_) = build_from_store(store).rows
    assert row.regime == "train: labels + validation labels"
    assert runs[0].id != runs_of("erm", steps=60, evaluate=10)[0].id
    assert finish(runs_of("dfr", steps=60, evaluate=10, average="swad"), store)[0].done, "it takes no step itself"
    with pytest.raises(UserError, match="g.yaml:2: average has no effect without evaluate"):
        runs_of("erm", average="swad")
    row = "{method: erm, training: {average: swad, evaluate: 9}}"
    (tmp_path / "g.yaml").write_text(f"seeds: 0\ndatasets:\n  - dataset: two_moon\n    methods: [{row}]\n")
    with pytest.raises(UserError, match="g.yaml:4: average swad goes by the split 'validation', which two_moon does"):
        load_grid("g.yaml")


def test_swad_and_bases_look_at_what_their_row_holds_out(store: Store, tmp_path: Path) -> None:
    """Also where the row itself, not its block, has the option, and where that varies."""
    swad = "training: {average: swad, evaluate: 9}"
    llr = f"{{method: llr, base: {{{swad}}}, options: {{held_out: 0.2}}}}"
    rows = f"[{{method: erm, {swad}, options: {{held_out: [0.1, 0.2]}}}}, {llr}]"
    (tmp_path / "g.yaml").write_text(f"seeds: 0\ndatasets:\n  - dataset: two_moon\n    methods: {rows}\n")
    cells = load_grid("g.yaml").cells
    assert [cell.dataset_options["held_out"] for cell in cells] == [0.1, 0.2, 0.2] and not any(c.na for c in cells)
    assert (cells[2].base or {})["training"]["average"] == "swad"
    (tmp_path / "g.yaml").write_text(
        "seeds: 0\ndatasets:\n  - dataset: two_moon\n    options: {held_out: [0.1, 0.2]}\n    methods: [llr]\n"
    )
    assert [(cell.base or {})["method"] for cell in load_grid("g.yaml").cells] == ["erm", "erm"]


# ---- edited, failed, damaged ----------------------------------------------------------------------------------------

MINE = '''"""Mine: ERM with a factor.

Source: these tests.
"""

from dataclasses import dataclass

from spurbench.bench.plugins.method import Method


@dataclass(frozen=True)
class Mine(Method):
    def loss(self, logits, batch, state, step):
        return FACTOR * batch.losses(logits).mean()
'''


def test_an_edited_base_is_said_and_done_again_with_what_starts_from_it(command: Any, tmp_path: Path) -> None:
    """The base is no row of the grid; its networks are renewed with it."""
    method, grid, store = tmp_path / "mine.py", tmp_path / "g.yaml", tmp_path / "s"
    method.write_text(MINE.replace("FACTOR", "1.0"))
    grid.write_text("seeds: 0\ndatasets:\n  - {dataset: shortcut, methods: [{method: dfr, base: {method: mine}}]}\n")
    line = ["run", grid, "--plugin", method, "--plugin", tmp_path / "shortcut.py", "--store", store]
    assert "was edited" not in command(*line).stderr

    def kept() -> bytes:
        (file,) = store.glob("weights/*/*@60.pt")
        return file.read_bytes()

    before = kept()
    method.write_text(MINE.replace("FACTOR", "3.0"))
    assert "made before mine.py was edited" in command(*line).stderr and kept() == before
    assert "2/2" in command(*line, "--fresh", "--jobs", 1).stderr and kept() != before
    assert "was edited" not in command(*line).stderr


def test_a_base_that_failed_is_tried_again_on_request(command: Any, tmp_path: Path) -> None:
    method, grid, store = tmp_path / "mine.py", tmp_path / "g.yaml", tmp_path / "s"
    method.write_text(MINE.replace("FACTOR", "nothing"))
    grid.write_text("seeds: 0\ndatasets:\n  - {dataset: shortcut, methods: [{method: dfr, base: {method: mine}}]}\n")
    line = ["run", grid, "--plugin", method, "--plugin", tmp_path / "shortcut.py", "--store", store]
    assert "base_failed: mine, seed 0" in command(*line, code=2).stderr
    said = command("leaderboard", store).stdout
    assert "n/a: base failed" in said and "1 of 1 runs failed (seed 0), base_failed: mine, seed 0" in said
    method.write_text(MINE.replace("FACTOR", "1.0"))
    assert "2/2" in command(*line, "--retry", "--jobs", 1).stderr
    assert "n/a" not in command("leaderboard", store).stdout
    assert all(record.done for record in Store.open(store).records()[0])


def test_networks_of_an_edited_base_are_not_made_again(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE.replace("FACTOR", "1.0"))
    registry.add_plugin(tmp_path / "mine.py")
    finish(runs_of("{method: dfr, base: {method: mine}}", "0"), store)
    shutil.rmtree(store.root / "weights")
    (tmp_path / "mine.py").write_text(MINE.replace("FACTOR", "2.0"))
    edits.clear_caches()
    with pytest.raises(UserError, match="was made before mine.py was edited, and its networks are gone"):
        finish(runs_of("{method: llr, base: {method: mine}}", "0"), store)


def test_a_record_has_the_code_that_made_its_base(store: Store, tmp_path: Path) -> None:
    """Which may be older than the code of now, and then the run is said to be, too."""
    (tmp_path / "mine.py").write_text(MINE.replace("FACTOR", "1.0"))
    registry.add_plugin(tmp_path / "mine.py")
    (first,) = runs_of("{method: dfr, base: {method: mine}}", "0")
    finish([first], store)
    base = store.record(first.bases[0][0].id)
    (tmp_path / "mine.py").write_text(MINE.replace("FACTOR", "2.0"))
    edits.clear_caches()
    plugin_code.first_seen.cache_clear()
    (record,) = finish(runs_of("{method: llr, base: {method: mine}}", "0"), store)
    assert base is not None and record.provenance.code["base method 1"] == base.provenance.code["method"]
    assert edits.find_edited_files(record) == ["mine.py"]


def test_a_base_that_goes_on_keeps_the_networks_it_has_kept(store: Store) -> None:
    (run,) = runs_of("{method: jtt, base: {step: 100}}", "0", steps=300, batch=None)
    ((base, keep),) = run.bases
    job, asked = Job([base], "erm", Options(history=1, threads=1), keep), [False] * 200 + [True]
    with pytest.raises(Stopped):
        worker.run_job(job, store, lambda step: None, lambda: asked.pop(0))
    assert keep == [100] and weights.has(store, base.id, 100)
    worker.run_job(job, store, lambda step: None, lambda: False)
    assert weights.has(store, base.id, 100)


def test_no_record_stands_beside_predictions_of_another_training(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is done again, and killed between its predictions and its record: then it is to be done once more."""
    runs = runs_of("erm", "0", steps=20)
    finish(runs, store)

    class Always(Redo):
        def asks_for(self, record: Any) -> bool:
            return True

    def killed(*_: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Store, "write_record", killed)
        worker.run_job(Job(runs, "", Options()), store, lambda step: None, lambda: False, Always())
    assert store.record(runs[0].id) is None and predictions.path_of(store, runs[0].id).exists()
    assert finish(runs, store)[0].done


def test_networks_that_cannot_be_read_now_are_not_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(runs_of("dfr", "0"), store)
    files = list(store.root.glob("weights/*/*.pt"))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", full)
        with pytest.raises(StoreTrouble, match="Too many open files: run the same command again"):
            finish(runs_of("llr", "0"), store)
    assert files and all(file.exists() for file in files) and store.record(runs_of("llr", "0")[0].id) is None
    assert finish(runs_of("llr", "0"), store)[0].done


def test_a_run_that_starts_over_forgets_the_networks_of_its_earlier_code(store: Store) -> None:
    (run,) = runs_of("erm", "0", steps=20)
    weights.save(store, run.id, 10, [{}])
    start_over(run, "the method", store)
    assert not weights.has(store, run.id, 10)


def test_a_record_stands_whose_networks_cannot_be_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(runs_of("dfr", "0"), store)
    (base,) = [record for record in store.records()[0] if record.method == "erm"]
    shutil.rmtree(store.root / "weights")

    def short_of_memory(engine: Engine) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Engine, "update", short_of_memory)
    with pytest.raises(UserError, match="networks cannot be made again, out_of_memory"):
        finish(runs_of("llr", "0"), store)
    assert (found := store.record(base.id)) and found.done


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_networks_are_made_again(store: Store, damage: bytes | None) -> None:
    finish(runs_of("dfr", "0"), store)
    for file in list(store.root.glob("weights/*/*.pt")):
        if damage is None:
            torch.save("a text", file)
        else:
            file.write_bytes(damage)
    assert finish(runs_of("llr", "0"), store)[0].done


def test_a_run_knows_nothing_of_the_files_of_others(store: Store) -> None:
    finish(runs_of("dfr", "0"), store)
    assert not any("records" in name or "weights" in name for r in store.records()[0] for name in r.provenance.files)


def test_what_diverges_between_two_looks_leaves_a_record(store: Store) -> None:
    (record,) = finish(runs_of("{method: erm, training: {lr: 1.0e+30, evaluate: 1, steps: 5}}", "0"), store)
    assert record.cause and record.cause.kind == "diverged" and not record.looks
    (record,) = finish(runs_of("{method: dfr, base: {training: {lr: 1.0e+30, evaluate: 1, steps: 5}}}", "0"), store)
    assert record.cause and record.cause.kind == "base_failed"


def test_answers_that_do_not_fit_fail_the_run(store: Store, tmp_path: Path) -> None:
    answers = {
        "Start('sideways')": "begin gave network='sideways'; expected fresh, base or head",
        "Start(draw=Draw(torch.tensor([5000])))": "begin draws rows that the split of 600 examples does not have",
        "Start(draw=Draw(torch.zeros(0).long()))": "begin leaves no example to train on",
        "Start(draw=Draw(weights=torch.ones(3)))": "begin gives 3 weights for 600 examples",
        "Start('head', head=(torch.ones(1, 3), torch.ones(1)))": "begin gives a head of the shapes [[1, 3], [1]]",
        'Start(network="head")': "of a method that declares otherwise: write `head_only: ClassVar[bool] = True`",
        "Start(split='validation')": "begin trains on validation, which the method does not declare",
        "Start(values={'w': torch.ones(3)})": "begin gives 3 values 'w' for 600 examples",
        "Start(environment=torch.ones(600))": "begin gives a environment that does not fit",
        "7": "begin gave a int; expected Start(...)",
        "Start(marked=torch.arange(600))": "begin marks [600] of torch.int64; expected a bool of each training example",
        "Start(draw=Draw([1, 2]))": "begin gave rows as a list; expected a tensor",
    }
    for number, (answer, said) in enumerate(answers.items()):
        file = tmp_path / f"odd{number}.py"
        file.write_text(METHOD.replace("ANSWER", answer).replace("ALONE", str("'head'" in answer)))
        registry.add_plugin(file)
        (record, _) = finish(runs_of(file.stem, steps=2), store)
        assert record.cause and record.cause.kind == "cannot_begin", answer
        assert said in record.cause.message


METHOD = '''"""Odd: one that answers oddly.

Source: these tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from spurbench.bench.plugins.method import Draw, Method, Start


@dataclass(frozen=True)
class Odd(Method):
    head_only: ClassVar[bool] = ALONE
    base: ClassVar[Mapping[str, Any]] = {"method": "erm"}

    def begin(self, finished, generator):
        return ANSWER

    def loss(self, logits, batch, state, step):
        return batch.losses(logits).mean()
'''


def test_defaults_of_an_answer_change_nothing() -> None:
    assert Start() == Start("fresh", "train", Draw())


# ---- frozen networks ------------------------------------------------------------------------------------------------


def test_features_of_a_frozen_network_are_made_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all methods that see the same, and not again after the store has them."""
    made: list[int] = []
    whole = Frozen.features
    monkeypatch.setattr(Frozen, "features", lambda self, x, *how: made.append(len(x)) or whole(self, x, *how))
    for row in ("erm", "group_dro", "jtt"):
        assert all(record.done for record in finish(runs_of(row, freeze=True), store))
    assert sorted(n for n in made if n > 8) == [200, 200, 400, 400, 600, 600], "three splits of two seeds"
    (kept, *_) = store.root.glob("weights/*/*.frozen.pt")
    kept.write_bytes(b"damaged")
    assert all(record.done for record in finish(runs_of("focal", freeze=True), store))
    assert len([n for n in made if n > 8]) == 7


def test_a_frozen_network_trains_its_head_alone(store: Store) -> None:
    """As one whose other parameters require no gradient; it is scored and attacked as a whole."""
    (run,) = runs_of("erm", "0", freeze=True)
    setup = set_up(Job([run], "", Options()))
    replica, network = setup.draw(run, store), set_up(Job(runs_of("erm", "0"), "", Options())).draw(run).networks[0]
    before = copy.deepcopy(network.state_dict())
    engine = setup.make_engine([replica])
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("body.2" in name)
    dataset, method = setup.dataset, setup.method
    data = prepare(dataset, method, Training(), 0).data
    other = Engine(method, replace(dataset.training, freeze=None), "float32", Options(), [Replica(0, data, [network])])
    for one in (engine, other):
        one.train()
    trained = engine.whole_model(0)
    assert {name for name, value in trained.network.state_dict().items() if not torch.equal(value, before[name])} == {
        "body.2.weight",
        "body.2.bias",
    }
    x = data.tests["test"].x
    assert torch.allclose(trained.score(x), other.model(0).score(x), atol=1e-5)
    assert torch.allclose(engine.model(0).score(replica.data.tests["test"].x), trained.score(x), atol=1e-5)


@pytest.mark.parametrize("name", ["jtt", "dfr", "afr", "lff"])
def test_methods_go_on_from_a_frozen_run(name: str, store: Store) -> None:
    (run,) = runs_of(ROWS.get(name, name), "0", freeze=True)
    (record,) = finish([run], store)
    assert record.done
    setup = set_up(Job([run], "", Options()))
    engine = setup.make_engine([bases.begin(setup.draw(run, store), run, setup, store)])
    assert engine.replicas[0].data.train.x.shape == (600, 16)
    whole, raw = engine.whole_model(0), prepare(setup.dataset, setup.method, Training(), 0).data.tests["test"].x
    assert torch.allclose(whole.score(raw), engine.model(0).score(engine.replicas[0].data.tests["test"].x), atol=1e-5)


def test_what_freezing_leaves_without_effect(command: Any, store: Store) -> None:
    with pytest.raises(
        UserError, match="augment has no effect with freeze True; the features of each image are computed"
    ):
        Training(network="small_conv", freeze=True, augment="flip", batch=8)
    assert Training(freeze=False).flat() == Training().flat()
    line = ["--plugin", "shortcut.py", "--dataset", "shortcut", "--method", "erm", "--set", "training.freeze=true"]
    assert "the features of frozen networks take" in command("estimate", *line, "--steps", 1).stdout
    assert not list(store.root.glob("weights/*/*"))
