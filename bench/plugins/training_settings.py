"""How runs are trained: four choices, each with the fields of its own, written flat by users and in records.

What may be set follows from the classes here: the keys of a grid's `training:` and of `--set training.`, their limits,
and which of them have no effect beside the others. A network or optimizer with further fields is a class more.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf
from typing import Any

from spurbench.bench.core.errors import UserError, named
from spurbench.bench.core.fields import Condition, Limits, Option, checked, effective


def setting(
    default: Any,
    limits: Limits | None = None,
    normal: Callable[[Any], Any] | None = None,
    only: tuple[Condition, ...] = (),
) -> Any:
    """A field of a choice; `only` are conditions beside the choice's own."""
    return dataclasses.field(default=default, metadata={"limits": limits, "normal": normal, "only": only})


def known_network(name: str) -> None:
    """Raise ValueError, with the nearest names, if there is no such network; timm's are imported to be looked at."""
    kind, _, model = name.partition(":")
    if kind != "timm" and name not in NETWORKS:
        raise ValueError(named("network", name, NETWORKS))
    if kind == "timm" and importlib.util.find_spec("timm"):  # if not, it may be where the runs will be
        import timm

        if not timm.is_model(model):
            near = ", ".join(get_close_matches(model[:100], timm.list_models(), n=3))
            raise ValueError(f"timm has no model '{model[:100]}'" + (f"; did you mean {near}?" if near else ""))


def shares(text: str | None) -> str | None:
    """One spelling of ".75,0.50": shares in order, without zeros at their ends."""
    digits = [part.partition(".")[2].rstrip("0") or "0" for part in (text or "").split(",") if part]
    return ",".join(f"0.{one}" for one in sorted(digits)) or None  # in the order of their digits shares are in order


HIDDEN = Condition("hidden_layers", lambda v: v.get("hidden_layers", 1) > 0, "it is about hidden layers")
MOVING = Condition("momentum", lambda v: v.get("momentum", 0.0) > 0, "it is a form of momentum: give one above 0")
ON_THE_WAY = Condition("steps", lambda v: (v.get("evaluate") or 1) < v.get("steps", inf),
                       "it asks for looks before the last step, which is always scored")  # fmt: skip


@dataclass(frozen=True)
class Network:
    """What is trained. Most networks leave nothing to set but the number of their logits."""

    name: str = setting("mlp", known_network)
    logits: int | None = setting(None, (1, 10**6))  # None: one for two classes, else one a class


@dataclass(frozen=True)
class Mlp(Network):
    """ReLU layers."""

    width: int = setting(300, (1, 1_000_000), only=(HIDDEN,))
    hidden_layers: int = setting(1, (0, 1000))
    init: str = setting("torch", ("torch", "xavier"))  # default of nn.Linear, or uniform weights and zero biases
    dropout: float = setting(0.0, (0.0, 0.999), only=(HIDDEN,))  # on hidden pre-activations
    batch_norm: bool = setting(False, only=(HIDDEN,))  # on hidden pre-activations


@dataclass(frozen=True)
class Timm(Network):
    """A model of timm's."""

    pretrained: str | None = setting(None)  # "timm", or a file of weights


@dataclass(frozen=True)
class Optimizer:
    """How gradients move weights."""

    name: str = setting("sgd", ("sgd", "adam"))
    lr: float = setting(0.01, (0.0, 1e30))
    weight_decay: float = setting(0.0, (0.0, 1e30))


@dataclass(frozen=True)
class Sgd(Optimizer):
    """Stochastic gradient descent."""

    momentum: float = setting(0.0, (0.0, 0.9999))
    nesterov: bool | None = setting(None, normal=lambda on: on or None, only=(MOVING,))  # momentum as Nesterov's


@dataclass(frozen=True)
class Adam(Optimizer):
    """Kingma and Ba's, with the usual β and ε."""


@dataclass(frozen=True)
class Schedule:
    """How long, and what happens on the way."""

    steps: int = setting(1000, (0, 10**9))  # updates
    # shares of the steps after which lr falls to a tenth, as "0.5,0.75"
    drops: str | None = setting(None, re.compile(r"0?\.\d+(,0?\.\d+)*"), shares)
    # steps between two looks at validation and test; None: only at the end
    evaluate: int | None = setting(None, (1, 10**9), only=(ON_THE_WAY,))


@dataclass(frozen=True)
class Sampling:
    """What a step sees: the whole training set, in order."""

    batch: int | None = setting(None, (1, 10**9))  # examples of an update; None: all


@dataclass(frozen=True)
class Minibatches(Sampling):
    """What a step sees: some examples."""

    # draw examples, with replacement, so that every group is as frequent
    balanced: bool | None = setting(None, normal=lambda on: on or None)
    augment: str | None = setting(None, ("crop", "flip", "crop,flip"))  # "crop" has 4 pixels of padding


