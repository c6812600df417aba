"""One seed before training: its data and its networks, drawn in the order that the dataset's paper draws them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spurbench.bench.checks import data_checks
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.seeds import stream
from spurbench.bench.plugin_files.components import SHARED, known_network
from spurbench.bench.plugin_files.discovery import load_component
from spurbench.bench.plugins.dataset import Data, Dataset, Inputs, Split, Training, map_inputs, split_inputs, to_numbers
from spurbench.bench.plugins.method import Head, Method, Start
from spurbench.bench.plugins.network import FLOATS, Network, kind_of
from spurbench.bench.training.batching import Preprocessing, generator_for, to_device
from spurbench.bench.training.execution import count_flops
from spurbench.bench.training.forward import OneLogit
from spurbench.bench.training.model import outputs_of
from spurbench.bench.training.networks.mlp import Layers


@dataclass(frozen=True)
class Frozen:
    """A network of which only the last layer is trained on, and the data as it takes them."""

    network: nn.Module
    head: str  # name of its last layer
    data: Data
    preprocessing: Preprocessing

    def features(self, x: Inputs, device: torch.device, rows: int) -> Tensor:
        """What its last layer is given of raw inputs, [n, D]; so many pass at once."""
        head = self.network.get_submodule(self.head)
        return outputs_of([self.network], head, self.preprocessing, x, device, rows)["features"]

    def with_head(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """A copy of the network with another last layer."""
        network = copy.deepcopy(self.network)
        head = network.get_submodule(self.head)
        assert isinstance(head, nn.Linear)
        head.weight, head.bias = (nn.Parameter(part.detach().clone()) for part in (weight, bias))
        return network


@dataclass
class Replica:
    """The data of one seed and its networks (two where the method needs a second), and what it trains on otherwise."""

    seed: int
    data: Data
    networks: list[nn.Module]
    preprocess: Callable[[Inputs], Inputs] = partial(map_inputs, to_numbers)  # the dataset's own
    start: Start = field(default_factory=Start)
    inferred: Mapping[str, Tensor] = field(default_factory=dict)  # split → [n] attribute instead of the dataset's
    values: int | None = None  # values of the inferred one
    trained_on: Split | None = None  # instead of the training split
    frozen: Frozen | None = None  # if its network is the last layer alone, and its data are features

    @property
    def examples(self) -> Split:
        """The examples that it trains on, with the labels that a method may be given."""
        found = self.trained_on or self.data.train
        if self.trained_on is None:
            found = self.regrouped("train", found)
        start = self.start
        return found if start.environment is None else replace(found, environment=start.environment)

    def preprocessing(self, method: Method, channels_last: bool = False) -> Preprocessing:
        """What is done to its raw inputs; nothing to features."""
        if self.frozen:
            return Preprocessing()
        return Preprocessing(method.transform, self.data.mean, self.data.std, channels_last, self.preprocess)

    def step_flops(self, method: Method, training: Training) -> float:
        """Floating-point operations of a step, forward and backward, as counted with its first network."""
        where = next((p.device for p in self.networks[0].parameters()), torch.device("cpu"))
        one = self.preprocessing(method)(to_device(next(split_inputs(self.examples.x, 1)), where))
        rows = training.batch or len(self.examples.y)
        return rows * len(self.networks) * count_flops(self.networks[0], one)

    def regrouped(self, name: str, split: Split) -> Split:
        """A split with the inferred attribute, if there is one, as its attribute and its environment."""
        attribute = self.inferred.get(name)
        if attribute is None:
            return split
        return replace(split, attribute=attribute, values=self.values, environment=attribute)

    @property
    def group(self) -> Tensor:
        """The group of each example that it trains on, [n]."""
        return self.examples.group(self.data.attributes) if self.start.group is None else self.start.group

    @property
    def groups(self) -> int:
        """How many groups there are."""
        if self.start.group is not None:
            return int(self.start.group.max()) + 1
        return self.data.classes * (self.examples.values or self.data.attributes)

    @property
    def environments(self) -> int:
        """How many environments there are."""
        changed = self.start.environment is not None or bool(self.inferred)
        given = self.examples.environment
        return int(given.max()) + 1 if changed and given is not None else self.data.environments


def prepare(dataset: Dataset, method: Method, training: Training, seed: int, inferred: bool = False) -> Replica:
    """Draw data and networks of one seed; every method gets the same data and the same first weights.

    With `inferred` groups the data need have none.
    """

    def build(x: Inputs) -> nn.Module:
        raw: Any = dataset.preprocess(next(split_inputs(x, 1)))
        one: Any = method.transform(raw)
        shape = one.shape[1:] if isinstance(one, Tensor) else {name: part.shape[1:] for name, part in one.items()}
        return build_network(shape, training.logits or (1 if classes == 2 else classes), training, kind_of(one))

    classes = data_checks.declared_classes(dataset)
    if training.logits not in (None, classes, 1 if classes == 2 else None):
        needed = "2, or 1" if classes == 2 else f"{classes}"
        raise UserError(f"training.logits is {training.logits}; {classes} classes need {needed}")
    data, network = data_checks.check_loaded(dataset.load(seed, build), dataset, method, seed, inferred)
    data = normalized_for(data, training)
    data = dataset.in_groups(data)
    data = data.hold_out(dataset.held_out, generator_for(seed, "held out")) if dataset.held_out else data
    networks = [network]
    if "second network" in method.needs:
        torch.manual_seed(stream(seed, "second network"))
        networks.append(build(data.train.x))
    return Replica(seed, data, networks, dataset.preprocess)


def normalized_for(data: Data, training: Training) -> Data:
    """The data with the mean and deviation that the network's weights were trained with, if it says so."""
    maker = network_maker(training)
    return data if maker.mean is None or maker.std is None else replace(data, mean=maker.mean, std=maker.std)


