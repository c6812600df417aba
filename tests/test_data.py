"""What data may be: integers that stay integers, several tensors by name, several attributes, overlapping subsets."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spurbench.bench.checks.data_checks import warn_of_copies
from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.jobs import session
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.counts import by_group
from spurbench.bench.plugins.dataset import Data, Dataset, Inputs, Pgd, Split, Training
from spurbench.bench.plugins.registry import load_dataset, load_method
from spurbench.bench.records.metrics import value
from spurbench.bench.records.record import Summary
from spurbench.bench.records.run import Run
from spurbench.bench.records.selection import Selected, at_its_best
from spurbench.bench.store.predictions import load_predictions
from spurbench.bench.store.store import Store
from spurbench.bench.training.engine import Engine
from spurbench.bench.training.execution import Options
from spurbench.bench.training.replica import Replica, prepare

Command = Callable[..., Any]
TOKENS = '''
"""Tokens: the largest id there is says the class, another one the attribute; the rest is padding."""
import torch
from spurbench import Data, Dataset, Split, Training

class Tokens(Dataset):
    provides = frozenset({"groups"})
    training = Training(network="bag", lr=0.5, steps=40)
    def load(self, seed, build):
        torch.manual_seed(seed)
        splits = [self.split(n) for n in (90, 40, 50)]
        return Data(splits[0], dict(zip(("validation", "test"), splits[1:])), attributes=2), build(splits[0].x)
    def split(self, n):
        y, a = torch.arange(n) % 2, torch.arange(n) // 2 % 2
        ids = torch.stack([2**31 - 2 + y, a, torch.randint(9, (n,))], 1)
        return Split({"ids": ids, "mask": torch.tensor([True, True, False]).repeat(n, 1)}, y, a)
'''
BAG = '''
"""A bag of a few words."""
from typing import ClassVar
import torch
from torch import nn
from spurbench.bench.plugins.network import Network

class Bag(Network):
    takes: ClassVar[frozenset[str]] = frozenset({"dict"})
    def build(self, shape, outputs):
        assert shape == {"ids": (3,), "mask": (3,)}
        return Words(outputs)
    def head(self, module):
        return "head"

class Words(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.head = nn.Linear(3, outputs)
    def forward(self, x):
        assert not x["ids"].is_floating_point() and x["mask"].dtype == torch.bool
        known = x["ids"].unsqueeze(-1) == torch.tensor([2**31 - 1, 0, 1])
        return self.head((known & x["mask"].unsqueeze(-1)).to(self.head.weight).sum(1))
'''

PAGE = (Path(__file__).parents[1] / "docs" / "dataset.md").read_text()
SHAPES = PAGE.split("```python\n# shapes.py\n")[1].split("```")[0]
COMMENTS = '''
"""Comments: toxic or not; identities that are mentioned, none, one or several at once."""
import torch
from spurbench import Data, Dataset, Split, Training

class Comments(Dataset):
    provides = frozenset({"subsets"})
    headline = (("test", "worst_subset_accuracy"), ("test", "accuracy"))
    splits = ("validation", "test")
    training = Training(width=8, lr=0.1, steps=60)
    def load(self, seed, build):
        torch.manual_seed(seed)
        train, validation, test = self.split(900), self.split(300), self.split(300)
        return Data(train, {"validation": validation, "test": test}), build(train.x)
    def split(self, n):
        member = torch.rand(n, 3) < 0.2
        y = (torch.rand(n) < 0.2 + 0.5 * member[:, 0]).long()
        x = torch.cat([2.0 * y[:, None] - 1 + torch.randn(n, 1), 2.0 * member], 1)
        return Split(x, y, subsets=dict(zip(("male", "female", "muslim"), member.T, strict=True)))
'''


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[type[Dataset]]:
    (tmp_path / "bag.py").write_text(BAG.lstrip())
    registry.add_plugin(tmp_path / "bag.py")
    registry.add_plugin(added(tmp_path, "tokens", TOKENS))
    yield load_dataset("tokens")
    registry.forget_plugins()


def added(folder: Path, name: str, text: str) -> Path:
    """A plug-in file, of at most 15 lines without docstring and imports."""
    code = text.split('"""', 2)[-1]
    own = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(own) <= 15
    file = folder / f"{name}.py"
    file.write_text(text.lstrip())
    return file


