"""Whether a loss is a function of what it is handed: changes none of it, draws nothing, keeps nothing elsewhere."""

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

from spurbench.bench.checks.loss_checks import COUNTS, LATER, Failure, Sample, fields_of, start, usual, with_gradient
from spurbench.bench.plugins.method import Edited, Method, untouched

UNUSUAL = 190_702_893  # a seed that no loss will take
Belongings = dict[str, Any]
"""Name → content, to be compared, of what Python code could keep something in."""


def inputs(method: Method, classes: int) -> str:
    """Logits, labels and whatever else is handed over are after the loss what they were before, at any step."""
    sample = usual(classes).seen_by(method.needs)
    named = {name: f"problem.{name}" for name in COUNTS}
    handed = {f"batch.{named.get(name, name)}": value for name, value in fields_of(sample).items()}
    handed |= {"logits": sample.logits}
    before = {name: value.clone() for name, value in handed.items()}
    state = start(method, sample)
    for step in (0, *LATER):
        try:
            with untouched("loss", handed):
                method.loss(sample.logits, sample.batch, state, step)
        except Edited as error:
            raise Failure(str(error)) from None
        for name, value in handed.items():
            if not torch.equal(value, before[name]):
                raise Failure(f"loss changes {name} in place, through .data or numpy: make a new tensor of it")
    return "nothing that is handed over is changed"


def determinism(method: Method, classes: int) -> str:
    """The same input gives the same loss, whatever was asked in between, and no random numbers are drawn."""
    first, other = (usual(classes, seed).seen_by(method.needs) for seed in (0, 1))
    found = []
    for _ in range(2):
        with undrawn("a method"):
            found.append(with_gradient(method, first, start(method, first)))
            late(method, other)
    if not all(torch.equal(a, b) for a, b in zip(*found, strict=True)):
        raise Failure("two calls with the same input differ: the loss rests on more than it is handed")
    return "the same input gives the same loss, no random numbers are drawn"


def late(method: Method, sample: Sample) -> None:
    """The loss at every step at which it may be another."""
    state = start(method, sample)
    for step in (0, *LATER):
        with_gradient(method, sample, state, step)
        state = {name: value.detach() for name, value in state.items()}


@contextmanager
def undrawn(what: str) -> Iterator[None]:
    """Fails if the block draws from a global random generator, or seeds one; they are left as they were."""
    states = generators()
    torch.manual_seed(UNUSUAL)
    np.random.seed(UNUSUAL)
    random.seed(UNUSUAL)
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


def memory(method: Method, before: Belongings) -> str:
    """Nothing in which a method could keep something has changed since `before`."""
    after = belongings(method)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        raise Failure(
            f"something is kept in {changed[0]}: what a method keeps goes into state, else seeds share it and a "
            "checkpoint loses it (functools.cache will do for constants)"
        )
    return "nothing is kept outside the state"


def belongings(method: Method) -> Belongings:
    """The content of a method's own attributes, of its classes' and of the global names of their files."""
    cls = type(method)
    own = {name: value for name, value in vars(method).items() if not isinstance(vars(cls).get(name), cached_property)}
    found = contents("self", own)
    for base in (base for base in cls.__mro__ if issubclass(base, Method) and base is not Method):
        found |= contents(base.__name__, vars(base))
        found |= contents("", vars(sys.modules.get(base.__module__, ModuleType("none"))), base.__module__)
    return found


def contents(owner: str, names: Mapping[str, Any], home: str | None = None) -> Belongings:
    """The content of the names of an owner; of functions and classes if they are of the module `home`."""
    found: Belongings = {}
    for name, value in list(names.items()):
        full = f"{owner}.{name}".lstrip(".")
        if isinstance(value, staticmethod | classmethod | property):
            value = value.fget if isinstance(value, property) else value.__func__
        if name.startswith("__") or isinstance(value, ModuleType):
            continue
        if isinstance(value, FunctionType | type) and home not in (None, value.__module__):
            continue
        if isinstance(value, FunctionType):
            closed = [content(cell.cell_contents) for cell in value.__closure__ or () if cell != CellType()]
            found[full] = content([vars(value), value.__defaults__, value.__kwdefaults__]), closed
        elif isinstance(value, type) and home is not None:
            found |= {} if issubclass(value, Method) else contents(full, vars(value))
        else:
            found[full] = content(value)
    return found


def content(value: Any) -> Any:
    """What a value holds, to be compared."""
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, GeneratorType):
        return content(inspect.getgeneratorlocals(value))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of iterators, in newer Pythons
            return pickle.dumps(value)
    except Exception:  # a lambda, an open file: whatever a file may hold
        return repr(value)
