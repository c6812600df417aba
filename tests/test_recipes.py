"""Recipes: published settings beside a dataset, what takes them, and that the shipped grids are what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.grid.ad_hoc import adhoc_grid
from spurbench.bench.grid.cells import Grid
from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid, shipped_grids
from spurbench.bench.grid.recipes import recipes_of
from spurbench.bench.plugins import registry
from spurbench.bench.records.plan_merge import merge_plans
from spurbench.bench.store.store import Store

RUNS = {  # grid → number of runs, and a hash of their ids in order: a change here is a change of what was published
    "adult": (34, "4deec3493014e162"),
    "celeba": (90, "691482a84928a9ee"),
    "celeba_twin": (48, "6703599fcb8e06ce"),
    "celeba_twin_methods": (148, "d39a5f8e5e665a97"),
    "colored_mnist": (50, "70e4e5eb6cbcb7e7"),
    "cifar10": (40, "935ec583d5a15b57"),
    "cifar2": (7, "a5a847b8d9224fe0"),
    "corrupted_cifar10_features": (34, "408440e39c410909"),
    "dominoes": (108, "0c3c484c00e61eb1"),
    "dominoes_features": (58, "6049e0b855a5eabc"),
    "paper": (328, "09e9a9609b8a4926"),
    "quick": (47, "54782a371ff90a8a"),
    "trial": (4, "7c3385d1494fd6e8"),
}
DATASET = '''
"""Points of a plane.

Source: none.
Licence: none.
"""
from dataclasses import dataclass
from typing import ClassVar
from spurbench.bench.plugins.dataset import Dataset, Training

@dataclass(frozen=True)
class Plane(Dataset):
    training: ClassVar[Training] = Training(width=7, optimizer="sgd", momentum=0.9, steps=30)

    def load(self, seed, build):
        raise NotImplementedError
'''
RECIPES = """\
source: Doe 2020, Table 9
seeds: 3-5
selection: test_accuracy
training: {lr: 0.5}
recipes:
  - {method: sd, published: sd, hyper_parameters: {coef: 0.3}, training: {steps: 77}}
  - {method: sd, name: sd as in the text, source: Doe 2020, hyper_parameters: {coef: 0.4}}
  - erm
"""


@pytest.fixture
def plane(tmp_path: Path) -> Any:
    """A dataset of a user's with recipes beside it; gives what makes a grid of a text of one."""
    (tmp_path / "plane.py").write_text(DATASET)
    (tmp_path / "plane.recipes.yaml").write_text(RECIPES)
    registry.add_plugin(tmp_path / "plane.py")

    def grid(methods: str, block: str = "") -> Grid:
        (tmp_path / "g.yaml").write_text(f"datasets:\n  - dataset: plane\n{block}    methods: [{methods}]\n")
        return load_grid(str(tmp_path / "g.yaml"))

    yield grid
    registry.forget_plugins()


@pytest.mark.parametrize("grid", shipped_grids())
def test_the_runs_of_the_shipped_grids_are_the_same(grid: str) -> None:
    plan = expand(load_grid(grid), {})
    assert (len(plan.ids), fingerprint(plan.ids)[:16]) == RUNS[grid]


def test_every_shipped_recipe_is_of_a_dataset_and_every_word_of_it_counts() -> None:
    files = (Path(__file__).parent.parent / "datasets").glob("*.recipes.yaml")
    datasets = [file.name.removesuffix(".recipes.yaml") for file in files]
    assert len(datasets) > 5
    for dataset in datasets:
        info = registry.dataset_info(dataset)
        for recipe in recipes_of(info).by_name.values():
            if recipe.name != recipe.method:
                continue
            (cell,) = adhoc_grid(dataset, [recipe.method]).cells
            assert (cell.source, cell.published) == (f"published: {recipe.source}", recipe.published)
            for place in ("hyper_parameters", "training"):
                assert getattr(cell, place).keys() >= recipe.values[place].keys(), (dataset, recipe.name)
            assert not cell.na


def test_an_entry_that_gives_no_settings_has_the_published_ones(plane: Any) -> None:
    sd, lff = plane("sd, lff").cells
    assert (sd.hyper_parameters["coef"], sd.hyper_parameters["delay"]) == (0.3, 0)
    assert (sd.training["lr"], sd.training["steps"], sd.training["width"]) == (0.5, 77, 7)
    assert (sd.published, sd.selection.rule, sd.seeds) == ("sd", "test_accuracy", (3, 4, 5))
    assert sd.source == "published: Doe 2020, Table 9"
    assert (lff.training["lr"], lff.training["steps"], lff.source) == (0.01, 30, "defaults")
    assert (lff.published, lff.selection.rule, lff.seeds) == (None, "none", (3, 4, 5))