def engine(dataset: Dataset, seeds: list[int], method: str = "erm", **changes: Any) -> Engine:
    chosen, training = load_method(method)(), Training(**dataset.training.flat() | changes)
    replicas = [prepare(dataset, chosen, training, seed) for seed in seeds]
    options = Options(micro_batch=32)
    return Engine(chosen, training, "float32", options, replicas)


def weights(engine: Engine, r: int) -> Tensor:
    return torch.cat([p.flatten() for p in engine.stacks[0].parameters_of(r).values()]).clone()


@pytest.mark.parametrize("changes", [{}, {"batch": 20}, {"batch": 20, "balanced": True}])
@pytest.mark.parametrize("stacked", [False, True])
def test_tokens_stay_integers_on_every_way(tokens: type[Dataset], changes: dict[str, Any], stacked: bool) -> None:
    alone = [engine(tokens(), [seed], **changes) for seed in (3, 4)]
    replicas = [prepare(tokens(), alone[0].method, alone[0].training, seed) for seed in (3, 4)]
    for precision in ("float32", "bf16"):
        options = Options(micro_batch=32)
        both = Engine(alone[0].method, alone[0].training, precision, options, copy.deepcopy(replicas), stacked=stacked)
        both.train()
        for r, one in enumerate(alone):
            one.train()
            assert torch.allclose(weights(both, r), weights(one, 0), atol=1e-5 if precision == "float32" else 0.02)
            test = both.replicas[r].data.tests["test"]
            assert ((both.model(r).score(test.x) > 0) == (test.y == 1)).all()


def test_a_network_is_given_no_inputs_that_it_cannot_take(tokens: type[Dataset]) -> None:
    with pytest.raises(
        UserError, match="^the network mlp takes inputs of the kind floats; these are of the kind dict$"
    ):
        engine(tokens(), [0], network="mlp")
    with pytest.raises(ValueError, match="Mixup mixes floats; these inputs are of the kind dict"):
        engine(tokens(), [0], "mixup").train()
    with pytest.raises(UserError, match="augment=flip changes pictures; these inputs are several tensors"):
        engine(tokens(), [0], batch=20, augment="flip")


def test_tokens_from_the_command_line(command: Command, tmp_path: Path) -> None:
    """Training, scoring, a base whose features are kept, and a checkpoint of each."""
    (tmp_path / "bag.py").write_text(BAG.lstrip())
    plugins = ("--plugin", added(tmp_path, "tokens", TOKENS), "--plugin", tmp_path / "bag.py")
    methods = [word for name in ("erm", "group_dro", "dfr") for word in ("--method", name)]
    store = tmp_path / "store"
    command("run", *plugins, "--dataset", "tokens", *methods, "--seeds", "0-1", "--store", store)
    for record in Store.open(store).records()[0]:
        assert record.done, record.cause
        assert record.splits["test"].correct == record.splits["test"].n == [13, 12, 13, 12]


class Rows(Dataset):
    """Whole numbers, which the dataset turns into floats itself."""

    training = Training(width=4, steps=3)

    def load(self, seed: int, build: Any) -> tuple[Data, nn.Module]:
        split = Split(torch.arange(24).view(12, 2), torch.arange(12) % 2)
        return Data(split, {"test": split}), build(split.x)

    def preprocess(self, x: Inputs) -> Inputs:
        assert isinstance(x, Tensor)
        return torch.cat([x / 24, x % 2], 1)


def test_the_dataset_owns_what_its_input_becomes() -> None:
    made = engine(Rows(), [0])
    assert made.replicas[0].networks[0].body[0].in_features == 4  # type: ignore[index, union-attr]
    given: list[Tensor] = []
    made.replicas[0].networks[0].register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    made.model(0).score(made.replicas[0].data.train.x[:1])
    assert torch.equal(given[0], torch.tensor([[0, 1 / 24, 0, 1]]))
    assert torch.equal(made.batches.micro_batches(0)[0][0].x[:1, :4], given[0])  # type: ignore[index]


def broken(x: Inputs, **changes: Any) -> Replica:
    """Rows with these inputs."""

    def load(self: Dataset, seed: int, build: Any) -> Any:
        return Data(Split(x, torch.arange(4) % 2), {}, **changes), nn.Linear(2, 1)

    return prepare(type("Rows", (Rows,), {"load": load})(), load_method("erm")(), Training(), 0)


def test_attacks_are_for_pixels() -> None:
    attacked = type("Rows", (Rows,), {"attacks": lambda self: {"pgd": Pgd()}})()
    with pytest.raises(BadData, match=r"'pgd' changes pixels; these inputs are a tensor \[12, 2\] of torch.int64"):
        prepare(attacked, load_method("erm")(), Training(), 0)


