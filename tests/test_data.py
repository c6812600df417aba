"""What data may be: integers that stay integers, several tensors by name, several attributes, overlapping subsets."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data, Dataset, Inputs, Split, Training
from spurbench.bench.plugins.registry import load_dataset, load_method
from spurbench.bench.training.engine import Engine
from spurbench.bench.training.execution import Options
from spurbench.bench.training.replica import Replica, prepare

LARGEST = 2**31 - 1  # as a float32 it is another number
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
        return self.head((known & x["mask"].unsqueeze(-1)).float().sum(1))
'''


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[type[Dataset]]:
    for name, text in (("bag", BAG), ("tokens", TOKENS)):
        (tmp_path / f"{name}.py").write_text(text.lstrip())
        registry.add_plugin(tmp_path / f"{name}.py")
    yield load_dataset("tokens")
    registry.forget_plugins()


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
    with pytest.raises(UserError, match="^the network mlp takes floats, not dict$"):
        engine(tokens(), [0], network="mlp")
    with pytest.raises(ValueError, match="Mixup mixes inputs, and these are dict, not floats"):
        engine(tokens(), [0], "mixup").train()
    with pytest.raises(UserError, match="augment=flip changes pictures; these inputs are several tensors"):
        engine(tokens(), [0], batch=20, augment="flip")


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
    assert torch.equal(made.batches.micro_batches(0)[0][0].x[:1, -4:][:, 1:2], torch.tensor([[1 / 24]]))  # type: ignore


def broken(x: Inputs, **changes: Any) -> Replica:
    """Rows with these inputs."""

    def load(self: Dataset, seed: int, build: Any) -> Any:
        return Data(Split(x, torch.arange(4) % 2), {}, **changes), nn.Linear(2, 1)

    return prepare(type("Rows", (Rows,), {"load": load})(), load_method("erm")(), Training(), 0)


@pytest.mark.parametrize(
    ("x", "changes", "words"),
    [
        ({}, {}, "inputs are a dict of nothing; expected name → tensor"),
        ({"ids": [1, 2]}, {}, "inputs are a dict of a list; expected name → tensor"),
        ({"ids": torch.tensor(1)}, {}, "the input 'ids' is a single number"),
        ({"ids": torch.ones(4, 2), "mask": torch.ones(3, 2)}, {}, "3 inputs 'mask' for 4 examples"),
        ({"age": torch.tensor([1.0, 2.0, torch.nan, 3.0])}, {}, r"1 of 4 inputs 'age' .* \(1 NaN, 0 infinite\), the"),
        ({"ids": torch.ones(4, 2)}, {"mean": (0.5,)}, r"Data\(mean=\(0.5,\).*; dict are not normalised"),
        (torch.ones(4, 2).long(), {"std": (0.5,)}, "integers are not normalised"),
    ],
)
def test_inputs_by_name_that_are_not_right(x: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadData, match=words):
        broken(x, **changes)
