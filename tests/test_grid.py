"""Grids: what a file means, what is wrong with one, and how a search ends."""

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_record

from spurbench.bench.api.running import choose_grid
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.seeds import parse_seeds
from spurbench.bench.grid.ad_hoc import adhoc_grid
from spurbench.bench.grid.cells import only
from spurbench.bench.grid.expand import expand, summarize
from spurbench.bench.grid.load import load_grid, shipped_grids
from spurbench.bench.jobs.job import gather
from spurbench.bench.launch import runner
from spurbench.bench.launch.dispatch import Outcome
from spurbench.bench.records.plan import kept_as
from spurbench.bench.records.run import Run
from spurbench.bench.store.store import Store
from spurbench.bench.training.execution import Options

SMALL = """\
seeds: 0-1
datasets:
  - dataset: colored_mnist
    training: {steps: 5}
    methods:
      - METHOD
"""


def grid_of(tmp_path, text, name="grid.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return load_grid(str(path))


def one_method(tmp_path, method):
    return grid_of(tmp_path, SMALL.replace("METHOD", method))


def record(run, accuracy, status="done", cause=None, loss=0):
    counts = {"n": [50, 50], "correct": [50 * accuracy] * 2, "loss_sum": loss, "entropy_sum": 0}
    return make_record(
        **run.to_dict(),
        status=status,
        groups=["y0", "y1"],
        splits={"test": counts} if status == "done" else {},
        cause=cause and {"kind": cause, "message": ""},
    )


def test_shipped_grids_load_and_say_what_they_are():
    assert set(shipped_grids()) >= {"quick", "paper"} and all(shipped_grids().values())
    for name in shipped_grids():
        assert load_grid(name).name == name


def test_the_paper_grid_is_the_papers():
    every = load_grid("paper").cells
    cells = {(c.dataset, c.label): c for c in every if c.precision == "float32"}
    sd = cells["colored_mnist", "sd"]
    assert sd.seeds == tuple(range(1234, 1244)) and sd.published == "sd"
    assert sd.hyper_parameters == {"coef": 2e-5, "delay": 450, "rescale": True}
    assert (sd.training["width"], sd.training["lr"], sd.training["steps"]) == (300, 1e-4, 2000)
    steps = {name: cells["colored_mnist", name].training["steps"] for name in ("erm", "irm", "rex", "oracle")}
    assert steps == {"erm": 1000, "irm": 500, "rex": 500, "oracle": 100}
    assert cells["colored_mnist", "rex (IRM hyper-parameters)"].published is None
    assert {c.label for c in every if c.search and not c.published} == {"group_dro", "lff", "sd_gamma"}
    again = [c for c in every if c.precision == "bf16" and not c.search]  # everything with a published number
    assert [replace(c, precision="float32") for c in again] == [c for c in every if c in cells.values()][: len(again)]
    moon = [c for c in cells.values() if c.dataset == "two_moon" and not c.label.startswith("figure 1")]
    assert len([c for c in moon if c.na is None and c.method != "lff"]) == 10
    assert {c.label: c.na for c in moon if c.na} == {
        "irm": "needs environments", "rex": "needs environments", "group_dro": "needs groups",
    }  # fmt: skip


def test_quick_is_marked_and_compared_with_nothing():
    grid = load_grid("quick")
    assert "not the paper's" in grid.notes[0] and all(cell.published is None for cell in grid.cells)
    assert {c.method for c in grid.cells if c.dataset == "colored_mnist"} == {
        "erm", "sd", "sd_gamma", "irm", "rex", "group_dro", "lff", "oracle", "random",
    }  # fmt: skip


def test_ids_are_those_of_the_runs_and_na_cells_have_none():
    plan = expand(load_grid("quick"), {})
    listed = plan.runs()
    assert [run.id for run, _ in listed] == [id for cell in plan.cells for id in cell.ids]
    assert all(cell.ids == cell.seeds == [] for cell in plan.cells if cell.na)
    assert all(Run(**cell.identity, seed=run.seed) == run for run, cell in listed)


def test_numbers_are_stored_as_the_type_of_their_field(tmp_path):
    one = one_method(tmp_path, "{method: sd, hyper_parameters: {coef: 1, delay: 4.0}, training: {lr: 1e-3}}")
    cell = one.cells[0]
    assert (type(cell.hyper_parameters["coef"]), type(cell.hyper_parameters["delay"])) == (float, int)
    assert cell.training["lr"] == 0.001
    other = one_method(tmp_path, "{method: sd, hyper_parameters: {coef: 1.0, delay: 4}, training: {lr: 0.001}}")
    assert expand(one, {}).cells[0].ids == expand(other, {}).cells[0].ids


def test_a_mapping_takes_over_what_an_anchor_has(tmp_path):
    rows = "[{method: sd, training: &short {steps: 3, lr: 1}}, {method: erm, training: {lr: 2, <<: *short}}]"
    file = tmp_path / "g.yaml"
    file.write_text(f"datasets:\n  - dataset: two_moon\n    methods: {rows}\n")
    cell = load_grid(file).cells[1]
    assert (cell.training["steps"], cell.training["lr"]) == (3, 2.0)


MISTAKES = [
    (
        "{method: erm, training: {stpes: 3}}",
        "6: unknown key 'stpes' in training; did you mean steps? there are",
    ),
    ("{method: gruop_dro}", "6: no method 'gruop_dro'; did you mean group_dro? there are: "),
    ("{method: erm, lable: x}", "6: unknown key 'lable' in methods; did you mean label? there are"),
    ("{method: sd, hyper_parameters: {coeff: 1}}", "6: no hyper-parameter of sd 'coeff'; did you mean coef?"),
    ("{method: sd, hyper_parameters: {coef: much}}", "6: coef of sd must be a number, not 'much'"),
    ("{method: sd, hyper_parameters: {delay: 1.5}}", "6: delay of sd must be a whole number, not 1.5"),
    ("{method: sd, hyper_parameters: {rescale: 1}}", "6: rescale of sd must be true or false, not 1"),
    (
        "{method: sd_gamma, hyper_parameters: {form: txt}}",
        "form of sd_gamma must be text or released, not 'txt'; did",
    ),
    (
        "{method: erm, training: {optimizer: adm}}",
        "optimizer of training must be sgd or adam or adamw, not 'adm'; did you me",
    ),
    (
        "{method: erm, training: {network: vgg15}}",
        "6: no network 'vgg15'; did you mean vgg15_bn? there are: mlp, bag_of_words",
    ),
    ("{method: erm, training: {steps: -1}}", "steps of training must lie in 0..1e+09, not -1"),
    (
        "{method: erm, options: {train_siz: 4}}",
        "6: no option of colored_mnist 'train_siz'; did you mean train_size?",
    ),
    ("{method: erm, seeds: [1, 2, 1]}", "6: seed 1 is given twice"),
    ("{method: erm, seeds: 3-1}", "6: seeds 3-1: expected first ≤ last"),
    ("{method: erm, seeds: two}", "6: seeds must be whole numbers or ranges such as 0-9, not 'two'"),
    ("{method: erm, method: sd}", "6: the key 'method' is given twice"),
    ("{<<: erm}", "6: '<<' takes a mapping such as *anchor"),
    ("{<<: {method: erm}, <<: {method: sd}}", "6: the key '<<' is given twice"),
    ("{<<: {method: erm, seed: 1}}", "6: unknown key 'seed'"),
    ("{label: x}", "6: the key 'method' is missing in methods"),
    ("{method: erm, label: 3}", "6: label in methods should be a valid string, not 3"),
    ("{method: erm", "not valid YAML"),
    ("erm\n      - erm", "7: two rows 'erm' for the same colored_mnist; give one a 'label:'"),
    ("{method: sd, hyper_parameters: {coef: {low: 1, high: 2}}}", "coef of sd is a range: say how many"),
    (
        "{method: sd, draws: 2, hyper_parameters: {coef: {low: 2, high: 1}}}",
        "a range needs numbers low < high",
    ),
    (
        "{method: sd, draws: 2, hyper_parameters: {coef: {low: 0, high: 1, scale: log}}}",
        "a log range needs low > 0",
    ),
    (
        "{method: sd, draws: 2, hyper_parameters: {coef: {lo: 0, high: 1}}}",
        "a range is {low, high, scale}; got the",
    ),
    ("{method: sd, hyper_parameters: {coef: [1, 1]}}", "a list needs values, each of them once"),
    ("{method: erm, search: {draws: 2, rule: test_accuracy}}", "6: nothing to search: erm declares no range"),
    (
        "{method: sd, search: {draws: 2}}",
        "6: a search needs a selection rule; give 'rule:', one of test_accuracy",
    ),
    (
        "{method: sd, search: {rule: tset_accuracy}}",
        "no selection rule 'tset_accuracy'; did you mean test_accuracy?",
    ),
    (
        "{method: sd, search: {rule: test_accuracy, space: {coe: [1, 2]}}}",
        "no hyper-parameter of sd 'coe'; did you me",
    ),
    (
        "{method: sd, search: {rule: test_accuracy, space: {coef: 1}}}",
        "coef: a space needs a list or a range",
    ),
]


OVER_SGD = SMALL.replace("{steps: 5}", "{optimizer: sgd, momentum: 0.9, steps: 5}")  # Colored MNIST's own is adam
SGD = "it is a field of sgd"
BATCH = "it is a field of minibatches (batch: 128)"
NO_EFFECT = [
    ("{method: erm, training: {optimizer: adam, momentum: 0.9}}", f"momentum has no effect with optimizer adam; {SGD}"),
    (
        "{method: erm, training: {optimizer: adam, momentum: [0, 0.9]}}",
        f"momentum has no effect with opti.*adam; {SGD}",
    ),
    (
        "{method: erm, training: {optimizer: [sgd, adam], momentum: 0.9}}",
        f"momentum has no effect with optimizer adam; {SGD}; make it an entry for each optimizer",
    ),
    (
        "{method: erm, draws: 3, training: {optimizer: adam, momentum: {low: 0.1, high: 0.9}}}",
        f"momentum has no effect with optimizer adam; {SGD}",
    ),
    ("{method: erm, training: {momentum: 0, nesterov: true}}", "nesterov has no effect with momentum 0; it is a form"),
    ("{method: erm, training: {balanced: true}}", f"balanced has no effect without batch; {BATCH}"),
    ("{method: erm, training: {augment: flip}}", f"augment has no effect without batch; {BATCH}"),
    ("{method: erm, training: {network: vgg15_bn, width: 5}}", "width has no effect with network vgg15_bn; .* of mlp"),
    ("{method: erm, training: {pretrained: timm}}", "pretrained has no effect with network mlp; .* of timm:MODEL"),
    ("{method: erm, training: {hidden_layers: 0, dropout: 0.5}}", "dropout has no effect with hidden_layers 0"),
    ("{method: erm, training: {evaluate: 5}}", "evaluate has no effect with steps 5; it asks for evaluations before"),
    ("{method: random, training: {steps: 3}}", "steps has no effect with random, which does not train"),
    ("{method: sd_gamma, hyper_parameters: {coef: 1}}", "coef has no effect with form text; .* with form released"),
    (
        "{method: sd_gamma, hyper_parameters: {form: released, lambda_0: 1}}",
        "lambda_0 has no effect with form released",
    ),
    (
        "{method: sd_gamma, hyper_parameters: {form: [text, released], coef: 1}}",
        "coef has no effect with form text; it has one with form released; make it an entry for each form",
    ),
    (
        "{method: erm, search: {rule: test_accuracy, space: {training.balanced: [true, false]}}}",
        "balanced has no effect without batch",
    ),
    (
        "{method: erm, training: {optimizer: adam, momentum: 0.5},"
        " search: {rule: test_accuracy, space: {training.lr: [1, 2]}}}",
        "momentum has no effect with optimizer adam",
    ),
    (
        "{method: erm, search: {rule: test_accuracy,"
        " space: {training.optimizer: [sgd, adam], training.momentum: [0, 0.5]}}}",
        "momentum has no effect with optimizer adam; .*; make it an entry for each optimizer",
    ),
    (
        "{method: erm, search: {rule: test_accuracy, training: {augment: flip}, space: {training.lr: [1, 2]}}}",
        "augment has no effect without batch",
    ),
    ("{method: random, search: {rule: test_accuracy, space: {training.lr: [1, 2]}}}", "lr has no effect with random"),
    (
        "{method: sd_gamma, search: {draws: 2, rule: test_accuracy, space: {coef: {low: 1, high: 2}}}}",
        "coef has no effect with form text",
    ),
]


@pytest.mark.parametrize(("method", "message"), NO_EFFECT)
def test_a_setting_without_effect_is_refused_with_file_and_line(tmp_path, method, message):
    with pytest.raises(UserError) as error:
        grid_of(tmp_path, OVER_SGD.replace("METHOD", method))
    place, _, said = str(error.value).partition("grid.yaml:6: ")
    assert place == f"{tmp_path}/" and re.match(message.replace("(", r"\(").replace(")", r"\)"), said), said


def test_a_block_is_held_to_its_own_choice(tmp_path):
    with pytest.raises(UserError, match="grid.yaml:4: momentum has no effect with optimizer adam"):
        grid_of(tmp_path, OVER_SGD.replace("optimizer: sgd", "optimizer: adam").replace("METHOD", "erm"))
    with pytest.raises(UserError, match="grid.yaml:4: momentum has no effect with optimizer adam"):  # the dataset's own
        grid_of(tmp_path, OVER_SGD.replace("optimizer: sgd, ", "").replace("METHOD", "erm"))


def only_cell(tmp_path, method):
    (cell,) = grid_of(tmp_path, OVER_SGD.replace("METHOD", method)).cells
    return cell


def test_what_is_inherited_for_another_choice_is_left_behind(tmp_path):
    """As are its values where they vary: they would make rows of equal numbers."""
    erm, adam = only_cell(tmp_path, "erm"), only_cell(tmp_path, "{method: erm, training: {optimizer: adam}}")
    assert erm.training["momentum"] == 0.9 and "momentum" not in adam.training
    assert only_cell(tmp_path, "{method: erm, training: {network: small_conv}}").training.keys() == {
        "network", "optimizer", "lr", "momentum", "weight_decay", "steps",
    }  # fmt: skip
    assert only_cell(tmp_path, "random").training == {}
    assert only_cell(tmp_path, "{method: erm, training: {augment: null, balanced: false, nesterov: false}}") == erm
    varied = OVER_SGD.replace("0.9", "[0, 0.9]")
    text = varied.replace("METHOD", "{method: erm, training: {optimizer: adam}}")
    assert [(cell.label, cell.training) for cell in grid_of(tmp_path, text).cells] == [("erm", adam.training)]
    text = varied.replace("METHOD", "{method: erm, training: {optimizer: [sgd, adam]}}")
    assert [cell.label for cell in grid_of(tmp_path, text).cells] == [
        "erm training.momentum=0, training.optimizer=sgd",
        "erm training.optimizer=adam",
        "erm training.momentum=0.9, training.optimizer=sgd",
    ]
    assert len(grid_of(tmp_path, varied.replace("METHOD", "random")).cells) == 1


def test_a_search_over_choices_keeps_to_the_fields_of_each(tmp_path):
    entry = "{method: erm, search: {rule: test_accuracy, space: {training.optimizer: [adam, sgd]}}}"
    grid = grid_of(tmp_path, OVER_SGD.replace("METHOD", entry))
    drawn = [run for run, _ in expand(grid, {}).runs()]
    assert [run.training.get("momentum") for run in drawn] == [None, 0.9]
    for best in drawn:
        records = {run.id: record(run, 0.9 if run == best else 0.1) for run in drawn}
        assert expand(grid, records).cells[0].training == best.training


def test_a_declared_search_leaves_at_its_default_what_has_no_effect(tmp_path):
    """In one form of sd_gamma or the other: draws that differ in it alone would be one experiment twice."""
    search = one_method(tmp_path, "{method: sd_gamma, search: {draws: 20, rule: test_accuracy}}").cells[0].search
    defaults = {"coef": 0.1, "lambda_0": 0.088, "lambda_1": 0.012}
    for draw in search.draws:
        idle = {"text": {"coef"}, "released": {"lambda_0", "lambda_1"}}[draw.hyper_parameters["form"]]
        assert {name for name in defaults if draw.hyper_parameters[name] == defaults[name]} == idle
    assert {draw.hyper_parameters["form"] for draw in search.draws} == {"text", "released"}


@pytest.mark.parametrize(("method", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_a_mistake_is_named_with_file_and_line(tmp_path, method, message):
    with pytest.raises(UserError) as error:
        one_method(tmp_path, method)
    assert str(error.value).startswith(f"{tmp_path / 'grid.yaml'}:")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "grid.yaml: the file is empty"),
        ("- a\n", "expected keys such as 'datasets:'"),
        ("a: &a [*a]\n", "contains itself"),
        (
            SMALL.replace("colored_mnist", "colored_mnst"),
            "grid.yaml:3: no dataset 'colored_mnst'; did you mean colored",
        ),
        (SMALL.replace("seeds: 0-1\n", "").replace("colored_mnist", "dominoes"), "5: no seeds: give 'seeds: 0-9'"),
        (
            SMALL.replace("datasets:", "dataset:"),
            "grid.yaml:2: unknown key 'dataset' in the grid; did you mean datasets",
        ),
        (
            "precision: fp8\n" + SMALL,
            "grid.yaml:1: precision in the grid should be 'float32', 'bf16', 'fp16' or 'auto', not 'fp8'",
        ),
        ("name: ../x\n" + SMALL, "grid.yaml:1: name must be letters, digits"),
        ("description: " + "x" * 20_000 + "\n" + SMALL, "grid.yaml:1: the text 'xxx"),
        (f"{'k' * 200}: 1\n" + SMALL, "grid.yaml:1: the key 'kkk"),
        ('description: "\\uD800"\n' + SMALL, "half of a character"),
        ("#" * 5_000_000 + "\n" + SMALL, "more than 4 MB, too large for a file of settings"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]\n" for a, b in itertools.pairwise("abcdefgh")),
            "more than 200,000 values",
        ),
    ],
)
def test_mistakes_around_the_methods(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        grid_of(tmp_path, text.replace("METHOD", "erm"))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_grid_gets_the_nearest():
    with pytest.raises(
        UserError,
        match=r"no grid .papr.; did you mean paper\? there are: adult, celeba, celeba_twin, celeba_twin_",
    ):
        load_grid("papr")


def test_seeds_in_every_form():
    assert parse_seeds("0-3") == parse_seeds([0, 1, 2, 3]) == parse_seeds("0..1, 2,3") == [0, 1, 2, 3]
    assert parse_seeds(["1234..1236", 7]) == [1234, 1235, 1236, 7]
    for bad in ([], "-1", True, 1.5, "0-9999999", "4294967296", ["0-2", 1]):
        with pytest.raises(ValueError):
            parse_seeds(bad)


def test_lists_are_multiplied_out_and_labelled(tmp_path):
    grid = one_method(tmp_path, "{method: sd, hyper_parameters: {coef: [0.1, 1]}, training: {lr: [1e-3, 1e-2]}}")
    assert [cell.label for cell in grid.cells] == [
        f"sd coef={coef}, training.lr={lr}" for coef, lr in itertools.product(["0.1", "1"], ["0.001", "0.01"])
    ]
    assert len({id for cell in expand(grid, {}).cells for id in cell.ids}) == 8


def test_draws_depend_on_their_own_name_alone(tmp_path):
    space = "eta: {low: 1e-3, high: 1.0, scale: log}"
    text = "{method: group_dro, search: {draws: DRAWS, rule: test_accuracy, space: {SPACE}}}"
    wider = "training.lr: {low: 1e-4, high: 1e-2, scale: log}, adjustment: [0, 1], " + space
    few = one_method(tmp_path, text.replace("DRAWS", "3").replace("SPACE", space)).cells[0].search
    many = one_method(tmp_path, text.replace("DRAWS", "30").replace("SPACE", wider)).cells[0].search
    etas = [[draw.hyper_parameters["eta"] for draw in search.draws] for search in (few, many)]
    assert etas[0] == etas[1][:3] and len(set(etas[1])) == 30
    assert min(etas[1]) < 0.01 and max(etas[1]) > 0.1 and all(1e-3 <= eta <= 1 for eta in etas[1])
    assert {draw.hyper_parameters["adjustment"] for draw in many.draws} == {0.0, 1.0}
    declared = one_method(tmp_path, "{method: irm, search: {draws: 40, rule: test_accuracy}}").cells[0].search
    anneals = [draw.hyper_parameters["anneal"] for draw in declared.draws]
    assert all(type(value) is int and 50 <= value <= 249 for value in anneals) and len(set(anneals)) > 20


SEARCH = """{method: group_dro, training: {steps: 7}, search: {draws: 3, seeds: [5, 6], rule: test_accuracy,
        options: {train_size: 100}, training: {steps: 2},
        space: {eta: {low: 0.1, high: 1.0}, training.lr: {low: 0.1, high: 1.0}}}}"""


def test_a_search_runs_chooses_and_then_runs_the_winner(tmp_path):
    grid = one_method(tmp_path, SEARCH)
    plan = expand(grid, {})
    cell = plan.cells[0]
    assert (cell.ids, cell.hyper_parameters, cell.search.chosen) == ([], None, None)
    assert cell.search.text == (
        "3 random draws × 2 seeds, train_size 100, steps 2; chosen by test accuracy (test-set oracle)"
    )
    drawn = [run for run, _ in plan.runs()]
    assert len(drawn) == 6 and {run.seed for run in drawn} == {5, 6}
    assert all(run.dataset_options["train_size"] == 100 and run.training["steps"] == 2 for run in drawn)
    scores = [0.5, 0.5, 0.9, 0.5, 0.6, 0.6]
    records = {run.id: record(run, score) for run, score in zip(drawn, scores, strict=True)}
    half = dict(list(records.items())[:5])
    assert expand(grid, half).cells[0].search.chosen is None
    done = expand(grid, records).cells[0]
    assert done.search.chosen == 1
    assert done.hyper_parameters["eta"] == drawn[2].hyper_parameters["eta"]
    assert done.training == {**drawn[2].training, "steps": 7}
    assert done.dataset_options["train_size"] == 50000 and len(done.ids) == 2
    assert len(expand(grid, records).runs()) == 8
    assert done.selection.oracle is True


def test_failed_draws_are_counted_and_cancelled_ones_are_waited_for(tmp_path):
    grid = one_method(tmp_path, SEARCH)
    drawn = [run for run, _ in expand(grid, {}).runs()]
    records = {run.id: record(run, 0.5) for run in drawn}
    records[drawn[0].id] = record(drawn[0], 0, "failed", "diverged")
    cell = expand(grid, records).cells[0]
    assert cell.search.chosen == 1 and cell.search.text.endswith("; 1 of 3 draws failed")
    assert cell.na is None and len(cell.ids) == 2
    records[drawn[0].id] = record(drawn[0], 0, "failed", "cancelled")
    assert expand(grid, records).cells[0].search.chosen is None
    records = {run.id: record(run, 0, "failed", "exception") for run in drawn}
    cell = expand(grid, records).cells[0]
    assert (cell.na, cell.ids) == ("every draw of the search failed (3)", [])


def test_a_rule_that_its_data_cannot_serve_leaves_the_rest_of_the_grid_alone(tmp_path):
    """What no record could give is known before anything is trained; the rest, by the first draw that has a record."""
    search = SEARCH.replace("test_accuracy", "worst_environment")
    grid = one_method(tmp_path, f"erm\n      - {search}")
    drawn = [run for run, cell in expand(grid, {}).runs() if cell.method != "erm"]
    plan = expand(grid, {drawn[3].id: record(drawn[3], 0.5)})
    erm, searched = plan.cells
    assert searched.na == "rule worst_environment needs environments in training" and erm.na is None
    assert [run for run, cell in plan.runs() if cell is searched] == [drawn[3]], "no further draw is run"
    assert (searched.ids, searched.seeds, searched.hyper_parameters) == ([], [], None)
    known = one_method(tmp_path, SEARCH.replace("test_accuracy", "validation_accuracy"))
    assert summarize(expand(known, {}))[0] | {"text": ""} == summarize(expand(known, {}))[0] | {
        "na": "rule validation_accuracy needs the split validation", "runs": 0, "search_runs": 0, "text": "",
    }  # fmt: skip


def test_tied_draws_are_decided_and_a_choice_once_made_stays(tmp_path):
    grid = one_method(tmp_path, SEARCH)
    drawn = [run for run, _ in expand(grid, {}).runs()]
    losses = (9, 9, 1, 1, 9, 9)
    records = {run.id: record(run, 0.5, loss=loss) for run, loss in zip(drawn, losses, strict=True)}
    fresh = expand(grid, records)
    assert fresh.cells[0].search.chosen == 1
    cell = fresh.cells[0]
    earlier = fresh.with_(cells=[structs.replace(cell, search=structs.replace(cell.search, chosen=0))])
    assert expand(grid, records, [earlier]).cells[0].search.chosen == 0
    for run in drawn[4:]:
        records[run.id] = record(run, 0.6)
    assert expand(grid, records, [earlier]).cells[0].search.chosen == 2, "a better one is taken"


# ---- plans of several grids in one store --------------------------------------------------------------------------


def test_an_edited_grid_replaces_its_plan_and_its_draws_stay_known(tmp_path):
    first = kept_as(expand(one_method(tmp_path, SEARCH), {}), [])
    edited = kept_as(expand(one_method(tmp_path, "erm"), {}), [first])
    assert (edited.grid, edited.superseded) == ("grid", sorted(first.draw_ids))
    again = kept_as(expand(one_method(tmp_path, SEARCH.replace("low: 0.1", "low: 0.2")), {}), [edited])
    assert set(first.draw_ids) <= set(again.superseded), "also after two edits"
    back = kept_as(expand(one_method(tmp_path, SEARCH), {}), [again])
    assert set(back.superseded) == set(again.draw_ids), "what is planned again is superseded no more"


def test_another_grid_of_the_same_name_is_kept_beside(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours = kept_as(expand(one_method(tmp_path / "a", SEARCH), {}), [])
    theirs = kept_as(expand(one_method(tmp_path / "b", "erm"), {}), [ours])
    assert (theirs.grid, theirs.superseded) == ("grid-2", [])
    edited = kept_as(expand(one_method(tmp_path / "b", "sd"), {}), [theirs, ours])
    assert edited.grid == "grid-2" and edited.origin.content != theirs.origin.content
    (tmp_path / "c").mkdir()
    copy = kept_as(expand(one_method(tmp_path / "c", SEARCH), {}), [ours, theirs])
    assert copy == ours, "the same content at another place is the same plan, and keeps its place"
    third = kept_as(expand(one_method(tmp_path / "c", "lff"), {}), [ours, theirs])
    assert third.grid == "grid-3"


def test_plans_that_do_not_say_where_they_are_from_are_the_same_grids(tmp_path):
    old = expand(one_method(tmp_path, SEARCH), {}).with_(origin=None)
    edited = kept_as(expand(one_method(tmp_path, "erm"), {}), [old])
    assert (edited.grid, edited.superseded) == ("grid", sorted(old.draw_ids))
    assert kept_as(old, [edited]).grid == "grid"


def test_a_plan_names_no_path(tmp_path):
    assert str(tmp_path) not in repr(expand(one_method(tmp_path, SEARCH), {}))
    assert load_grid("quick").origin.place == load_grid("quick").origin.place != load_grid("paper").origin.place


def test_run_says_that_it_keeps_a_grid_beside_another_of_its_name(tmp_path, command):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    store = Store.open(tmp_path / "store", create=True)
    store.write_plan(kept_as(expand(one_method(tmp_path / "a", "erm"), {}), []))
    one_method(tmp_path / "b", "random")
    said = command("run", tmp_path / "b" / "grid.yaml", "--store", store.root, "--device", "cpu").stderr
    assert "has another grid called grid: this one is kept beside it as grid-2" in said
    assert {plan.grid: plan.cells[0].method for plan in store.plans()} == {"grid": "erm", "grid-2": "random"}


def test_searches_are_run_before_what_can_wait(tmp_path, monkeypatch):
    """Their cells' own runs are known only then, and nothing is left to fill the time with if they come last."""
    rounds = []

    def one_round(planned, wanted, *rest):
        rounds.append(wanted)
        return Outcome(interrupted=True)

    monkeypatch.setattr(runner, "launch_round", one_round)
    text = SMALL.replace("METHOD", "erm\n      - {method: sd, search: {draws: 3, rule: train_accuracy, seeds: 5}}")
    grid = grid_of(tmp_path, text)
    runner.run_grid(grid, Store.open(tmp_path / "store", create=True), runner.Settings(), None, None)
    assert len(rounds) == 1 and len(rounds[0]) == 3 and rounds[0] == set(expand(grid, {}).draw_ids)


def test_jobs_go_round_the_cells_and_skip_what_is_done():
    planned = [(run, cell.label) for run, cell in expand(adhoc_grid("two_moon", ["erm", "sd"], "0-2"), {}).runs()]
    done = planned[1][0]
    wanted = {run.id for run, _ in planned} - {done.id}
    jobs = gather(planned, wanted, lambda run, seeds: 1, Options())
    assert done.method == "erm" and done.seed == 1
    assert [(job.label, job.runs[0].seed) for job in jobs] == [
        ("erm", 0), ("sd", 0), ("sd", 1), ("erm", 2), ("sd", 2),
    ]  # fmt: skip


def test_command_line_grids_start_from_what_was_published():
    sets = ["sd.coef=0.1", "training.lr=1e-3", "colored_mnist.train_size=5000"]
    (cell,) = adhoc_grid("colored_mnist", ["sd"], "0-9", sets).cells
    assert cell.hyper_parameters == {"coef": 0.1, "delay": 450, "rescale": True}
    assert (cell.training["lr"], cell.training["width"], cell.training["steps"]) == (1e-3, 300, 2000)
    assert cell.dataset_options == {"train_size": 5000} and cell.seeds == tuple(range(10))
    assert cell.published is None  # changed by hand: no longer the published setting
    paper = {c.label: c for c in load_grid("paper").cells if (c.dataset, c.precision) == ("colored_mnist", "float32")}
    (same,) = adhoc_grid("colored_mnist", ["sd"]).cells
    assert same == paper["sd"]
    (searched,) = adhoc_grid("colored_mnist", ["group_dro"], "1", precision="bf16").cells
    assert (searched.search, searched.published, searched.precision) == (None, None, "bf16")
    assert [c.na for c in adhoc_grid("two_moon", ["erm", "irm"], "0").cells] == [None, "needs environments"]
    assert len(adhoc_grid("two_moon", ["sd"], "0", ["sd.coef=[0.1, 1]"]).cells) == 2


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["sd.coef"], "expected KEY=VALUE such as training.lr=1e-3"),
        (["coef=1"], "expected KEY=VALUE"),
        (["irm.l2=1"], "no method or dataset in this run 'irm'; there are: sd, training, two_moon"),
        (["sd.coef=1", "sd.coef=2"], "sd.coef is set twice"),
        (["sd.coefs=1"], "no hyper-parameter of sd 'coefs'; did you mean coef?"),
        (["sd.coef="], "coef of sd must be a number, not ''"),
        (["training.lr=[1"], "--set training.lr=[1: not valid YAML"),
        (["sd.delay=1e30"], "--set sd.delay=1e30: delay of sd must be a whole number"),
        (["sd.delay=99999999999999999999"], "--set sd.delay=99999999999999999999: 99999999999999999999 is too large"),
        (["sd.coef=1e-400"], "1e-400 is too small for a number"),
        (["training.balanced=true"], "--set training.balanced=true: balanced has no effect without batch"),
        (
            ["training.network=small_conv", "training.width=9"],
            "--set training.width=9: width has no effect with network",
        ),
        (
            ["training.optimizer=[sgd,adam]", "training.momentum=0.5"],
            "--set training.momentum=0.5: momentum has no effect",
        ),
        (["training.lr=" + "[" * 3000], "not valid YAML"),
        (["training.network=" + "x" * 9000], "9,000 characters, 1,000 are the most"),
    ],
)
def test_mistakes_on_the_command_line(sets, message):
    with pytest.raises(UserError) as error:
        adhoc_grid("two_moon", ["sd"], "0", sets)
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_command_line_settings_stand_above_the_papers():
    """And are for the methods that train, if one of them does."""
    (cell,) = adhoc_grid("colored_mnist", ["irm"], "1", ["training.network=small_conv", "training.optimizer=sgd"]).cells
    assert set(cell.training) == {"network", "optimizer", "lr", "momentum", "weight_decay", "steps"}
    (text,) = adhoc_grid("colored_mnist", ["sd_gamma"], "1", ["sd_gamma.form=text", "sd_gamma.lambda_0=1"]).cells
    assert text.hyper_parameters["lambda_0"] == 1.0
    erm, guess = adhoc_grid("two_moon", ["erm", "random"], "1", ["training.steps=3"]).cells
    assert erm.training["steps"] == 3 and guess.training == {}
    with pytest.raises(UserError, match="--set training.steps=3: steps has no effect with random"):
        adhoc_grid("two_moon", ["random"], "1", ["training.steps=3"])