@pytest.mark.parametrize(
    ("x", "changes", "words"),
    [
        ({}, {}, "inputs are a dict of nothing; expected name → tensor"),
        ({"ids": [1, 2]}, {}, "inputs are a dict of a list; expected name → tensor"),
        ({"ids": torch.tensor(1)}, {}, "the input 'ids' is a single number"),
        ({"ids": torch.ones(4, 2), "mask": torch.ones(3, 2)}, {}, "3 inputs 'mask' for 4 examples"),
        ({"age": torch.tensor([1.0, 2.0, torch.nan, 3.0])}, {}, r"1 of 4 inputs 'age' .* \(1 NaN, 0 infinite\), the"),
        (
            {"ids": torch.ones(4, 2)},
            {"mean": (0.5,)},
            r"Data\(mean=\(0.5,\).*; inputs of the kind dict are not normalised",
        ),
        (torch.ones(4, 2).long(), {"std": (0.5,)}, "of the kind integers are not normalised"),
    ],
)
def test_inputs_by_name_that_are_not_right(x: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadData, match=words):
        broken(x, **changes)


def recorded(store: Path) -> dict[str, Summary]:
    """The record of each row's seed 0."""
    found = Store.open(store)
    by_id = {record.id: record for record in found.records()[0]}
    return {cell.label: by_id[cell.ids[0]] for plan in found.plans() for cell in plan.cells if not cell.na}


def test_groups_are_made_of_the_attributes_that_are_chosen(command: Command, tmp_path: Path) -> None:
    file, store = added(tmp_path, "shapes", SHAPES), tmp_path / "store"
    grid = """
seeds: 0
datasets:
  - dataset: shapes
    groups: [place, colour]
    methods: [erm, {method: group_dro, groups: [size]}, {method: lff, groups: {by: [colour, size, place]}}]
  - {dataset: shapes, methods: [{method: jtt, label: every}]}
"""
    (tmp_path / "grid.yaml").write_text(grid)
    command("run", tmp_path / "grid.yaml", "--plugin", file, "--store", store)
    rows = recorded(store)
    assert {label: record.dataset_options for label, record in rows.items()} == {
        "erm": {"groups": "colour,place"}, "group_dro": {"groups": "size"}, "lff": {}, "every": {}}  # fmt: skip
    assert {label: len(record.groups) for label, record in rows.items()} == {
        "erm": 27, "group_dro": 9, "lff": 81, "every": 81}  # fmt: skip
    assert rows["erm"].groups[:2] == ["y0 colour=red place=0", "y0 colour=red place=1"] and rows["erm"].attributes == 9
    assert rows["group_dro"].groups[3:5] == ["y1 size=0", "y1 size=1"]
    registry.add_plugin(file)
    train = load_dataset("shapes")().load(0, lambda x: nn.Identity())[0].train
    for label, names in (("erm", ("colour", "place")), ("group_dro", ("size",)), ("every", train.named)):
        of = [tuple(each) for each in torch.stack([train.y, *(train.named[name] for name in names)], 1).tolist()]
        counts = Counter(of)
        assert rows[label].splits["train"].n == [counts[each] for each in product(range(3), repeat=1 + len(names))]
        assert sum(rows[label].splits["test"].n) == 300


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{method: erm, groups: [colour, plaec]}", ":4: no named attribute of shapes 'plaec'; did you mean place?"),
        ("{method: erm, options: {groups: plaec}}", ":4: no named attribute of shapes 'plaec'; did you mean place?"),
        ("{method: erm, groups: [size], options: {groups: place}}", ":4: groups stand here and among the options"),
        ("{method: erm, groups: []}", ":4: by in groups: list should have at least 1 item"),
        ("{method: erm, groups: {training: {}}}", ":4: groups: give 'by', a list of named attributes, or 'from'"),
        ("{method: erm, groups: {by: [size], base: {}}}", ":4: base in groups is of a method that infers them"),
        ("{method: jtt, base: {groups: {by: [size]}}}", ":4: a base has its row's groups: only 'from' may differ"),
    ],
)
def test_groups_that_there_are_not(command: Command, tmp_path: Path, row: str, words: str) -> None:
    file = added(tmp_path, "shapes", SHAPES)
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"seeds: 0\ndatasets:\n  - dataset: shapes\n    methods: [{row}]\n")
    said = command("plan", grid, "--plugin", file, code=2).stderr
    assert words in said and said.count("\n") == 1


