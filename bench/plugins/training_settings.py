"""How runs are trained: four choices, each with the fields of its own, written flat by users and in records.

What may be set follows from the classes here and from the files of networks and optimizers: the keys of a grid's
`training:` and of `--set training.`, their limits, and which of them have no effect beside the others.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from typing import Any

from spurbench.bench.core.errors import UserError, say_unknown
from spurbench.bench.core.fields import Condition, Limits, Option, check_value, drop_ineffective, none_if
from spurbench.bench.plugin_files.components import (
    DEFAULTS,
    SHARED,
    Component,
    alternatives,
    components,
    known_network,
    name_network,
    network_info,
    own_options,
    word_for,
)


def field(
    default: Any,
    limits: Limits | None = None,
    normal: Callable[[Any], Any] | None = None,
    only: tuple[Condition, ...] = (),
) -> Any:
    """A field of a schedule or of sampling; `only` are conditions beside that of the choice."""
    return dataclasses.field(default=default, metadata={"limits": limits, "normal": normal, "only": only})


def shares(text: str | None) -> str | None:
    """One spelling of ".75,0.50": shares in order, without zeros at their ends."""
    digits = [part.partition(".")[2].rstrip("0") or "0" for part in (text or "").split(",") if part]
    return ",".join(f"0.{one}" for one in sorted(digits)) or None  # in the order of their digits shares are in order


def share_or_steps(value: float) -> None:
    """Raise ValueError for what is neither a share of the steps nor a number of them."""
    if value < 0 or value > 1 and value != int(value):
        raise ValueError(f"warmup of training must be a share below 1 or a number of steps, not {value}")


ON_THE_WAY = Condition("steps", lambda v: (v.get("evaluate") or 1) < v.get("steps", inf),
                       "it asks for evaluations before the last step, which is always scored")  # fmt: skip

CONSTANT = Condition("lr_schedule", lambda v: v.get("lr_schedule") is None, "it is of a constant lr between drops")
UNFROZEN = Condition("freeze", lambda v: not v.get("freeze"), "the features of each image are computed once")
BY_EMA = Condition("average", lambda v: v.get("average") == "ema", "it is of the exponential average (average: ema)")
BY_SWA = Condition("average", lambda v: v.get("average") == "swa", "it is of the plain average (average: swa)")


def by_swad(values: Mapping[str, Any]) -> bool:
    """Whether weights are averaged as SWAD does, with evaluations before the last step to go by."""
    return values.get("average") == "swad" and (values.get("evaluate") or inf) < values.get("steps", inf)


EVALUATED = Condition("evaluate", lambda v: v.get("average") != "swad" or by_swad(v),
                      "swad goes by the validation loss at each evaluation: give the steps between two")  # fmt: skip
BY_SWAD = Condition("average", by_swad, "it is of SWAD's average (average: swad, and evaluate)")


def split_looked_at(training: Mapping[str, Any]) -> str | None:
    """The held-out split that a training of these flat fields looks at, if it does."""
    return "validation" if training.get("average") == "swad" else None


@dataclass(frozen=True)
class Schedule:
    """How long, and what happens on the way."""

    steps: int = field(1000, (0, 10**9))  # updates
    # how lr goes on after the warm-up: constant, or down to 0 by half a cosine or a straight line
    lr_schedule: str | None = field(None, ("constant", "cosine", "linear"), none_if("constant"))
    # shares of the steps after which lr falls to a tenth, as "0.5,0.75"
    drops: str | None = field(None, re.compile(r"0?\.\d+(,0?\.\d+)*"), shares, only=(CONSTANT,))
    # steps over which lr rises to its value in equal parts, or their share of all; None: no warm-up
    warmup: int | float | None = field(None, share_or_steps, none_if(0, 1))
    # largest norm of the gradient of a network; a longer one is shortened to it; None: none is
    clip_norm: float | None = field(None, (0.0, 1e30), none_if(0))
    # steps between two evaluations of the held-out splits, among which a rule chooses; None: only at the end
    evaluate: int | None = field(None, (1, 10**9), only=(ON_THE_WAY,))
    # SAM's ρ: gradients are taken where the loss is highest at about this distance from the weights; None: at them
    sam: float | None = field(None, (0.0, 1e6))
    # what is scored are averaged weights: of all steps, the later ones more (ema), of the last steps alike (swa), or of
    # the steps in a valley of the validation loss (swad), as `evaluate` sees it
    average: str | None = field(None, ("ema", "swa", "swad"), only=(EVALUATED,))
    decay: float | None = field(None, (0.0, 1.0), only=(BY_EMA,))  # of that at each step; None: 0.999
    average_from: float | None = field(None, (0.0, 1.0), only=(BY_SWA,))  # share of the steps before it; None: 0.5
    # SWAD's valley begins at the evaluation whose loss is the least of this many, its own and those after it; None: 3
    n_converge: int | None = field(None, (1, 10**6), only=(BY_SWAD,))
    # it ends at the last evaluation before this many in a row with losses above a threshold; None: 6
    n_tolerance: int | None = field(None, (1, 10**6), only=(BY_SWAD,))
    # by what share the threshold is above the mean of the first `n_converge` losses of the valley; None: 0.3
    tolerance_ratio: float | None = field(None, (0.0, 1e6), only=(BY_SWAD,))

    @property
    def split(self) -> str | None:
        """The held-out split that training itself looks at."""
        return split_looked_at(vars(self))


@dataclass(frozen=True)
class Sampling:
    """What a step sees: the whole training set, in order."""

    batch: int | None = field(None, (1, 10**9))  # examples of an update; None: all


@dataclass(frozen=True)
class Minibatches(Sampling):
    """What a step sees: some examples."""

    # draw examples, with replacement, so that every group is equally frequent
    balanced: bool | None = field(None, normal=none_if(False))
    # of training images; crops are padded by 4 pixels
    augment: str | None = field(None, ("crop", "flip", "crop,flip"), only=(UNFROZEN,))


@dataclass(frozen=True)
class Choice:
    """A choice between alternatives; the flat field `key` says which, as one of their words."""

    key: str
    word: Callable[[Any], str]
    fields: Mapping[str, tuple[Option, ...]]  # of each alternative, without the conditions that it is chosen
    make: Callable[[str, dict[str, Any]], Any]

    def made(self, flat: Mapping[str, Any]) -> Any:
        """The alternative that flat fields describe."""
        word = self.word(flat.get(self.key))
        return self.make(word, {one.name: flat[one.name] for one in self.fields[word] if one.name in flat})

    def options(self) -> dict[str, Option]:
        """The flat fields of all alternatives."""
        every = [option for options in self.fields.values() for option in options]
        return {one.name: replace(one, only=self.owned(one.name) + one.only) for one in every}

    def owned(self, name: str) -> tuple[Condition, ...]:
        """The condition that an alternative with this field is chosen; none if all have it."""
        owners = [word for word, options in self.fields.items() if any(one.name == name for one in options)]
        if len(owners) == len(self.fields):
            return ()
        hint = f"it is a field of {' and '.join(owners)}"
        return (Condition(self.key, lambda values: self.word(values.get(self.key)) in owners, hint),)


def component_choice(kind: str, limits: Limits) -> Choice:
    """The choice of a network or an optimizer."""
    key = Option(kind, "str", DEFAULTS[kind], limits=limits, normal=name_network if kind == "network" else None)
    fields = {word: (key, *SHARED[kind], *own_options(info)) for word, info in alternatives(kind).items()}

    def make(word: str, values: dict[str, Any]) -> Component:
        return Component(values.pop(kind, DEFAULTS[kind]), tuple(values.items()))

    return Choice(kind, lambda name: word_for(kind, name), fields, make)


def class_choice(key: str, word: Callable[[Any], str], classes: Mapping[str, type[Any]]) -> Choice:
    """The choice between dataclasses."""
    fields = {
        name: tuple(Option(one.name, str(one.type), one.default, **one.metadata) for one in dataclasses.fields(cls))
        for name, cls in classes.items()
    }
    return Choice(key, word, fields, lambda word, values: classes[word](**values))


def flattened(kind: str, made: Any) -> dict[str, Any]:
    """The flat fields of an alternative that was made."""
    return {kind: made.name, **made.settings} if isinstance(made, Component) else dict(vars(made))


@cache
def choices() -> dict[str, Choice]:
    """The four choices; networks and optimizers are those there are now."""
    batch = "minibatches (batch: 128)"
    return {
        "network": component_choice("network", known_network),
        "optimizer": component_choice("optimizer", tuple(alternatives("optimizer"))),
        "schedule": class_choice("steps", lambda steps: "any", {"any": Schedule}),
        "sampling": class_choice("batch", lambda given: batch if given else "all",
                                 {"all": Sampling, batch: Minibatches}),
    }  # fmt: skip


@cache
def training_fields() -> dict[str, Option]:
    """The flat fields: what a grid's `training:` may hold."""
    return {name: one for choice in choices().values() for name, one in choice.options().items()}


