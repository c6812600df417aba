"""Networks and optimizers are one file each, a user's own too; every network says where its head is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugin_files.components import SHARED, TAKEN
from spurbench.bench.plugin_files.discovery import FOLDERS, load_component
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.training_settings import Training, choices
from spurbench.bench.provenance import edits, plugin_code
from spurbench.bench.records.record import Summary
from spurbench.bench.store.store import Store
from spurbench.bench.training.replica import build_network, find_head

NETWORK = '''"""Two layers with a hyperbolic tangent between them.

Source: none.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from torch import nn
from spurbench.bench.plugins.network import Network, setting

@dataclass(frozen=True)
class Net(Network):
    units: int = setting(5, low=1, high=100)
    bias: bool = setting(True, above={"units": 4}, hint="it takes some")

    def build(self, shape: Sequence[int], outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(shape[0], self.units, self.bias), nn.Tanh(), nn.Linear(self.units, outputs))

    def head(self, module: nn.Module) -> str:
        return "2"
'''


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    registry.forget_plugins()


@pytest.fixture
def net(tmp_path: Path) -> Path:
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    return file


@pytest.mark.parametrize("kind", ["network", "optimizer"])
def test_ours_are_read_as_they_are_imported(kind: str) -> None:
    for name, info in registry.plugins(kind).items():
        assert info.problem is None and info.summary and info.sections.get("Source"), name
        cls = registry.load_class(info)
        fields = [one for one in dataclasses.fields(cls) if one.name not in TAKEN | {"lr", "weight_decay"}]
        own = {one.name: one.default for one in fields}
        assert own == {option.name: option.default for option in info.options}
    assert {one.stem for one in FOLDERS[kind].glob("[a-z]*.py")} == set(registry.plugins(kind))


def test_no_setting_can_take_the_name_of_another_field() -> None:
    others = [name for kind in ("schedule", "sampling") for name in choices()[kind].options()]
    assert TAKEN == {"network", "optimizer", "variant", *others}
    assert {one.name for one in SHARED["optimizer"]} == {"lr", "weight_decay", "weight_decay_of"}


@pytest.mark.parametrize("name", ["mlp", "small_conv", "vgg15_bn", "preact_resnet110", "timm:resnet18"])
def test_a_network_says_where_its_head_is(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    network = load_component("network", name, {})
    module = network.build((3, 32, 32), 7).eval()
    head = dict(module.named_modules())[network.head(module)]
    assert isinstance(head, nn.Linear) and head.out_features == 7
    seen: list[torch.Tensor] = []
    head.register_forward_hook(lambda layer, given, logits: seen.append(logits))
    assert torch.equal(module(torch.rand(2, 3, 32, 32)), seen[0])


def test_a_users_network_has_its_settings_among_those_of_training(net: Path) -> None:
    with pytest.raises(UserError, match="no network 'net'"):
        Training(network="net")
    assert registry.add_plugin(net).kind == "network"
    chosen = Training(network="net", units=3)
    assert chosen.flat()["units"] == 3 and "bias" not in chosen.flat() and "width" not in chosen.flat()
    assert build_network((2,), 1, chosen)(torch.zeros(4, 2)).shape == (4,)
    for given, words in (
        ({"network": "net", "width": 3}, "width has no effect with network net; it is a field of mlp"),
        ({"network": "mlp", "units": 3}, "units has no effect with network mlp; it is a field of net"),
        ({"network": "net", "units": 3, "bias": True}, "bias has no effect with units 3; it takes some"),
        ({"network": "net", "units": 0}, "units of training must lie in 1..100, not 0"),
        ({"network": "nte"}, "no network 'nte'; did you mean net?"),
    ):
        with pytest.raises(UserError) as error:
            Training(**given)
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("units: int", "width: int", "field 'width' is another field of training already: choose another name"),
        ("units: int", "steps: int", "field 'steps' is another field of training already"),
        ("units: int", "logits: int", "field 'logits' is another field of training already"),
        ("setting(5", "setting(len('five!')", "field 'units' has no literal default"),
        ('{"units"', '{"unit"', "field 'bias': no other field 'unit'; did you mean units?"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_told(net: Path, old: str, new: str, words: str) -> None:
    net.write_text(NETWORK.replace(old, new))
    with pytest.raises(UserError) as error:
        registry.add_plugin(net)
    assert words in str(error.value) and "net" not in registry.plugins("network")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def head", "def heads", "network 'net': its class Net lacks head ("),
        ("self.units, outputs", "self.units, 7", "the network gives logits of the shape [4, 7], not [4, 1]"),
        ('return "2"', 'return "9"', "the network net says that its head is '9', which is no layer of it"),
        ('return "2"', "return [2]", "the network net says that its head is '[2]', which is no layer of it"),
    ],
)  # fmt: skip
def test_networks_that_do_not_keep_to_the_interface(net: Path, old: str, new: str, words: str) -> None:
    net.write_text(NETWORK.replace(old, new))
    registry.add_plugin(net)
    with pytest.raises(UserError) as error:
        training = Training(network="net")
        network = build_network((2,), 1, training)
        network(torch.zeros(4, 2))
        find_head(network, training)
    assert words in str(error.value)


def test_a_users_network_trains_and_its_code_counts(net: Path, command: Any, tmp_path: Path) -> None:
    def run(network: str) -> Summary:
        sets = [f"training.network={network}", "training.steps=3", "two_moon.examples=30"]
        line = [word for one in sets for word in ("--set", one)]
        arguments = ["--dataset", "two_moon", "--method", "erm", "--seeds", "0", "--store", tmp_path / "store"]
        command("run", "--plugin", net, *arguments, *line)
        records = Store.open(tmp_path / "store").records()[0]
        return next(record for record in records if record.training["network"] == network)

    ours, own = run("mlp"), run("net")
    assert own.done and own.training["units"] == 5
    assert set(ours.provenance.code) == {"method", "dataset"}
    assert own.provenance.code["network"] == plugin_code.code(net)
    assert own.provenance.paths["network"] == net.name
    assert edits.find_edited_plugins(own) == []
    net.write_text(NETWORK.replace("nn.Tanh()", "nn.ReLU()"))
    edits.clear_caches()
    assert edits.find_edited_plugins(own) == ["net.py"] and edits.find_edited_plugins(ours) == []


def test_a_bag_of_words_is_a_mean() -> None:
    """Of the embeddings that the mask shows; ids beyond the vocabulary are those of its rows."""
    network = build_network(
        {"ids": (4,), "mask": (4,)}, 3, Training(network="bag_of_words", vocabulary=5, embedding=2), "dict"
    )
    table, head = (network.get_submodule(name) for name in "01")
    ids = torch.tensor([[1, 3, 4, 4], [6, 8, 0, 2]], dtype=torch.int32)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    mean = (table.weight[1] + table.weight[3]) / 2
    assert torch.allclose(network({"ids": ids, "mask": mask}), head(mean).expand(2, 3))
    assert torch.equal(network({"ids": ids, "mask": mask & False})[0], head.bias)  # a text without words
    with pytest.raises(UserError, match="takes inputs of the kind dict; these are of the kind floats"):
        build_network((3, 8, 8), 1, Training(network="bag_of_words"))
    with pytest.raises(UserError, match="takes ids and their mask; these inputs are ids"):
        build_network({"ids": (4,)}, 1, Training(network="bag_of_words"), "dict")
