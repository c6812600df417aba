"""One seed before training: its data and its networks, drawn in the order that the dataset's paper draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spurbench.bench.checks import data_checks
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.seeds import stream
from spurbench.bench.plugin_files.components import known_network
from spurbench.bench.plugin_files.discovery import load_component
from spurbench.bench.plugins.dataset import Data, Dataset, Training
from spurbench.bench.plugins.method import Method
from spurbench.bench.plugins.network import Network
from spurbench.bench.training.forward import OneLogit


@dataclass
class Replica:
    """The data of one seed and its networks (two where the method needs a second)."""

    seed: int
    data: Data
    networks: list[nn.Module]


def prepare(dataset: Dataset, method: Method, training: Training, seed: int) -> Replica:
    """Draw data and networks of one seed; every method gets the same data and the same first weights."""

    def build(x: Tensor) -> nn.Module:
        outputs = training.logits or (1 if classes == 2 else classes)
        return build_network(method.transform(x[:1]).shape[1:], outputs, training)

    classes = data_checks.declared_classes(dataset)
    if training.logits not in (None, classes, 1 if classes == 2 else None):
        needed = "2, or 1" if classes == 2 else f"{classes}"
        raise UserError(f"training.logits is {training.logits}; {classes} classes need {needed}")
    data, network = data_checks.check_loaded(dataset.load(seed, build), dataset, method, seed)
    networks = [network]
    if "second network" in method.needs:
        torch.manual_seed(stream(seed, "second network"))
        networks.append(build(data.train.x))
    torch.manual_seed(stream(seed, "training"))  # dropout
    return Replica(seed, data, networks)


def build_network(shape: Sequence[int], outputs: int, training: Training) -> nn.Module:
    """The network of a training for inputs [B, *shape] and this many logits; of one logit [B], of more [B, C].

    Errors: UserError for an unknown name, with the nearest one, or for a shape that the network cannot take.
    """
    try:
        known_network(training.network.name)
    except ValueError as error:
        raise UserError(str(error)) from None
    network: Network = load_component("network", training.network.name, network_settings(training))
    module = network.build(shape, outputs)
    return OneLogit(module) if outputs == 1 else module


def network_settings(training: Training) -> dict[str, Any]:
    """What a network is made with: all that was set of it, but for the number of logits."""
    return {name: value for name, value in training.network.settings.items() if name != "logits"}


def find_head(network: nn.Module, training: Training) -> nn.Module:
    """The last layer of a network as `build_network` made it; what that is given are the features.

    Errors: UserError for one that a dataset made otherwise.
    """
    body = network.body if isinstance(network, OneLogit) else network
    maker: Network = load_component("network", training.network.name, network_settings(training))
    try:
        return body.get_submodule(maker.head(body))
    except (AttributeError, IndexError, StopIteration):
        name = training.network.name
        raise UserError(f"where the features of this network are is not known: {name} did not build it") from None


def width_of(head: nn.Module) -> int:
    """D, how many features a head is given.

    Errors: UserError for one that is no affine layer.
    """
    if not isinstance(head, nn.Linear):
        raise UserError(f"features are what an affine last layer is given; this network ends in {type(head).__name__}")
    return head.in_features