def clear_caches() -> None:
    """Forget which networks and optimizers there are, and what follows from it."""
    for known in (components, choices, training_fields):
        known.cache_clear()


@dataclass(frozen=True, init=False)
class Training:
    """The protocol of a run: network, optimizer, schedule and sampling, given as one flat list of fields.

    `Training(network="mlp", width=300, optimizer="adam")`; `dataclasses.replace(training, width=16)` too. All that has
    an effect is part of a run's identity.
    """

    network: Component
    optimizer: Component
    schedule: Schedule
    sampling: Sampling

    def __init__(self, **given: Any) -> None:
        """Errors: UserError for a field that there is not, a wrong value, or a field of another choice."""
        known = training_fields()
        before = {name: one.default for name, one in known.items()}
        for kind in choices():
            if dataclasses.is_dataclass(given.get(kind)):  # what `replace` takes over from the training it changes
                before |= flattened(kind, given.pop(kind))
        try:
            own = {name: verified(name, value) for name, value in given.items()}
            kept = drop_ineffective(known, before | own, dict.fromkeys(own, 1))
        except ValueError as error:
            raise UserError(f"training: {error}") from None
        for kind, choice in choices().items():
            object.__setattr__(self, kind, choice.made(kept))

    def flat(self) -> dict[str, Any]:
        """The fields that are set and have an effect, as records hold them; `Training(**flat)` is the same again."""
        parts = [flattened(kind, getattr(self, kind)) for kind in choices()]
        return reduced({name: value for part in parts for name, value in part.items()})

    @property
    def logits(self) -> int | None:
        logits: int | None = self.network["logits"]
        return logits

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
    """A field's value, checked; a model of a family is looked up only in grids, since that imports the family."""
    known = training_fields()
    if name not in known:
        raise ValueError(say_unknown("field", name, known))
    if name == "network" and ":" in str(value):
        network_info(str(value))
        return name_network(value)
    return check_value(known[name], value, "training")


def reduced(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Flat fields without those that are not set or have no effect, each in its one spelling.

    What is no field stays as it is.
    """
    known = training_fields()
    own = {name: spelt(known[name], value) for name, value in flat.items() if name in known}
    kept = drop_ineffective(known, own, {}) | {name: value for name, value in flat.items() if name not in known}
    return {name: value for name, value in kept.items() if value is not None}


def spelt(option: Option, value: Any) -> Any:
    """A value in its one spelling."""
    return option.normal(value) if option.normal else value
