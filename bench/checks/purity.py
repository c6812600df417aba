"""Whether a loss is a pure function of its arguments: it changes none, draws nothing, keeps nothing elsewhere."""

from __future__ import annotations

import inspect
import pickle
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import CellType, FunctionType, GeneratorType, ModuleType
from typing import Any

import numpy as np
import torch

from spurbench.bench.checks.loss_checks import (
    COUNTS,
    LATER,
    Sample,
    init_state,
    make_sample,
    tensors_of,
    with_gradient,
)
from spurbench.bench.checks.questions import Failure
from spurbench.bench.plugins.method import Edited, Method, untouched

UNUSUAL_SEED = 190_702_893  # that no method will set by itself
RetainedValues = dict[str, Any]
"""Name → comparable content of everything in which Python code could keep something."""


def check_inputs(method: Method, classes: int) -> str:
    """The loss leaves logits, labels and everything else it is given unchanged, at any step."""
    sample = make_sample(classes).seen_by(method)
    named = {name: f"problem.{name}" for name in COUNTS}
    handed = {f"batch.{named.get(name, name)}": value for name, value in tensors_of(sample).items()}
    handed |= {"logits": sample.logits}
    before = {name: value.clone() for name, value in handed.items()}
    state = init_state(method, sample)
    for step in (0, *LATER):
        try:
            with untouched("loss", handed):
                method.loss(sample.logits, sample.batch, state, step)
        except Edited as error:
            raise Failure(str(error)) from None
        for name, value in handed.items():
            if not torch.equal(value, before[name]):
                raise Failure(f"loss changes {name} in place, through .data or numpy: make a new tensor")
    return "no argument is changed"


def check_determinism(method: Method, classes: int) -> str:
    """The same input gives the same loss, whatever is computed in between, and no random numbers are drawn."""
    first, other = (make_sample(classes, seed).seen_by(method) for seed in (0, 1))
    found = []
    for _ in range(2):
        with forbid_random_draws("a method"):
            found.append(with_gradient(method, first, init_state(method, first)))
            run_at_all_steps(method, other)
    if not all(torch.equal(a, b) for a, b in zip(*found, strict=True)):
        raise Failure("two calls with the same input differ: the loss depends on more than its arguments")
    return "the same input gives the same loss, no random numbers are drawn"


def run_at_all_steps(method: Method, sample: Sample) -> None:
    """Compute the loss at early and late steps."""
    state = init_state(method, sample)
    for step in (0, *LATER):
        with_gradient(method, sample, state, step)
        state = {name: value.detach() for name, value in state.items()}


@contextmanager
def forbid_random_draws(what: str) -> Iterator[None]:
    """Fail if the block draws from a global random generator or seeds one; their states are restored."""
    states = generators()
    torch.manual_seed(UNUSUAL_SEED)
    np.random.seed(UNUSUAL_SEED)
    random.seed(UNUSUAL_SEED)
    before = generators()
    try:
        yield
        after = generators()
    finally:
        torch.set_rng_state(torch.tensor(states["torch's"], dtype=torch.uint8))
        np.random.set_state(pickle.loads(states["numpy's"]))
        random.setstate(states["Python's"])
    for name, state in after.items():
        if state != before[name]:
            raise Failure(f"{what} must not draw random numbers, or seed: it moves {name} generator, which seeds share")


def generators() -> dict[str, Any]:
    """The states of the global random generators."""
    return {
        "torch's": torch.get_rng_state().tolist(),
        "numpy's": pickle.dumps(np.random.get_state()),
        "Python's": random.getstate(),
    }


# ---- memory --------------------------------------------------------------------------------------------------------


def check_memory(method: Method, before: RetainedValues) -> str:
    """Nothing in which a method could keep something has changed since `before`."""
    after = retained_values(method)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        raise Failure(
            f"something is kept in {changed[0]}: what a method keeps belongs in state, or else seeds share it and a "
            "checkpoint loses it (functools.cache will do for constants)"
        )
    return "nothing is kept outside the state"


def retained_values(method: Method) -> RetainedValues:
    """The content of a method's attributes, of its classes' and of the global names in their files."""
    cls = type(method)
    own = {name: value for name, value in vars(method).items() if not isinstance(vars(cls).get(name), cached_property)}
    found = contents_of("self", own)
    for base in (base for base in cls.__mro__ if issubclass(base, Method) and base is not Method):
        found |= contents_of(base.__name__, vars(base))
        found |= contents_of("", vars(sys.modules.get(base.__module__, ModuleType("none"))), base.__module__)
    return found


def contents_of(owner: str, names: Mapping[str, Any], home: str | None = None) -> RetainedValues:
    """The content of an owner's names; functions and classes only if they belong to the module `home`."""
    found: RetainedValues = {}
    for name, value in list(names.items()):
        full = f"{owner}.{name}".lstrip(".")
        if isinstance(value, staticmethod | classmethod | property):
            value = value.fget if isinstance(value, property) else value.__func__
        if name.startswith("__") or isinstance(value, ModuleType):
            continue
        if isinstance(value, FunctionType | type) and home not in (None, value.__module__):
            continue
        if isinstance(value, FunctionType):
            closed = [comparable_content(cell.cell_contents) for cell in value.__closure__ or () if cell != CellType()]
            found[full] = comparable_content([vars(value), value.__defaults__, value.__kwdefaults__]), closed
        elif isinstance(value, type) and home is not None:
            found |= {} if issubclass(value, Method) else contents_of(full, vars(value))
        else:
            found[full] = comparable_content(value)
    return found


def comparable_content(value: Any) -> Any:
    """What a value holds, in a form that can be compared."""
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, GeneratorType):
        return comparable_content(inspect.getgeneratorlocals(value))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of iterators, in newer Pythons
            return pickle.dumps(value)
    except Exception:  # a lambda, an open file: whatever a file may hold
        return repr(value)
