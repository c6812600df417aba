"""A selection rule is one file, of ours or of a user; without the file a plan that names it says so in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_counts, make_plan, make_record

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugin_files.discovery import FOLDERS
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.rule import Rule
from spurbench.bench.records.parsing import Unfit, parse_plan, write_plan
from spurbench.bench.records.plan import Choice
from spurbench.bench.records.selection import at_its_best, choice_of
from spurbench.bench.store.store import Store
from tests.test_leaderboard import cell
from tests.test_selection import chosen, looked_at

RULE = '''"""The lowest loss on validation, equal ones parted by how many are right.

Uses: the labels of validation.
"""
from spurbench.bench.plugins.rule import Rule, lower_loss

def many_right(each):
    return sum(sum(counts.correct) for counts in each)

class Lowest(Rule):
    text = "loss on validation"
    splits = ("validation",)
    criteria = (lower_loss, many_right)
    uses = ("validation labels",)
'''
OURS = {  # name → text, criteria, uses, oracle: they stand in plans that were written
    "none": ("hyper-parameters as given, last step scored", [], (), False),
    "test_accuracy": ("test accuracy (test-set oracle)", ["average_accuracy", "lower_loss"], ("test labels",), True),
    "validation_accuracy": (
        "validation accuracy", ["average_accuracy", "lower_loss"], ("validation labels",), False,
    ),
    "validation_worst_group": (
        "worst-group accuracy on validation", ["worst_group", "average_accuracy", "lower_loss"],
        ("validation groups",), False,
    ),
    "validation_unbiased": (
        "unbiased accuracy on validation", ["mean_over_groups", "average_accuracy", "lower_loss"],
        ("validation groups",), False,
    ),
    "validation_worst_subset": (
        "worst-subset accuracy on validation", ["worst_group", "average_accuracy", "lower_loss"],
        ("validation labels", "validation subsets"), False,
    ),
    "validation_worst_class": (
        "worst-class accuracy on validation", ["worst_group", "average_accuracy", "lower_loss"],
        ("validation labels",), False,
    ),
    "validation_inferred_worst_group": (
        "worst-group accuracy on validation, with inferred groups", ["worst_group", "average_accuracy", "lower_loss"],
        ("validation labels",), False,
    ),
    "train_accuracy": ("training accuracy", ["average_accuracy", "lower_loss"], ("training labels",), False),
    "worst_environment": (
        "the smallest accuracy over training environments and test (test-set oracle)",
        ["least_accuracy", "average_accuracy", "lower_loss"], ("training environments", "test labels"), True,
    ),
    "worst_group": (
        "worst-group accuracy on test (test-set oracle)", ["worst_group", "average_accuracy", "lower_loss"],
        ("test groups",), True,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    registry.forget_plugins()


@pytest.fixture
def lowest(tmp_path: Path) -> Path:
    file = tmp_path / "lowest.py"
    file.write_text(RULE)
    return file


def test_ours_are_what_plans_say_they_are() -> None:
    each = {name: registry.rule(name) for name in registry.rules()}
    found = {n: (r.text, [one.__name__ for one in r.criteria], r.uses, r.oracle) for n, r in each.items()}
    assert found == OURS and choice_of("worst_group") == Choice("worst_group", True, OURS["worst_group"][0])
    assert each["worst_group"].refined == "average accuracy, then lower loss"


@pytest.mark.parametrize(
    ("splits", "ties_on", "oracle"),
    [(("validation:*",), ("train",), False), (("inferred_validation",), (), False), (("grey_digit",), (), True),
     (("validation",), ("test:rare",), True), (("*",), (), True)],
)  # fmt: skip
def test_a_rule_that_looks_at_any_test_set_is_an_oracle(
    splits: tuple[str, ...], ties_on: tuple[str, ...], oracle: bool
) -> None:
    assert type("Mine", (Rule,), {"splits": splits, "ties_on": ties_on})().oracle == oracle


def test_ours_are_read_as_they_are_imported() -> None:
    for name, info in registry.plugins("rule").items():
        assert info.problem is None and info.summary and info.sections["Uses"], name
        rule = registry.rule(name)
        assert info.facts.get("text") == rule.text
        assert (info.facts.get("splits", ()), info.facts.get("uses", ())) == (rule.splits, rule.uses)
    assert {one.stem for one in FOLDERS["rule"].glob("[a-z]*.py")} == set(registry.rules())


def test_a_tie_between_worst_subsets_is_broken_on_the_whole_split() -> None:
    """As of every other rule: not by their sum, in which an example counts once for each subset that it is in."""
    subsets = {"validation:one": make_counts(50, 90), "validation:other": make_counts(60, 90)}
    higher = {"validation": make_counts(80, 80), **subsets}
    lower = {"validation": make_counts(70, 80), **subsets, "validation:other": make_counts(90, 90)}
    rule = registry.rule("validation_worst_subset")
    assert rule.scores(higher) == (0.5, 0.8, -0.005) and rule.scores(lower) == (0.5, 0.75, -0.005)
    assert rule.scores(subsets) is None and rule.lacking(["validation:one"]) == ["validation"]


def test_a_users_rule_chooses_the_step(lowest: Path) -> None:
    assert at_its_best(looked_at(), "lowest") == looked_at(), "one that is not known chooses nothing"
    registry.add_plugin(lowest)
    one = looked_at()
    assert chosen(one, "lowest").chosen_step == 200, "all losses are equal, most are right at 200"
    one.looks[0].splits["validation"] = make_counts(80, 70, loss=0.5)
    assert chosen(one, "lowest").chosen_step == 100
    assert registry.rule("lowest").refined == "many right"


def test_a_plan_with_a_rule_that_is_not_known_says_so_in_one_line(lowest: Path, command: Any, tmp_path: Path) -> None:
    registry.add_plugin(lowest)
    one = looked_at()
    rule = choice_of("lowest")
    assert rule == Choice("lowest", False, "loss on validation")
    store = Store.open(tmp_path / "s", create=True)
    planned = make_plan(grid="g", cells=[cell("erm", [0], training=one.training, selection=rule)])
    store.write_plan(planned)
    store.write_record(make_record(**{**one.to_dict(), "digest": ""}))
    text = write_plan(planned)
    registry.forget_plugins()
    with pytest.raises(Unfit, match=r"cell 1: its rule is 'lowest', which is not known; .*there are: none, .*--plugin"):
        parse_plan(text)
    for given, rule_and_steps in (((), ("unknown", [1000])), (("--plugin", lowest), ("lowest", [200]))):
        rows = json.loads(command("leaderboard", tmp_path / "s", "--format", "json", *given).stdout)
        (row,) = (row for row in rows if (row["split"], row["metric"]) == ("test", "accuracy"))
        assert (row["selection_rule"], row["steps"]) == rule_and_steps


def test_the_nearest_rule_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rule 'worst_gruop'; did you mean worst_group?"):
        registry.rule("worst_gruop")
    grid = tmp_path / "g.yaml"
    grid.write_text("selection: lowst\nseeds: 0\ndatasets: [{dataset: two_moon, methods: [erm]}]\n")
    from spurbench.bench.grid.load import load_grid

    (tmp_path / "lowest.py").write_text(RULE)
    registry.add_plugin(tmp_path / "lowest.py")
    with pytest.raises(UserError, match="no selection rule 'lowst'; did you mean lowest?"):
        load_grid(str(grid))
    grid.write_text(grid.read_text().replace("lowst", "lowest"))
    assert load_grid(str(grid)).selection.text == "loss on validation"


def test_a_rule_that_does_not_import_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(RULE + "raise RuntimeError('first')\n")
    registry.add_plugin(tmp_path / "late.py")
    with pytest.raises(UserError, match="rule 'late' does not import: RuntimeError: first"):
        registry.rule("late")
