"""Whether what a method's `begin` answers to a finished run fits that run; checked at the start of every such run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from spurbench.bench.plugins.method import CannotBegin, Draw, Finished, Method, Start


def check(start: Any, finished: Finished, method: Method) -> None:
    """Complain of an answer that does not fit. Errors: CannotBegin, with what is wrong."""
    if wrong := next(complaints(start, finished, method), None):
        raise CannotBegin(wrong)


def complaints(start: Any, finished: Finished, method: Method) -> Iterator[str]:
    """What is wrong with the answer of a method's `begin`, the most basic first."""
    if not isinstance(start, Start):
        yield f"begin gave a {type(start).__name__}; expected Start(...)"
    if start.network not in ("fresh", "base", "head"):
        yield f"begin gave network={start.network!r}; expected fresh, base or head"
    if method.head_only != (start.network == "head"):
        declared = f"head_only: ClassVar[bool] = {start.network == 'head'}"
        yield f"begin gave network={start.network!r} of a method that declares otherwise: write `{declared}`"
    if start.split not in ("train", "validation"):
        yield f"begin gave split={start.split!r}; expected train or validation"
    if not method.trains and (start.network != "head" or start.head is None):
        yield "a method that trains nothing gives a head: Start(network='head', head=(weight, bias))"
    if not isinstance(start.draw, Draw):
        yield f"begin gave draw={type(start.draw).__name__}; expected Draw(rows=…, weights=…)"
    given = {"rows": start.draw.rows, "weights": start.draw.weights, "environment": start.environment,
             "group": start.group, "marked": start.marked, **start.values}  # fmt: skip
    for name, tensor in given.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            yield f"begin gave {name} as a {type(tensor).__name__}; expected a tensor"
    marked = start.marked
    if marked is not None and (marked.dtype != torch.bool or marked.shape != finished.train.y.shape):
        yield f"begin marks {list(marked.shape)} of {marked.dtype}; expected a bool of each training example"
    if start.network == "head" and "second network" in method.needs:
        yield "begin trains a last layer alone, which has no second network: leave that need out"
    seen = finished.train if start.split == "train" else finished.validation
    if seen is None:
        yield "begin trains on validation, which the method does not declare: needs = {'validation'}"
        return
    n, rows, chances = len(seen.y), start.draw.rows, start.draw.weights
    if rows is not None and not len(rows):
        yield "begin leaves no example to train on"
    if rows is not None and (rows.dtype != torch.int64 or rows.min() < 0 or rows.max() >= n):
        yield f"begin draws rows that the split of {n:,} examples does not have"
    wanted = n if rows is None else len(rows)
    if chances is not None and (chances.shape != (wanted,) or not chances.isfinite().all() or (chances < 0).any()):
        yield f"begin gives {len(chances):,} weights for {wanted:,} examples; expected one each, 0 or more"
    if chances is not None and not chances.any():
        yield "begin gives every example the weight 0"
    codes = {"environment": start.environment, "group": start.group}
    for name, values in codes.items():
        if values is not None and (values.dtype != torch.int64 or len(values) != n or (values < 0).any()):
            yield f"begin gives a {name} that does not fit: expected [{n}] of torch.int64, 0 or more"
    for name, values in start.values.items():
        if len(values) != n:
            yield f"begin gives {len(values):,} values '{name}' for {n:,} examples"
    if start.head is not None:
        shapes = [list(part.shape) for part in start.head]
        fitting = [list(part.shape) for part in finished.head]
        if shapes != fitting:
            yield f"begin gives a head of the shapes {shapes}; the base has {fitting}"
        if start.network != "head":
            yield f"begin gives a head to a network that is {start.network}; it takes network='head'"