def test_one_that_gives_some_has_those_and_defaults_unless_it_names_a_recipe(plane: Any) -> None:
    (cell,) = plane("{method: sd, training: {lr: 0.25}}").cells
    assert (cell.hyper_parameters["coef"], cell.training["steps"]) == (0.01, 30)
    assert cell.source == "defaults, but for training.lr"
    (cell,) = plane("sd", "    training: {lr: 0.25}\n").cells
    assert cell.training["steps"] == 30
    (cell,) = plane("{method: sd, recipe: defaults}").cells
    assert (cell.training["steps"], cell.source) == (30, "defaults")
    (cell,) = plane("{method: sd, recipe: sd, training: {lr: 0.25}, hyper_parameters: {delay: 3}}").cells
    assert (cell.hyper_parameters["coef"], cell.training["steps"], cell.training["lr"]) == (0.3, 77, 0.25)
    assert cell.source == "published: Doe 2020, Table 9, but for delay, training.lr"
    assert (cell.published, cell.selection.rule) == (None, "none"), "changed: neither published nor chosen by anyone"
    (cell,) = plane("{method: sd, recipe: sd as in the text}").cells
    assert (cell.hyper_parameters["coef"], cell.source, cell.published) == (0.4, "published: Doe 2020", None)


def test_a_recipe_is_a_default_that_gives_way(plane: Any) -> None:
    """Its momentum, which SGD alone has, is no mistake beside another optimizer."""
    (cell,) = adhoc_grid("plane", ["sd"], sets=["training.optimizer=adam"]).cells
    assert cell.training["optimizer"] == "adam" and "momentum" not in cell.training and cell.training["lr"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPES.replace("coef: 0.3", "coeff: 0.3"), ":6: no hyper-parameter of sd 'coeff'; did you mean coef"),
        (RECIPES.replace("steps: 77", "steps: [7, 8]"), "recipes.yaml:6: steps: a recipe has one value of it"),
        (RECIPES.replace("steps: 77", "steps: -7"), "recipes.yaml:6: steps of training must lie in 0..1e+09, not -7"),
        (RECIPES.replace("seeds:", "sedes:"), ":2: unknown key 'sedes' in the recipes; did you mean seeds?"),
        (RECIPES.replace("published: sd", "publish: sd"), ":6: unknown key 'publish' in recipes; did you mean"),
        (RECIPES.replace("name: sd as", "name: sd #"), "recipes.yaml:"),
        (RECIPES.replace("  - erm", "  - sd"), "recipes.yaml:8: another recipe 'sd'; give it a 'name:'"),
        ("[]", "plane.recipes.yaml:1: expected keys such as 'recipes:'"),
    ],
)  # fmt: skip
def test_a_mistake_in_recipes_names_their_file_and_line(plane: Any, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plane.recipes.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        plane("sd")
    assert message in str(error.value) and "plane.recipes.yaml:" in str(error.value)


def test_a_recipe_that_there_is_not(plane: Any) -> None:
    with pytest.raises(UserError) as error:
        plane("{method: sd, recipe: sd as in text}")
    assert "g.yaml:3: no recipe of sd on plane 'sd as in text'; did you mean sd as in the text?" in str(error.value)
    with pytest.raises(UserError, match="no recipe of lff on plane 'sd'; there are: defaults"):
        plane("{method: lff, recipe: sd}")


def test_a_dataset_by_itself_runs_as_published() -> None:
    """Also one that the grid of the paper does not have."""
    (cell,) = adhoc_grid("cifar2", ["sd"]).cells
    same, *_ = (c for c in load_grid("cifar2").cells if c.label == "sd")
    assert (cell.hyper_parameters, cell.training, cell.seeds) == (same.hyper_parameters, same.training, same.seeds)
    (cell,) = adhoc_grid("celeba", ["group_dro"], sets=["training.lr=1e-5"]).cells
    assert cell.training["balanced"] is True and cell.selection.rule == "validation_worst_group", "it chooses the step"


def test_what_is_set_by_hand_stands_on_top_of_the_recipe_of_a_base() -> None:
    """As it does in a grid: setting a learning rate leaves the run that a row starts from its published network."""
    for sets, lr in (([], 0.1), (["training.lr=0.2"], 0.2)):
        for cell in adhoc_grid("cifar100", ["jtt", "afr"], "0", sets).cells:
            training = (cell.base or {})["training"]
            assert (training["network"], training["lr"]) == ("vgg15_bn", lr)


def test_plan_and_run_say_where_the_settings_are_from(command: Any, tmp_path: Path) -> None:
    said = command("plan", "--dataset", "cifar2", "--method", "sd", "--method", "lff").stdout
    assert "settings of cifar2/sd: published: Pezeshki et al. 2021, Figure 2\n" in said
    assert "settings of cifar2/lff: defaults\n" in said
    assert "settings of colored_mnist/erm, colored_mnist/sd, " in command("plan", "paper").stdout
    cell = ["--dataset", "two_moon", "--method", "sd", "--seeds", "0", "--set", "training.steps=3"]
    said = command("run", *cell, "--store", tmp_path / "s").stderr
    assert "settings of two_moon/sd: published: Pezeshki et al. 2021, Figure 6, but for training.steps" in said
    (plan,) = Store.open(tmp_path / "s").plans()
    assert plan.cells[0].source == "published: Pezeshki et al. 2021, Figure 6, but for training.steps"


def test_a_plan_that_does_not_say_where_its_settings_are_from_is_of_the_same_grid() -> None:
    plan = expand(load_grid("quick"), {})
    silent = plan.with_(cells=[type(cell)(**{n: getattr(cell, n) for n in cell.__struct_fields__} | {"source": None})
                               for cell in plan.cells])  # fmt: skip
    for pair in ([plan, silent], [silent, plan]):
        merged, renamed = merge_plans((one, "here") for one in pair)
        assert len(merged) == 1 and not renamed


def test_draws_on_the_command_line_are_a_search(command: Any, tmp_path: Path) -> None:
    sd, erm = adhoc_grid("colored_mnist", ["sd", "erm"], "3-5", draws=8).cells
    assert sd.search and len(sd.search.draws) == 8 and sd.search.seeds == (3,) and sd.seeds == (3, 4, 5)
    assert (sd.search.rule, sd.selection.rule, sd.published) == ("worst_environment", "worst_environment", None)
    assert erm.search is None, "it declares no range"
    assert {draw.training["steps"] for draw in sd.search.draws} == {2000}, "with the published training"
    (given,) = adhoc_grid("colored_mnist", ["sd"], draws=2, rule="test_accuracy", sets=["sd.delay=7"]).cells
    assert given.search and (given.search.rule, given.search.seeds) == ("test_accuracy", (1234,))
    assert {draw.hyper_parameters["delay"] for draw in given.search.draws} == {7}
    in_a_grid = tmp_path / "g.yaml"
    in_a_grid.write_text(
        "datasets:\n  - {dataset: colored_mnist, seeds: 3-5, methods: "
        "[{method: sd, search: {draws: 8, seeds: 3, rule: worst_environment}}]}\n"
    )
    (same,) = load_grid(str(in_a_grid)).cells
    assert same == sd
    rules = {name: adhoc_grid(name, [method], draws=2).cells[0].search for name, method in
             (("two_moon", "sd"), ("celeba", "group_dro"), ("cifar2", "sd"), ("waterbirds", "lff"))}  # fmt: skip
    assert {name: search and search.rule for name, search in rules.items()} == {
        "two_moon": "train_accuracy", "celeba": "validation_worst_group", "cifar2": "test_accuracy",
        "waterbirds": "validation_worst_group",
    }  # fmt: skip
    store = tmp_path / "s"
    cell = ["--dataset", "two_moon", "--method", "sd", "--seeds", "0-1", "--set", "training.steps=3", "--draws", "2"]
    said = command("run", *cell, "--store", store).stderr
    assert "searched: 2 random draws × 1 seed; chosen by training accuracy" in said
    (plan,) = Store.open(store).plans()
    assert plan.cells[0].search and plan.cells[0].search.chosen is not None and len(plan.cells[0].ids) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "erm", "--draws", "2"], "--draws 2: nothing to search: erm declares no range"),
        (["--method", "sd", "--draws", "2", "--rule", "tset_accuracy"],
         "--rule tset_accuracy: no selection rule 'tset_accuracy'; did you mean test_accuracy?"),
        (["--method", "sd", "--draws", "2", "--rule", "none"], "--draws 2: a search needs a selection rule; give"),
        (["--method", "sd", "--draws", "100001"], "--draws 100001: draws in search"),
        (["--method", "sd", "--rule", "test_accuracy"], "--rule test_accuracy is for a search"),
        (["--method", "sd", "--draws", "2", "--set", "sd.coef=1", "--set", "sd.delay=1", "--set", "sd.rescale=true"],
         "--draws 2: nothing to search"),
        (["--method", "sd", "--draws", "2", "--seeds", "x"], "seeds must be whole numbers"),
        (["quick", "--draws", "2"], "give either a grid or"),
    ],
)  # fmt: skip
def test_mistakes_about_draws(command: Any, arguments: list[str], words: str) -> None:
    cell = [] if "quick" in arguments else ["--dataset", "colored_mnist"]
    said = command("plan", *cell, *arguments, code=2).stderr
    assert words in said and said.count("\n") == 1
