"""Checks of a method's optional hooks: what it adds, transforms, draws and mixes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spurbench.bench.checks import start_checks
from spurbench.bench.checks.loss_checks import KINDS, LATER, Sample, make_sample
from spurbench.bench.checks.purity import forbid_random_draws
from spurbench.bench.checks.questions import Failure
from spurbench.bench.plugins.method import Draw, Examples, Method, Start, untouched

EXAMPLES = 60  # of the training set to draw from


def check_hooks(method: Method) -> str:
    """A coefficient of the squared norm of the weights, steps of a fresh optimizer, and a transform of the input."""
    for step in (0, *LATER):
        with forbid_random_draws("weight_penalty"):
            weight: Any = method.weight_penalty(step)
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise Failure(f"weight_penalty({step}) returns {weight!r}; expected a number, 0 or more")
        if method.weight_penalty(step) != weight:
            raise Failure(f"two calls of weight_penalty({step}) differ")
    resets: Any = method.resets()
    if not isinstance(resets, tuple) or not all(type(step) is int and step >= 0 for step in resets):
        raise Failure(f"resets() returns {resets!r}; expected a tuple of steps, such as (100,)")
    x = torch.rand(4, 2, 14, 14) if "colour channels" in method.needs else torch.rand(4, 2)
    before = x.clone()
    with forbid_random_draws("transform"):
        moved: Any = method.transform(x)
    if not torch.equal(x, before):
        raise Failure("transform changes its input in place, and so the dataset; make a new tensor")
    if not isinstance(moved, Tensor) or len(moved) != len(x) or not torch.isfinite(moved.float()).all():
        raise Failure(f"transform of {list(x.shape)} must give a finite tensor of 4 examples")
    if not torch.equal(method.transform(x), moved):
        raise Failure("two calls of transform with the same input differ")
    return "weight_penalty, resets and transform are in order"


def check_draws(method: Method) -> str:
    """What is drawn of a training set: existing rows, each once, and as many weights; the same for the same seed."""
    first, second = draw_examples(method), draw_examples(method)
    rows = torch.arange(EXAMPLES) if first.rows is None else first.rows
    known = rows.ndim == 1 and not rows.is_floating_point() and bool(((rows >= 0) & (rows < EXAMPLES)).all())
    if not known or len(set(rows.tolist())) < len(rows) or not len(rows):
        raise Failure("draw gives rows that are not indices of examples, each once")
    weights = torch.ones(len(rows)) if first.weights is None else first.weights
    if weights.shape != rows.shape or not (weights >= 0).all() or not 0 < weights.sum() < math.inf:
        raise Failure(
            f"draw gives weights of the shape {list(weights.shape)}; expected {len(rows)} weights, 0 or more each"
        )
    if not (equal_tensors(first.rows, second.rows) and equal_tensors(first.weights, second.weights)):
        raise Failure("two draws of one seed differ: use the examples' generator")
    return (
        f"{len(rows)} of {EXAMPLES} examples, {'each once an epoch' if first.weights is None else 'with replacement'}"
    )


def check_start(method: Method) -> str:
    """What is answered to a finished run fits it, for one logit and C logits; the same run and seed give the same."""
    if not method.base:
        return "starts from no other run"
    for classes in KINDS:
        finished = Sample.draw(0, classes, torch.arange(EXAMPLES) * 7 % (2 * classes), EXAMPLES).as_finished(method)
        starts: list[Any] = []
        for _ in range(2):
            with forbid_random_draws("begin"):
                starts.append(method.begin(finished, torch.Generator().manual_seed(1)))
        if wrong := next(start_checks.complaints(starts[0], finished, method), None):
            raise Failure(wrong)
        if not all(map(equal_tensors, *map(tensors_in, starts))):
            raise Failure("two calls of begin with one seed differ: use the generator")
    start = starts[0]
    return f"begins with a network that is {start.network}, on {start.split}"


def tensors_in(start: Start) -> list[Tensor | None]:
    """Every tensor of an answer."""
    return [*vars(start.draw).values(), start.environment, start.group, *(start.head or ()), *start.values.values()]


def draw_examples(method: Method) -> Draw:
    """What a method draws from examples in unequal classes and groups, given only what it has declared."""
    every = torch.arange(EXAMPLES)
    y = every % 7 % 2
    group = 2 * y + (every % 5 == 0) if "groups" in method.needs else None
    environment = every % 2 if "environments" in method.needs else None
    with forbid_random_draws("draw"):
        found: Any = method.draw(Examples(y, group, environment, torch.Generator().manual_seed(1)))
    if not isinstance(found, Draw):
        raise Failure(f"draw returns a {type(found).__name__}; expected Draw(rows=…, weights=…)")
    return found


def equal_tensors(first: Tensor | None, second: Tensor | None) -> bool:
    return first is second if first is None or second is None else torch.equal(first, second)


def check_mixing(method: Method) -> str:
    """Mixed inputs keep their shape, labels stay probabilities, nothing is changed in place, and the seed decides."""
    if not method.mixes():
        return "inputs are not mixed"
    batch = make_sample(2).seen_by(method).batch
    x, found = torch.rand(len(batch.y), 2, 14, 14), []
    before = x.clone()
    for seed in (1, 1, 2):
        with forbid_random_draws("mix"), untouched("mix", {"x": x, "y": batch.y}):
            found.append(method.mix(x, batch, torch.Generator().manual_seed(seed)))
    (mixed, soft), repeated, other = found
    if not torch.equal(x, before):
        raise Failure("mix changes its input in place; make a new tensor")
    if mixed.shape != x.shape or soft.shape != (len(x), 2):
        raise Failure(f"mix gives inputs {list(mixed.shape)} and labels {list(soft.shape)} of {len(x)} examples")
    if not torch.allclose(soft.sum(1).float(), torch.ones(len(x)), atol=1e-5) or not (soft >= 0).all():
        raise Failure("mix gives labels that are not probabilities of the classes")
    if not torch.equal(mixed, repeated[0]) or not torch.equal(soft, repeated[1]):
        raise Failure("two calls of mix with one seed differ: use the generator it is given")
    differ = not torch.equal(mixed, other[0])
    return f"shapes and probabilities are in order, seeds {'differ' if differ else 'do not matter'}"
