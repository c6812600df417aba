"""What load gives is checked once; a broken promise is one line: dataset, seed, split, what and how many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from spurbench.bench.plugins.dataset import Attack, BadData, Build, Data, Dataset, Pgd, Split, Training
from spurbench.bench.plugins.registry import load_method
from spurbench.bench.training.replica import prepare

ERM = load_method("erm")()
NAN = float("nan")


def split(n: int = 8, classes: int = 2, **changes: Any) -> Split:
    """`n` points of the plane; every pair of label and attribute in turn."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(n))
    place = torch.arange(n)
    return replace(Split(x, place % classes, place // classes % 2, place % 2), **changes)


def data(**changes: Any) -> Data:
    return replace(Data(split(), {"test": split(4)}, attributes=2, environments=2), **changes)


@dataclass(frozen=True)
class Plane(Dataset):
    provides: ClassVar[frozenset[str]] = frozenset({"groups", "environments"})
    given: ClassVar[Any] = None  # what load gives

    def load(self, seed: int, build: Build) -> Any:
        return (self.given, build(self.given.train.x)) if isinstance(self.given, Data) else self.given


def prepared(given: Any, method: Any = ERM, **members: Any) -> Any:
    dataset = type("Plane", (Plane,), {"given": given, "__module__": "spurbench_plugin_plane", **members})()
    return prepare(dataset, method, Training(width=4), 7)


def test_what_keeps_them_is_left_as_it_is() -> None:
    given = data()
    assert prepared(given).data is given
    bytes_ = Split(torch.full((4, 3, 5, 5), 255, dtype=torch.uint8), torch.arange(4) % 2)
    plain = Data(bytes_, {"held_out.v2-b": bytes_}, mean=(0.5, 0.4, 0.3), std=(1.0, 1.0, 2.0))
    assert prepared(plain, provides=frozenset()).data is plain


def test_the_class_says_how_many_classes_there_are() -> None:
    """The network is made before the data are there; so the one number is the class's, and the data must agree."""
    three = data(train=split(12, 3), tests={"test": split(6, 3)}, classes=3)
    seed = prepared(three, classes=3)
    assert seed.networks[0](three.train.x).shape == (12, 3)
    assert prepared(data()).networks[0](three.train.x).shape == (12,)
    wrong = r"^plane, seed 7: load gave Data\(classes=3\), the class says 2: write `classes: ClassVar\[int\] = 3` into"
    with pytest.raises(BadData, match=wrong):
        prepared(three)
    with pytest.raises(BadData, match=r"load gave Data\(classes=2\), the class says 3"):
        prepared(data(), classes=3)
    for unusable in (("cat", "dog"), 1, True, 3.0):
        with pytest.raises(BadData, match="^plane: classes is .*; expected how many there are, 2 or more"):
            prepared(data(), classes=unusable)


LABELS = torch.tensor([0, 1, 7, 1, 0, -1, 0, 1])
SPLITS: Mapping[str, tuple[dict[str, Any], str]] = {
    "labels out of range": (
        {"y": LABELS},
        r"2 of 8 labels are not in 0..1, which Data\(classes=2\) allows; that of example 2 is 7",
    ),
    "attribute out of range": ({"attribute": LABELS}, r"2 of 8 attributes .* Data\(attributes=2\) .* example 2 is 7"),
    "environment out of range": ({"environment": LABELS.clamp(max=1)}, r"1 of 8 environments .* example 5 is -1"),
    "labels of another type": ({"y": LABELS.float()}, r"labels are a tensor \[8\] of torch.float32; expected .*int64"),
    "true or false as labels": ({"y": LABELS > 0}, r"labels are a tensor \[8\] of torch.bool"),
    "labels as a list": ({"y": [0] * 8}, r"labels are a list; expected a tensor \[n\] of torch.int64"),
    "attribute of another type": ({"attribute": LABELS.int()}, "attributes are a tensor .* of torch.int32"),
    "one-hot labels": ({"y": torch.eye(2).long()[:1].expand(8, 2)}, r"labels are a tensor \[8, 2\]"),
    "fewer labels": ({"y": torch.zeros(7, dtype=torch.long)}, "7 labels for 8 examples"),
    "more attributes": ({"attribute": torch.zeros(9, dtype=torch.long)}, "9 attributes for 8 examples"),
    "nothing": ({"x": torch.empty(0, 2), "y": LABELS[:0], "attribute": LABELS[:0]}, "has no examples"),
    "not finite": ({"x": torch.tensor([0.0, NAN] * 8).view(8, 2)}, "8 of 8 inputs .* not finite"),
    "infinite once": (
        {"x": torch.ones(8, 2) / (torch.arange(8)[:, None] - 5)},
        r"1 of 8 inputs .* \(0 NaN, 2 infinite\), the first is example 5",
    ),
    "too large for float32": ({"x": torch.full((8, 2), 1e200, dtype=torch.float64)}, "8 of 8 inputs"),
    "complex": ({"x": torch.ones(8, 2, dtype=torch.complex64)}, "inputs are of torch.complex64; expected floats,"),
    "flat": ({"x": torch.ones(8)}, r"inputs are a tensor \[8\] of torch.float32; expected a tensor \[n, ...\]"),
    "none": ({"x": None}, r"inputs are None; expected a tensor"),
}  # fmt: skip


@pytest.mark.parametrize("place", ["train", "test"])
@pytest.mark.parametrize("kind", SPLITS)
def test_a_split_that_is_not_right(kind: str, place: str) -> None:
    changes, words = SPLITS[kind]
    bad = split(**changes)
    given = data(train=bad) if place == "train" else data(tests={"first": split(4), "test": bad})
    network = nn.Linear(2, 1)
    with pytest.raises(BadData, match=f"^plane, seed 7: split '{place}': .*{words}") as error:
        prepared((given, network))
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_splits_that_do_not_belong_together() -> None:
    for changes, words in (
        ({"x": torch.ones(8, 3)}, r"split 'test': inputs have the shape \[3\] each, those of training \[2\]"),
        ({"x": torch.ones(8, 2).long()}, "split 'test': inputs are of torch.int64, those of training of torch.float32"),
        ({"x": {"ids": torch.ones(8, 2)}}, r"'test': inputs are a dict of ids, those of training a tensor \[8, 2\]"),
        ({"attribute": None}, "split 'test': has no attribute, training has"),
    ):
        with pytest.raises(BadData, match=words):
            prepared(data(tests={"test": split(**changes)}))
    without = data(train=split(attribute=None), attributes=1)
    with pytest.raises(BadData, match="split 'test': has an attribute, training has none"):
        prepared(without)
    for width in ((0,), (0, 3)):
        empty = split(x=torch.empty(8, *width))
        with pytest.raises(BadData, match="split 'train': inputs have the shape .* they are empty"):
            prepared((data(train=empty, tests={}), nn.Linear(1, 1)))


def test_many_inputs_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spurbench.bench.checks.data_checks.CHUNK_VALUES", 6)
    x = torch.zeros(8, 2)
    x[[4, 7], 1] = NAN
    with pytest.raises(BadData, match="split 'test': 2 of 8 inputs .* the first is example 4"):
        prepared(data(tests={"test": split(x=x)}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attributes": 0}, r"Data\(attributes=0\); expected a whole number, 1 or more"),
        ({"environments": 2.0}, r"Data\(environments=2.0\); expected a whole number"),
        ({"attributes": 1}, r"split 'train': 4 of 8 attributes are not in 0..0, which Data\(attributes=1\) allows"),
        ({"environments": 0}, r"split 'train': has environments, but there are none: Data\(environments=0\)"),
        ({"environments": 3}, r"Data\(environments=3\), but no training example is of environment 2"),
        ({"tests": {"train": split()}}, "a test split cannot be called 'train'"),
        ({"tests": {"train_e0": split()}}, "a test split cannot be called 'train_e0'"),
        ({"tests": {"test@10": split()}}, "a test split cannot be called 'test@10'"),
        ({"tests": {"../x": split()}}, "a test split cannot be called"),
        ({"tests": [split()]}, "a list for the test splits; expected a dict"),
        ({"tests": {"test": (1, 2)}}, "split 'test' is a tuple of 2; expected a Split"),
        ({"mean": (0.5, 0.5, 0.5)}, r"Data\(mean=\(0.5, 0.5, 0.5\)\); expected a tuple of one number or of 2"),
        ({"mean": 0.5}, r"Data\(mean=0.5\); expected a tuple"),
        ({"std": (1.0, 0.0)}, r"Data\(std=\(1.0, 0.0\)\); expected finite numbers, above 0"),
        ({"mean": (NAN,)}, r"Data\(mean=\(nan,\)\); expected finite numbers"),
    ],
)  # fmt: skip
def test_numbers_and_names_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadData, match=f"^plane, seed 7: .*{words}"):
        prepared(data(**changes))


def test_what_the_class_declares_is_there() -> None:
    without = split(environment=None)
    one = split(environment=torch.zeros(8, dtype=torch.long))
    alone = data(train=one, tests={}, environments=1)
    assert prepared(alone, load_method("irm")()).data is alone
    for given in (data(train=without, tests={}, environments=0), data(train=without)):
        with pytest.raises(BadData, match="the class provides environments; the training examples have none"):
            prepared(given)
    with pytest.raises(BadData, match=r"Data\(environments=2\), but no training example is of environment 0"):
        prepared(data(train=without), provides=frozenset())
    plain = data(train=split(attribute=None), tests={"test": split(attribute=None)})
    with pytest.raises(BadData, match=r"Data\(attributes=2\), but the training examples have no attribute"):
        prepared(plain)
    bare = replace(plain, attributes=1)
    assert prepared(bare).data is bare  # own pictures may have groups, and these have none
    with pytest.raises(BadData, match="GroupDRO needs groups, but the training examples have no attribute"):
        prepared(bare, load_method("group_dro")())
    with pytest.raises(BadData, match=r"groups \(1, 4\) are conflicting; there are 0..3"):
        prepared(data(), conflicting=(1, 4))

    def attacks(self: Dataset) -> dict[str, Attack]:
        return {"pgd": Pgd(split="tset")}

    with pytest.raises(BadData, match="the attack 'pgd' is on split 'tset', which load does not give"):
        prepared(data(), attacks=attacks)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: None, "load gave None; expected"),
        (lambda: (data(),), "load gave a tuple of 1; expected"),
        (lambda: (data(), data()), "load gave a tuple of 2; expected"),
        (lambda: (nn.Linear(2, 1), data()), "load gave a tuple of 2; expected"),
        (lambda: (data(), "mlp"), "load gave a str for a network; expected what build"),
    ],
)
def test_load_gives_data_and_a_network(given: Callable[[], Any], words: str) -> None:
    with pytest.raises(BadData, match=f"^plane, seed 7: {words}"):
        prepared(given())