def test_groups_on_the_command_line(command: Command, tmp_path: Path) -> None:
    adhoc = ("plan", "--plugin", added(tmp_path, "shapes", SHAPES), "--dataset", "shapes", "--method", "erm", "--set")
    said = command(*adhoc, "shapes.groups=size,colr", code=2).stderr
    assert said.startswith(
        "spurbench: --set shapes.groups=size,colr: no named attribute of shapes 'colr'; did you mean co"
    )
    plans = [json.loads(command(*adhoc, f"shapes.groups={text}", "--json").stdout) for text in ("size,colour", '""')]
    assert [plan["cells"][0]["dataset_options"] for plan in plans] == [{"groups": "colour,size"}, {}]
    (tmp_path / "grid.yaml").write_text(
        "seeds: 0\ndatasets: [{dataset: shapes, methods: [{method: erm, groups: [size]}]}]"
    )
    said = command(*adhoc[:3], tmp_path / "grid.yaml", "--set", "shapes.groups=place", "--json").stdout
    assert json.loads(said)["cells"][0]["dataset_options"] == {"groups": "place"}


def test_worst_over_overlapping_subsets(command: Command, tmp_path: Path) -> None:
    file, store = added(tmp_path, "comments", COMMENTS), tmp_path / "store"
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "seeds: 0\nselection: validation_worst_subset\n"
        "datasets: [{dataset: comments, training: {evaluate: 20}, methods: [erm, random]}]\n"
    )
    command("run", grid, "--plugin", file, "--store", store)
    record = recorded(store)["erm"]
    kept = load_predictions(Store.open(store), record)
    registry.add_plugin(file)
    test = load_dataset("comments")().load(0, lambda x: nn.Identity())[0].tests["test"]
    right = (kept.logits["test"] > 0) == test.y.numpy()
    each = [right[(member & (test.y == y)).numpy()].mean() for member in test.subsets.values() for y in (0, 1)]
    assert value(record, ("test", "worst_subset_accuracy")) == pytest.approx(100 * min(each))
    assert value(record, ("test", "accuracy")) == pytest.approx(100 * right.mean())  # of the examples
    assert sum(record.splits["test:male"].n) == int(test.subsets["male"].sum())
    looks = {look.step: look.splits for look in record.looks} | {60: record.splits}
    worst = {step: min(min(by_group(c)) for name, c in splits.items() if name.startswith("validation:"))
             for step, splits in looks.items()}  # fmt: skip
    chosen = at_its_best(record, "validation_worst_subset")
    assert isinstance(chosen, Selected) and worst[chosen.chosen_step] == max(worst.values())
    guess = recorded(store)["random"]
    assert guess.splits["test:male"].correct == [n / 2 for n in record.splits["test:male"].n]