def build_network(shape: Any, outputs: int, training: Training, kind: str = FLOATS) -> nn.Module:
    """The network of a training for inputs [B, *shape] and this many logits; of one logit [B], of more [B, C].

    Errors: UserError for an unknown name, with the nearest one, or for inputs that the network cannot take.
    """
    try:
        known_network(training.network.name)
    except ValueError as error:
        raise UserError(str(error)) from None
    network = network_maker(training)
    if kind not in network.takes:
        takes = " or ".join(sorted(network.takes))
        raise UserError(f"the network {network.called} takes inputs of the kind {takes}; these are of the kind {kind}")
    module = network.build(shape, outputs)
    return OneLogit(module) if outputs == 1 else module


def network_maker(training: Training) -> Network:
    """What builds the network of a training, with all that was set of it but for what every network has."""
    shared = [option.name for option in SHARED["network"]]
    own = {name: value for name, value in training.network.settings.items() if name not in shared}
    found: Network = load_component("network", training.network.name, own)
    return found


def find_head(network: nn.Module, training: Training) -> nn.Module:
    """The last layer of a network as `build_network` made it; what that is given are the features.

    Errors: UserError for one that a dataset made otherwise.
    """
    body = network.body if isinstance(network, OneLogit) else network
    if isinstance(body, Shifted):
        return body
    if isinstance(body, Layers) and len(body) == 1:
        return body[0]
    name = training.network.name
    maker = network_maker(training)
    try:
        place = maker.head(body)
    except (AttributeError, IndexError, StopIteration):
        raise UserError(f"where the features of this network are is not known: {name} did not build it") from None
    layers: dict[str, nn.Module] = dict(body.named_modules())
    if not isinstance(place, str) or not place or place not in layers:
        last = ", ".join(list(layers)[-3:])
        raise UserError(
            f"the network {name} says that its head is '{place}', which is no layer of it; its last are {last}"
        )
    return layers[place]


def frozen_network(replica: Replica, training: Training, preprocessing: Preprocessing) -> Frozen:
    """A replica's first network, to be frozen but for its head.

    Errors: UserError if its head is no affine layer, or is not found.
    """
    network = replica.networks[0]
    head = find_head(network, training)
    width_of(head)
    place = next(name for name, module in network.named_modules() if module is head)
    return Frozen(network, place, replica.data, preprocessing)


def freeze(replica: Replica, frozen: Frozen, features: Callable[[str, Split], Tensor]) -> None:
    """Let a replica's data be what the head of a frozen network is given of each split, [n, D]."""
    data = replica.data
    tests = {name: replace(split, x=features(name, split)) for name, split in data.tests.items()}
    train = replace(data.train, x=features("train", data.train))
    replica.frozen, replica.data = frozen, replace(data, train=train, tests=tests, mean=Data.mean, std=Data.std)


class Shifted(nn.Module):
    """An affine layer whose parameters are what it differs by from another one's, at first nothing."""

    from_weight: Tensor
    from_bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("from_weight", weight, persistent=False)  # no statistics of batches
        self.register_buffer("from_bias", bias, persistent=False)
        self.weight, self.bias = nn.Parameter(torch.zeros_like(weight)), nn.Parameter(torch.zeros_like(bias))

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of features [B, D]."""
        return F.linear(x, self.from_weight + self.weight, self.from_bias + self.bias)


def head_network(head: Head, from_base: bool) -> nn.Module:
    """A network of a last layer alone, which takes features."""
    weight, bias = (part.detach().clone() for part in head)
    body: nn.Module = Shifted(weight, bias)
    if not from_base:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        body = Layers(linear)
    return OneLogit(body) if len(weight) == 1 else body


def head_of(network: nn.Module, parameters: Mapping[str, Tensor]) -> Head:
    """The layer that such a network is with these parameters."""
    body = network.body if isinstance(network, OneLogit) else network
    weight, bias = (parameters[name] for name, _ in network.named_parameters())
    return (body.from_weight + weight, body.from_bias + bias) if isinstance(body, Shifted) else (weight, bias)


def width_of(head: nn.Module) -> int:
    """D, how many features a head is given.

    Errors: UserError for one that is no affine layer.
    """
    if not isinstance(head, nn.Linear | Shifted):
        raise UserError(f"features are what an affine last layer is given; this network ends in {type(head).__name__}")
    return head.in_features
