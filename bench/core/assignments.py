"""`--set KEY=VALUE` of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from spurbench.bench.core.errors import UserError, cut, unknown
from spurbench.bench.core.yamlfile import scalar

Changes = dict[str, dict[str, Any]]
"""What `--set` changes: a method's name, a dataset's or "training" → field → value."""


def parse_assignments(sets: Iterable[str], datasets: Sequence[str], methods: Sequence[str]) -> Changes:
    """`["sd.coef=0.1"]` as {"sd": {"coef": 0.1}}."""
    owners = ["training", *datasets, *methods]
    changes: Changes = {owner: {} for owner in owners}
    for given in sets:
        key, equals, text = given.partition("=")
        owner, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise UserError(f"--set {cut(given)}: expected KEY=VALUE such as training.lr=1e-3")
        if owner not in changes:
            raise UserError(f"--set {cut(given)}: {unknown('method or dataset in this run', owner, owners)}")
        if name in changes[owner]:
            raise UserError(f"--set {cut(given)}: {cut(key.strip())} is set twice")
        changes[owner][name] = scalar(text, f"--set {cut(given)}")
    return changes