def test_rules_that_need_subsets_are_not_for_data_without(command: Command, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    search = (
        "search: {draws: 2, rule: validation_worst_subset, space: {training.lr: {low: 0.1, high: 1.0, scale: log}}}"
    )
    grid.write_text(f"seeds: 0\ndatasets: [{{dataset: waterbirds, methods: [{{method: erm, {search}}}]}}]\n")
    assert "rule validation_worst_subset needs subsets of validation" in " ".join(command("plan", grid).stdout.split())


ZERO = torch.zeros(4).long()
POINTS = Split(torch.ones(4, 2), torch.arange(4) % 2, named={"size": torch.tensor([0, 1, 1, 0])})
NAMED: Mapping[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "undeclared": ({}, {}, {"named": ()}, "load names the attributes size, the class none: write `named: ClassVar = "),
    "both": ({"attribute": ZERO}, {}, {}, "split 'train': has an attribute and named ones"),
    "other names": ({"named": {"sise": ZERO}}, {}, {}, "names the attributes sise, Data size"),
    "out of range": (
        {"named": {"size": ZERO + 5}},
        {},
        {},
        r"4 of 4 values of 'size' are not in 0..1, which Data\(named={'size': 2}\) allows; that of example 0 is 5",
    ),
    "no values": ({}, {"named": {"size": 0}}, {}, r"load gave Data\(named={'size': 0}\); expected"),
    "a value twice": ({}, {"named": {"size": ("a", "a")}}, {}, r"load gave Data\(named={'size': \('a', 'a'\)}\)"),
    "too many": ({}, {"named": {"size": 10_000}}, {}, "y × size are more than 10,000 groups"),
    "default": ({}, {}, {"grouped_by": ("siez",)}, "no named attribute to make groups of 'siez'; did you mean size?"),
    "subset": ({"subsets": {"male": ZERO}}, {}, {}, r"the subset 'male' is a tensor \[4\] of torch.int64; expected"),
    "a subset's name": ({"subsets": {"a/b": ZERO > 0}}, {}, {}, "a subset cannot be called 'a/b'"),
    "no subsets": ({}, {}, {"provides": frozenset({"subsets"})}, "provides subsets; the training examples have none"),
    "other subsets": (
        {},
        {"tests": {"test": replace(POINTS, subsets={"male": ZERO > 0})}},
        {},
        "'test': has the subsets male, training none",
    ),
    "a new label": (
        {"y": ZERO},
        {"tests": {"test": POINTS}},
        {},
        "'test': 2 of 4 examples have a label that training never has: 1",
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_attributes_and_subsets_that_are_not_right(kind: str) -> None:
    of_split, of_data, of_class, words = NAMED[kind]

    def load(self: Dataset, seed: int, build: Any) -> Any:
        return Data(replace(POINTS, **of_split), **{"tests": {}, "named": {"size": 2}} | of_data), nn.Linear(2, 1)

    dataset = type("Rows", (Rows,), {"load": load, "named": ("size",), **of_class})()
    with pytest.raises(BadData, match=words):
        prepare(dataset, load_method("erm")(), Training(), 0)


THREE = '''
"""Three: as many classes, two attributes, one environment, no validation split."""
import torch
from spurbench import Data, Dataset, Split, Training

class Three(Dataset):
    provides = frozenset({"groups", "environments"})
    classes = 3
    named = ("colour", "size")
    splits = ("test",)
    training = Training(width=8, lr=0.1, steps=4)
    def load(self, seed, build):
        torch.manual_seed(seed)
        train, test = self.split(60), self.split(30)
        return Data(train, {"test": test}, 3, environments=1, named={"colour": 3, "size": 2}), build(train.x)
    def split(self, n):
        y, named = torch.arange(n) % 3, {"colour": torch.randint(3, (n,)), "size": torch.randint(2, (n,))}
        return Split(torch.randn(n, 5) + y[:, None], y, None, torch.zeros(n).long(), named=named)
'''


def test_methods_take_three_classes_and_one_environment(command: Command, tmp_path: Path) -> None:
    file, store = added(tmp_path, "three", THREE), tmp_path / "store"
    known = registry.methods()
    chosen = {name for name, one in known.items() if one.trains and {"environments", "groups"} & one.needs}
    methods = sorted(chosen - {"lisa_cutmix"} | {"erm", "lff", "jtt", "spare"})  # which takes pictures
    words = [word for name in methods if "validation" not in str(known[name].needs) for word in ("--method", name)]
    command("run", "--plugin", file, "--dataset", "three", *words, "--set", "eiil.updates=5", "--seeds", 0,
            "--store", store)  # fmt: skip
    rows = recorded(store)
    assert len(rows) > 12 and {label: record.cause for label, record in rows.items() if record.cause} == {}
    assert all(len(record.groups) == 18 and "train_e1" not in record.splits for record in rows.values())
    registry.add_plugin(file)
    for name, weight in (("rex", "penalty_weight"), ("fishr", "penalty_weight"), ("coral", "gamma"), ("mmd", "gamma")):
        losses = []
        for size in (1.0, 1000.0):  # what penalises differences between environments is 0
            method = replace(load_method(name)(), **{weight: size} | ({"anneal": 0} if weight != "gamma" else {}))
            made = Engine(method, Training(width=8), "float32", Options(), [drawn("three", method)])
            losses.append(made.update().losses[0].item() * (size if weight != "gamma" else 1.0))
        assert losses[0] == pytest.approx(losses[1], rel=1e-4), name


def drawn(dataset: str, method: Any = None, **options: Any) -> Replica:
    return prepare(load_dataset(dataset)(**options), method or load_method("erm")(), Training(width=8), 5)


def test_a_share_of_each_environment_is_held_out() -> None:
    whole, part = (drawn("colored_mnist", train_size=400, held_out=share).data for share in (None, 0.2))
    again = drawn("colored_mnist", load_method("irm")(), train_size=400, held_out=0.2).data
    validation = part.tests["validation"]
    assert "validation" not in whole.tests and whole.tests["test"].x.equal(part.tests["test"].x)
    assert validation.environment.bincount().tolist() == [40, 40]
    assert part.train.environment.bincount().tolist() == [160, 160]
    rows = [{(bytes(x.numpy()), *of) for x, *of in zip(s.x, s.y.tolist(), s.attribute.tolist(), strict=True)}
            for s in (whole.train, part.train, validation)]  # fmt: skip
    assert rows[1] | rows[2] == rows[0] and not rows[1] & rows[2]
    assert again.train.x.equal(part.train.x) and again.tests["validation"].y.equal(validation.y)
    assert part.train.attribute.tolist() == sorted(part.train.attribute.tolist()), "in the dataset's order"
    with pytest.raises(BadData, match="seed 5: held_out=0.001 of 200 training examples is 0: change it"):
        drawn("colored_mnist", train_size=400, held_out=0.001)


def test_training_domain_validation_chooses_a_step(command: Command, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "seeds: 0\nselection: validation_accuracy\ndatasets:\n  - dataset: colored_mnist\n"
        "    options: {train_size: 300}\n    training: {width: 8, steps: 8, evaluate: 2, lr: 0.01}\n"
        "    methods:\n      - {method: erm, options: {held_out: 0.2}}\n      - {method: irm, label: without}\n"
    )
    said = " ".join(command("plan", grid).stdout.split())
    assert "n/a: rule validation_accuracy needs the split validation" in said
    assert "no rule can choose on validation, colored_mnist has no such split: --set colored_mnist.held_out=0.2" in said
    command("run", grid, "--store", tmp_path / "store")
    grid.write_text(grid.read_text() + "      - {method: llr, options: {held_out: 0.2}}\n")
    assert "starts from erm, step 8" in " ".join(command("plan", grid).stdout.split()), "which needs validation"
    record = recorded(tmp_path / "store")["erm"]
    assert record.dataset_options == {"train_size": 300, "held_out": 0.2}
    assert sum(record.splits["validation"].n) == 60 and sum(record.splits["train_e0"].n) == 120
    assert isinstance(at_its_best(record, "validation_accuracy"), Selected)


def test_what_cannot_be_held_out(command: Command, tmp_path: Path) -> None:
    plan = ("plan", "--method", "erm", "--seeds", 0, "--dataset")
    for dataset, share, words in (
        ("dominoes", 0.2, "dominoes has a split validation of its own: leave held_out out"),
        ("waterbirds", 0.2, "waterbirds has a split validation of its own: leave held_out out"),
        ("two_moon", 1, "held_out of two_moon must lie in 0..0.9, not 1"),
    ):
        said = command(*plan, dataset, "--set", f"{dataset}.held_out={share}", code=2).stderr
        assert words in said and said.count("\n") == 1
    registry.add_plugin(added(tmp_path, "shapes", SHAPES))
    with pytest.raises(BadData, match="held_out=0.2, but load gives a split 'validation' already: leave it out"):
        drawn("shapes", held_out=0.2)
    registry.forget_plugins()
    (tmp_path / "taken.py").write_text(SHAPES.replace("    classes = 3\n", "    groups: int = 3\n", 1))
    with pytest.raises(UserError, match="field 'groups' is an option of every dataset already: choose another name"):
        registry.add_plugin(tmp_path / "taken.py")


def test_shipped_datasets_say_their_splits_before_their_data_are_read() -> None:
    """All but those of a user's own, so that a grid can be refused with its line."""
    assert {name for name, info in registry.datasets().items() if info.splits is None} == {
        "own_features", "own_pictures", "own_table", "own_text",
    }  # fmt: skip


def test_copies_of_training_examples_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    known = type("Rows", (Rows,), {"keep_duplicates": True})()
    data = prepare(Rows(), load_method("erm")(), Training(), 0).data
    said = "12 of 12 examples of test have the inputs of a training example"
    assert (warn_of_copies(data, Rows()), warn_of_copies(data, known)) == (said, None)
    other = replace(data, tests={"test": replace(data.train, x=data.train.x + 100)})
    assert warn_of_copies(other, Rows()) is None
    by_name = replace(data.train, x={"ids": data.train.x, "mask": data.train.x > 3})
    half = replace(by_name, x=by_name.x | {"mask": data.train.x > 11})
    assert "8 of 12 examples of half" in str(warn_of_copies(replace(data, train=by_name, tests={"half": half}), Rows()))
    for _ in range(2):
        session.warn_once(Run("rows", {}, 1, "erm", {}, {}, "float32", 3), data, Rows())
    assert capsys.readouterr().err == f"rows, seed 3: {said}\n"