@dataclass(frozen=True)
class Choice:
    """A choice between classes; the flat field `key` says which, as one of the words in `alternatives`."""

    key: str
    word: Callable[[Any], str]
    alternatives: Mapping[str, type[Any]]

    def made(self, flat: Mapping[str, Any]) -> Any:
        """The alternative that flat fields describe."""
        cls = self.alternatives[self.word(flat.get(self.key))]
        return cls(**{own: flat[name] for own, name in names(cls, self.key).items() if name in flat})

    def flat(self, made: Any) -> dict[str, Any]:
        return {name: getattr(made, own) for own, name in names(type(made), self.key).items()}

    def options(self) -> dict[str, Option]:
        """The flat fields of all alternatives."""
        return {option.name: option for cls in self.alternatives.values() for option in self.options_of(cls)}

    def options_of(self, cls: type[Any]) -> Iterator[Option]:
        for item in dataclasses.fields(cls):
            name, about = names(cls, self.key)[item.name], dict(item.metadata)
            only = self.owned(name) + about.pop("only")
            yield Option(name, str(item.type), item.default, only=only, **about)

    def owned(self, name: str) -> tuple[Condition, ...]:
        """The condition that an alternative with this field is chosen; none if all have it."""
        owners = [word for word, cls in self.alternatives.items() if name in names(cls, self.key).values()]
        if len(owners) == len(self.alternatives):
            return ()
        hint = f"it is a field of {' and '.join(owners)}"
        return (Condition(self.key, lambda values: self.word(values.get(self.key)) in owners, hint),)


def names(cls: type[Any], key: str) -> dict[str, str]:
    """Each field of an alternative with its flat name: the same, but for `name`."""
    return {item.name: key if item.name == "name" else item.name for item in dataclasses.fields(cls)}


NETWORKS: Mapping[str, type[Network]] = {
    "mlp": Mlp, "small_conv": Network, "vgg15_bn": Network, "preact_resnet110": Network, "timm:MODEL": Timm,
}  # fmt: skip
CHOICES = {
    "network": Choice("network", lambda n: "timm:MODEL" if str(n).startswith("timm:") else str(n or "mlp"), NETWORKS),
    "optimizer": Choice("optimizer", lambda name: str(name or "sgd"), {"sgd": Sgd, "adam": Adam}),
    "schedule": Choice("steps", lambda steps: "any", {"any": Schedule}),
    "sampling": Choice("batch", lambda batch: "minibatches (batch: 128)" if batch else "all",
                       {"all": Sampling, "minibatches (batch: 128)": Minibatches}),
}  # fmt: skip
FIELDS: Mapping[str, Option] = {name: one for choice in CHOICES.values() for name, one in choice.options().items()}
"""The flat fields: what a grid's `training:` may hold."""


@dataclass(frozen=True, init=False)
class Training:
    """The protocol of a run: network, optimizer, schedule and sampling, given as one flat list of fields.

    `Training(network="mlp", width=300, optimizer="adam")`; `dataclasses.replace(training, width=16)` too. All that has
    an effect is part of a run's identity.
    """

    network: Network
    optimizer: Optimizer
    schedule: Schedule
    sampling: Sampling

    def __init__(self, **given: Any) -> None:
        """Errors: UserError for a field that there is not, a wrong value, or a field of another choice."""
        before = {name: one.default for name, one in FIELDS.items()}
        for name, choice in CHOICES.items():
            if dataclasses.is_dataclass(given.get(name)):  # what `replace` takes over from the training it changes
                before |= choice.flat(given.pop(name))
        try:
            own = {name: verified(name, value) for name, value in given.items()}
            kept = effective(FIELDS, before | own, dict.fromkeys(own, 1))
        except ValueError as error:
            raise UserError(f"training: {error}") from None
        for name, choice in CHOICES.items():
            object.__setattr__(self, name, choice.made(kept))

    def flat(self) -> dict[str, Any]:
        """The fields that are set and have an effect, as records hold them; `Training(**flat)` is the same again."""
        return reduced({name: value for one, choice in CHOICES.items()
                        for name, value in choice.flat(getattr(self, one)).items()})  # fmt: skip

    @property
    def logits(self) -> int | None:
        return self.network.logits

    @property
    def steps(self) -> int:
        return self.schedule.steps

    @property
    def evaluate(self) -> int | None:
        return self.schedule.evaluate

    @property
    def batch(self) -> int | None:
        return self.sampling.batch


def verified(name: str, value: Any) -> Any:
    """A field's value, checked; a model of timm's is looked up only in grids, since that imports timm."""
    if name not in FIELDS:
        raise ValueError(named("field", name, FIELDS))
    if name == "network" and str(value).startswith("timm:"):
        return value
    return checked(FIELDS[name], value, "training")


def reduced(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Flat fields without those that are not set or have no effect, each in its one spelling.

    What is no field stays as it is.
    """
    known = effective(FIELDS, {name: spelt(name, value) for name, value in flat.items() if name in FIELDS}, {})
    rest = {name: value for name, value in flat.items() if name not in FIELDS}
    return {name: value for name, value in (known | rest).items() if value is not None}


def spelt(name: str, value: Any) -> Any:
    normal = FIELDS[name].normal
    return normal(value) if normal else value
