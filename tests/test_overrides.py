"""`--set` on a grid: which cells it fits, what it stands above, and that the grid is then another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.core.errors import UserError
from spurbench.bench.grid.cells import CellSpec
from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid
from spurbench.bench.store.store import Store

GRID = """\
seeds: 0-1
selection: test_accuracy
datasets:
  - dataset: colored_mnist
    training: {optimizer: sgd, momentum: 0.9, steps: 20}
    methods:
      - {method: erm, published: erm}
      - {method: erm, label: adam, training: {optimizer: adam}}
      - {method: sd, hyper_parameters: {coef: [0.1, 0.2]}}
      - method: group_dro
        search:
          draws: 3
          rule: worst_environment
          training: {steps: 7}
          space: {eta: {low: 0.1, high: 1.0}, training.lr: {low: 0.1, high: 1.0}}
      - {method: sd_gamma, label: declared, search: {draws: 3, rule: test_accuracy}}
      - random
  - dataset: two_moon
    methods: [sd]
"""


@pytest.fixture
def cells(tmp_path: Path) -> Any:
    """The cells of the grid by dataset and label, with these values set."""
    (tmp_path / "g.yaml").write_text(GRID)

    def of(*sets: str) -> dict[tuple[str, str], CellSpec]:
        return {(c.dataset, c.label): c for c in load_grid(str(tmp_path / "g.yaml"), sets).cells}

    return of


def test_a_value_goes_to_every_cell_that_it_fits(cells: Any) -> None:
    before, after = cells(), cells("training.momentum=0.5")
    changed = {key for key in before if before[key].training != after[key].training}
    assert changed == {key for key in before if before[key].training.get("optimizer") == "sgd"}
    assert all(after[key].training["momentum"] == 0.5 for key in changed)
    assert before["colored_mnist", "adam"] == after["colored_mnist", "adam"], "momentum is nothing to Adam"
    assert {key: cell.hyper_parameters for key, cell in before.items()} == {
        key: cell.hyper_parameters for key, cell in after.items()
    }
    after = cells("sd.delay=3", "colored_mnist.train_size=100")
    assert {c.hyper_parameters["delay"] for c in after.values() if c.method == "sd"} == {3}
    assert {c.dataset_options["train_size"] for c in after.values() if c.dataset == "colored_mnist"} == {100}
    assert ("colored_mnist", "sd coef=0.1") in after, "what varies goes on varying"
    assert set(cells("sd.coef=1")) == {(d, "sd" if "sd coef" in label else label) for d, label in before}


def test_it_stands_on_what_was_published_and_is_so_no_more(cells: Any) -> None:
    moon = cells("training.steps=9")["two_moon", "sd"]
    assert (moon.hyper_parameters["coef"], moon.training["steps"]) == (0.003, 9)
    assert moon.source == "published: Pezeshki et al. 2021, Figure 6, but for training.steps"
    erm = cells()["colored_mnist", "erm"]
    assert (erm.published, erm.selection.rule) == ("erm", "test_accuracy")
    erm = cells("training.lr=0.3")["colored_mnist", "erm"]
    assert (erm.published, erm.selection.rule) == (None, "none"), "no one chose it by looking at the test set"
    erm = cells("sd.delay=3")["colored_mnist", "erm"]
    assert (erm.published, erm.selection.rule) == ("erm", "test_accuracy")


def test_a_search_varies_no_more_what_is_set(cells: Any) -> None:
    found = cells("training.steps=9", "training.lr=0.25")["colored_mnist", "group_dro"]
    assert {(draw.training["steps"], draw.training["lr"]) for draw in found.search.draws} == {(9, 0.25)}
    etas = {draw.hyper_parameters["eta"] for draw in found.search.draws}
    assert etas == {draw.hyper_parameters["eta"] for draw in cells()["colored_mnist", "group_dro"].search.draws}
    assert found.selection.rule == "worst_environment" and "steps 7" not in found.search.text
    found = cells("training.lr=0.25", "group_dro.eta=0.5")["colored_mnist", "group_dro"]
    assert (found.search, found.hyper_parameters["eta"], found.training["lr"]) == (None, 0.5, 0.25)
    found = cells("sd_gamma.gamma_0=1")["colored_mnist", "declared"]
    assert {draw.hyper_parameters["gamma_0"] for draw in found.search.draws} == {1.0}
    assert len({draw.hyper_parameters["gamma_1"] for draw in found.search.draws}) == 3


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["training.augment=flip"], "--set training.augment=flip: no cell of "),
        (["training.steps=3", "training.pretrained=timm"], "--set training.pretrained=timm: no cell of "),
        (["irm.l2=1"], "no method or dataset in this run 'irm'; did you mean erm? there are: colored_mnist, "),
        (["sd.coeff=1"], "--set sd.coeff=1: no hyper-parameter of sd 'coeff'; did you mean coef?"),
        (["training.stepz=1"], "--set training.stepz=1: unknown key 'stepz' in training; did you mean steps?"),
        (["training.lr=[1"], "--set training.lr=[1: not valid YAML"),
        (["sd.coef=x"], "--set sd.coef=x: coef of sd must be a number, not 'x'"),
        (["sd"], "expected KEY=VALUE"),
    ],
)
def test_what_fits_no_cell_or_is_wrong_is_one_line(cells: Any, sets: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        cells(*sets)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_features_of_random_weights_are_said_to_be(tmp_path: Path) -> None:
    grid = "seeds: 0\ndatasets: [{{dataset: cifar10, methods: [{{method: erm, training: {{{}}}}}]}}]\n"
    for training, said in (
        ("network: timm:resnet18, pretrained: null, freeze: true, augment: null", True),
        ("network: timm:resnet18, pretrained: timm, freeze: true, augment: null", False),
        ("network: timm:resnet18, pretrained: null", False),
        ("network: small_conv, freeze: true, augment: null", False),  # it has no others
    ):
        (tmp_path / "f.yaml").write_text(grid.format(training))
        (cell,) = load_grid(str(tmp_path / "f.yaml")).cells
        assert ("FROZEN WITH RANDOM WEIGHTS: set training.pretrained" in cell.source) == said


def test_it_is_not_the_unchanged_grid(tmp_path: Path, command: Any) -> None:
    """Its plan is kept beside the other's, and found again by the same command."""
    grid = tmp_path / "tiny.yaml"
    grid.write_text("seeds: 0\ndatasets: [{dataset: two_moon, training: {steps: 4}, methods: [erm, random]}]\n")
    for sets in ([], ["--set", "training.steps=2"], ["--set", "training.steps=2"], ["--set", "training.steps=3"]):
        command("run", grid, *sets, "--store", tmp_path / "s")
    store = Store.open(tmp_path / "s")
    steps = {plan.grid: plan.cells[0].training["steps"] for plan in store.plans()}
    assert len(steps) == 3 and steps["tiny"] == 4 and sorted(steps.values()) == [2, 3, 4]
    assert all(name.startswith("tiny-set-") for name in steps if name != "tiny")
    assert len(store.records()[0]) == 4, "random, which does not train, is one run for all of them"
    assert not any(plan.superseded for plan in store.plans())
    notes = {note for plan in store.plans() for note in plan.notes}
    assert notes == {"set by hand: training.steps=2", "set by hand: training.steps=3"}
    first, again = (load_grid(str(grid), sets) for sets in (["erm=1"][:0], ["training.steps=4"]))
    assert expand(first, {}).ids == expand(again, {}).ids


def test_the_other_commands_take_it_too(command: Any) -> None:
    said = command("plan", "quick", "--only", "two_moon/erm", "--set", "training.steps=10").stdout
    assert "10 runs in 1 cell, 100 updates" in said
    assert "--set" in command("submit", "--help").stdout and "--set" in command("estimate", "--help").stdout
