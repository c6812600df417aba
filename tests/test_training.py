"""Settings of training: each choice has its own fields, written flat, and what has no effect is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.fields import Option, check_value
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.training_settings import Training, reduced, training_fields
from spurbench.bench.records.run import FIRST_FIELDS, Run

SOME = {
    "width": 7, "hidden_layers": 2, "init": "xavier", "dropout": 0.5, "batch_norm": True, "pretrained": "timm",
    "momentum": 0.5, "nesterov": True, "balanced": True, "augment": "flip", "lr": 0.1, "weight_decay": 0.2,
    "steps": 9, "drops": "0.5", "evaluate": 3, "logits": 2, "sam": 0.1, "average": "ema", "decay": 0.9,
    "average_from": 0.3, "weight_decay_of": "matrices", "lr_schedule": "cosine", "warmup": 0.1, "clip_norm": 1.0,
    "n_converge": 2, "n_tolerance": 4, "tolerance_ratio": 0.1, "weights": "random", "freeze": True,
    "vocabulary": 9, "embedding": 3, "depth": 1, "side": 64,
}  # fmt: skip
OWNERS = {
    "network": {
        "mlp": {"width", "hidden_layers", "init", "dropout", "batch_norm"},
        "small_conv": set(), "vgg15_bn": set(), "preact_resnet110": set(), "timm:resnet18": {"pretrained"},
        "hf:bert-base-uncased": {"weights"}, "bag_of_words": {"vocabulary", "embedding", "depth"},
        "efficientnet_lite0": {"side"},
    },
    "optimizer": {"sgd": {"momentum", "nesterov"}, "adam": set(), "adamw": set()},
    "batch": {None: set(), 8: {"balanced", "augment"}},
}  # fmt: skip


@pytest.mark.parametrize("choice", OWNERS)
def test_a_field_is_of_its_choice_alone(choice: str) -> None:
    for value, own in OWNERS[choice].items():
        others = set[str]().union(*OWNERS[choice].values()) - own
        for name in sorted(own):
            beside = {"momentum": 0.5} if name == "nesterov" else {}
            assert Training(**{choice: value, name: SOME[name]}, **beside).flat()[name] == SOME[name]
        for name in sorted(others):
            with pytest.raises(UserError, match=f"{name} has no effect with(out)? {choice}.*; it is a field of"):
                Training(**{choice: value, name: SOME[name]})


def test_every_field_is_of_one_choice() -> None:
    shared = {"lr", "weight_decay", "steps", "drops", "evaluate", "logits", "sam", *OWNERS}
    shared |= {"average", "decay", "average_from", "n_converge", "n_tolerance", "tolerance_ratio"}
    shared |= {"weight_decay_of", "lr_schedule", "warmup", "clip_norm", "freeze"}
    owned = [name for choice in OWNERS.values() for names in choice.values() for name in names]
    assert len(owned) == len(set(owned))
    assert shared | set(owned) == set(training_fields()) == set(SOME) | set(OWNERS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_layers": 0, "width": 5}, "width has no effect with hidden_layers 0"),
        ({"hidden_layers": 0, "dropout": 0.5}, "dropout has no effect with hidden_layers 0"),
        ({"hidden_layers": 0, "batch_norm": True}, "batch_norm has no effect with hidden_layers 0"),
        ({"nesterov": True}, "nesterov has no effect with momentum 0; it is a form of momentum: give one above 0"),
        (
            {"steps": 5, "evaluate": 5},
            "evaluate has no effect with steps 5; it asks for evaluations before the last step",
        ),
        (
            {"average": "swad"},
            "average has no effect without evaluate; swad goes by the validation loss at each evaluation",
        ),
        ({"average": "swad", "evaluate": 9, "steps": 9}, "evaluate has no effect with steps 9"),
        ({"average": "swa", "n_converge": 2}, "n_converge has no effect with average swa; it is of SWAD's average"),
        ({"average": "swad", "evaluate": 9, "decay": 0.5}, "decay has no effect with average swad"),
        ({"widht": 5}, "no field 'widht'; did you mean width?"),
        (
            {"lr_schedule": "cosine", "drops": "0.5"},
            "drops has no effect with lr_schedule cosine; it is of a constant lr",
        ),
        (
            {"lr_schedule": "cosin"},
            "lr_schedule of training must be constant or cosine or linear, not 'cosin'; did you",
        ),
        ({"weight_decay_of": "matrices"}, "weight_decay_of has no effect with weight_decay 0; give one above 0"),
        ({"warmup": 1.5}, "warmup of training must be a share below 1 or a number of steps, not 1.5"),
        ({"warmup": -1}, "warmup of training must be a share below 1 or a number of steps, not -1"),
        ({"clip_norm": -1}, "clip_norm of training must lie in 0..1e+30, not -1"),
        ({"width": 0}, "width of training must lie in 1..1e"),
        ({"network": "vgg15"}, "no network 'vgg15'; did you mean vgg15_bn"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_written(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="training: ") as error:
        Training(**given)
    assert message in str(error.value)


def test_each_choice_is_an_object_with_its_own_fields() -> None:
    one = Training(width=5, optimizer="adam", lr=0.1, steps=7, batch=3, augment="flip")
    assert (one.network.name, one.network["width"], one.optimizer.name) == ("mlp", 5, "adam")
    assert "momentum" not in one.optimizer.settings
    assert (one.optimizer["lr"], one.steps, one.batch, one.evaluate, one.logits) == (0.1, 7, 3, None, None)
    assert set(Training(network="vgg15_bn").network.settings) == {"logits", "freeze"}
    assert Training(network="timm:resnet18", pretrained="timm").network["pretrained"] == "timm"
    assert Training(**one.flat()) == one and hash(one)


def test_another_choice_leaves_the_fields_of_the_former_behind() -> None:
    one = Training(width=5, momentum=0.9, nesterov=True, batch=8, balanced=True)
    other = replace(one, network="small_conv", optimizer="adam", batch=None)
    assert (other.network.name, other.optimizer.name) == ("small_conv", "adam")
    assert other.flat() == Training(network="small_conv", optimizer="adam").flat()
    assert set(other.flat()) == {"network", "optimizer", "lr", "weight_decay", "steps"}
    assert replace(one, momentum=0.0).flat().get("nesterov") is None and replace(one, width=6).network["width"] == 6
    with pytest.raises(UserError, match="momentum has no effect with optimizer adam"):
        replace(one, optimizer="adam", momentum=0.9)


def test_what_trains_nothing_sees_the_data_as_others_do() -> None:
    """Some are drawn after the network, by the same generator."""
    dataset = registry.load_dataset("colored_mnist")()
    assert dataset.protocol({}) == dataset.training != dataset.protocol({"width": 5})
    old = FIRST_FIELDS | {"momentum": 0.9, "optimizer": "adam"}  # with what has no effect, as records once had
    assert dataset.protocol(old) == Training(optimizer="adam")


def identity_of(training: dict[str, Any]) -> str:
    return Run("moon", {}, 1, "erm", {}, training, "float32", 0).id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"nesterov": False, "momentum": 0.9}),
        ({"network": "small_conv"}, {"network": "small_conv", "dropout": 0.0, "batch_norm": False}),
        ({}, {"momentum": 0.9, "nesterov": None, "pretrained": None, "balanced": False, "augment": None}),
        ({"drops": "0.5,0.75"}, {"drops": ".75,0.50"}),
        ({"batch": 8}, {"batch": 8, "balanced": False}),
        ({"weight_decay": 0.0}, {"weight_decay": -0.0}),
        ({"lr": 1}, {"lr": 1.0}),
        ({}, {"lr_schedule": "constant", "warmup": 0, "clip_norm": 0.0, "weight_decay_of": None}),
        ({"weight_decay": 0.1}, {"weight_decay": 0.1, "weight_decay_of": "all", "warmup": 1}),
        ({"warmup": 10}, {"warmup": 10.0}),
    ],
)
def test_equal_science_has_one_identity(one: dict[str, Any], other: dict[str, Any]) -> None:
    base = {"momentum": 0.9}
    ids = {identity_of(Training(**(base | given)).flat()) for given in (one, other)}
    assert len(ids) == 1 and ids != {identity_of(Training(**base, lr=0.5).flat())}


def test_what_says_that_there_is_nothing_of_it_is_never_wrong() -> None:
    assert Training(optimizer="adam", momentum=0.0, nesterov=False).flat() == Training(optimizer="adam").flat()


def test_absent_fields_count_as_what_they_were_by_default() -> None:
    """Ids that were given while every field was there, whatever the network and optimizer, stay."""
    full = FIRST_FIELDS | {"network": "vgg15_bn", "optimizer": "adam", "lr": 0.01, "weight_decay": 0.0, "steps": 1000}
    assert identity_of(full) == identity_of(Training(network="vgg15_bn", optimizer="adam").flat())
    assert identity_of(full | {"momentum": 0.9}) != identity_of(full)
    assert reduced(full | {"momentum": 0.9}) == Training(network="vgg15_bn", optimizer="adam").flat()


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("int", 1e30, "x of y must be a whole number up to 9,007,199,254,740,992, not 1e+30"),
        ("int", 2**63, "x of y cannot be 9223372036854775808: a whole number has at most 64 bits"),
        ("float", 10**400, "a whole number has at most 64 bits"),
        ("float", float("nan"), "a number is finite"),
        ("str", "\ud800", "half of a character"),
        ("str", "a" * 5000, "5,000 characters, 1,000 are the most"),
        ("list[int]", [1, [2, float("inf")]], "a number is finite"),
        ("Any", {"a": 2**70}, "64 bits"),
        ("Any", object, "is neither number, text, list nor mapping"),
    ],
)
def test_what_no_record_can_hold_is_refused(kind: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        check_value(Option("x", kind, None), value, "y")
    assert message in str(error.value) and len(str(error.value)) < 300