def test_only_keeps_what_is_named():
    grid = load_grid("quick")
    assert {c.method for c in only(grid, ["colored_mnist/sd", "er*"]).cells} == {"sd", "erm"}
    assert only(grid, []) is grid
    with pytest.raises(UserError, match="no dataset, method or label in the grid 'imr'; did you mean irm"):
        only(grid, ["imr"])


def test_a_whole_name_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(
        "seeds: 0\ndatasets:\n  - dataset: two_moon\n    methods:\n      - {method: sd, label: 'sd [ours]'}\n"
        "      - {method: erm, label: 'erm*'}\n      - {method: erm, label: 'erm?', training: {lr: 0.02}}\n"
    )
    grid = load_grid(str(tmp_path / "g.yaml"))
    for pattern, expected in [
        ("sd [ours]", ["sd [ours]"]), ("erm?", ["erm?"]), ("erm*", ["erm*"]), ("two_moon/erm?", ["erm?"]),
        ("erm", ["erm*", "erm?"]), ("?rm[*?]", ["erm*", "erm?"]), ("s*", ["sd [ours]"]),
    ]:  # fmt: skip
        assert [cell.label for cell in only(grid, [pattern]).cells] == expected
    with pytest.raises(UserError, match=r"did you mean sd \[ours\]\?"):
        only(grid, ["sd [our]"])


