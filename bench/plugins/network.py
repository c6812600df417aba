"""What a network is: settings, and a module built for inputs of one shape.

One file holds one network; its docstring says what it is, and its Source. `training.network=NAME` trains it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.fields import setting as setting
from spurbench.bench.plugin_files import places
from spurbench.bench.plugins.dataset import Inputs

Networks = list[dict[str, dict[str, Tensor]]]
"""Of each network of a run its parameters and its buffers, by name."""

FLOATS, INTEGERS, DICT = "floats", "integers", "dict"
"""Kinds of inputs: a tensor of floats (pixels are, once scaled), one of integers or booleans, several by name."""


def kind_of(x: Inputs) -> str:
    """The kind of inputs, as a network is given them."""
    return DICT if isinstance(x, dict) else FLOATS if x.is_floating_point() else INTEGERS


@dataclass(frozen=True)
class Network(ABC):
    """Base of every network: fields are its settings, given flat among those of `training`.

    A family of networks, such as all models of a library, sets `variants` to a word for what follows its name and a
    colon, and is given it as `variant`: `training.network=timm:resnet18`. With `contents` that may be a folder:
    runs hold its name and a digest of those files, and `path_of(self.variant)` tells where it is.
    """

    variants: ClassVar[str] = ""
    contents: ClassVar[tuple[str, ...]] = ()  # of a family whose variant may be a folder: the files that make it up
    takes: ClassVar[frozenset[str]] = frozenset({FLOATS})  # the kinds of inputs that it can be given
    # of each channel of pixels in [0, 1], as its weights were trained; None: the dataset's
    mean: ClassVar[tuple[float, ...] | None] = None
    std: ClassVar[tuple[float, ...] | None] = None

    variant: str = ""

    @abstractmethod
    def build(self, shape: Any, outputs: int) -> nn.Module:
        """The module from inputs [B, *shape] to logits [B, outputs].

        Of inputs that are several tensors by name, `shape` has the shape of each by its name, and the module is given
        them as one dict. Its weights are drawn from torch's global generator, layer after layer.

        Errors: UserError for a shape that it cannot take.
        """

    @abstractmethod
    def head(self, module: nn.Module) -> str:
        """Name in `module` (as built here) of its last layer; what that is given are the features."""

    @classmethod
    def check_variant(cls, variant: str) -> None:
        """Raise ValueError, with the nearest names, if the family has no such network."""
        return

    @property
    def called(self) -> str:
        """The network's name on the command line."""
        name = type(self).__module__.rpartition(".")[2].removeprefix("spurbench_plugin_")
        return f"{name}:{self.variant}" if self.variants else name

    def path_of(self, named: str) -> Path:
        """Where a file or a folder is that a run holds by its name and content, as a setting or as `variant`.

        Errors: UserError if that is not known on this machine, or its content has changed.
        """
        return places.locate(named, self.contents if named == self.variant else ())

    def picture(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Channels, height and width.

        Errors: UserError if inputs of this shape are no pictures.
        """
        if len(shape) != 3:
            raise UserError(f"the network {self.called} takes pictures; these inputs have the shape {list(shape)}")
        channels, height, width = shape
        return channels, height, width

    def check_tokens(self, shape: Mapping[str, Any]) -> None:
        """Errors: UserError for inputs that are not tokens and which of them there are, and perhaps more."""
        if not {"ids", "mask"} <= shape.keys():
            raise UserError(f"the network {self.called} takes ids and their mask; these inputs are {', '.join(shape)}")


def init_kaiming(module: nn.Module) -> None:
    """Weights of convolutions normal, scaled by fan-out; scales of batch norms uniform in [0, 1]; biases zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