def test_draws_that_come_out_alike_are_one_row(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(
        "seeds: 0\ndatasets:\n  - dataset: two_moon\n    methods:\n"
        "      - {method: sd, draws: 8, hyper_parameters: {delay: [0, 2, 4]}}\n"
        "      - {method: erm, training: {lr: [0.0123456789, 0.0123456788]}}\n"
    )
    labels = [cell.label for cell in load_grid(str(tmp_path / "g.yaml")).cells]
    assert sorted(labels[:-2]) == ["sd delay=0", "sd delay=2", "sd delay=4"]
    assert labels[-2:] == ["erm training.lr=0.0123456789", "erm training.lr=0.0123456788"]


def test_the_summary_counts_runs_and_updates():
    rows = {(row["dataset"], row["label"]): row for row in summarize(expand(load_grid("quick"), {}))}
    assert (rows["two_moon", "sd"]["runs"], rows["two_moon", "sd"]["updates"]) == (10, 20_000)
    assert (rows["two_moon", "irm"]["runs"], rows["two_moon", "irm"]["na"]) == (0, "needs environments")
    assert rows["colored_mnist", "random"]["updates"] == 0


def test_ten_thousand_runs_are_planned_in_three_seconds_without_torch(tmp_path):
    path = tmp_path / "big.yaml"
    coefs = ", ".join(str(i / 1000) for i in range(1, 101))
    path.write_text(
        SMALL.replace("0-1", "0-99").replace("METHOD", f"{{method: sd, hyper_parameters: {{coef: [{coefs}]}}}}")
    )
    code = (
        "import sys; from spurbench.bench.grid.load import load_grid; from spurbench.bench.grid.expand import *;"
        f"assert len(expand(load_grid({str(path)!r}), {{}}).runs()) == 10_000; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_adhoc_runs_start_from_the_row_without_a_label() -> None:
    (cell,) = adhoc_grid("two_moon", ["erm"]).cells
    assert (cell.label, cell.training["weight_decay"], cell.training["steps"]) == ("erm", 0.0, 10_000)


def test_one_precision_has_each_cell_once() -> None:
    """The paper grid has Colored MNIST in both."""
    cells = choose_grid("paper", [], [], None, [], "float32").cells
    names = [(cell.dataset, cell.label) for cell in cells]
    assert len(set(names)) == len(names) and {cell.precision for cell in cells} == {"float32"}
    assert set(names) == {(cell.dataset, cell.label) for cell in load_grid("paper").cells}


def test_emulated_bf16_is_told(command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("spurbench.bench.core.machine.has_bf16", lambda: False)
    cell = ["--dataset", "two_moon", "--method", "random", "--seeds", "0", "--device", "cpu", "--store", tmp_path / "s"]
    assert "only emulates bf16" in command("run", *cell, "--precision", "bf16").stderr
    assert "emulates" not in command("run", *cell).stderr
