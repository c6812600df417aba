"""The grid of `run --dataset … --method …`, without a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from spurbench.bench.core.assignments import Changes, parsed_sets
from spurbench.bench.core.errors import cut
from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.core.yamlfile import Origin, Where
from spurbench.bench.grid.cells import Grid
from spurbench.bench.grid.load import resolve
from spurbench.bench.grid.recipes import recipes_of
from spurbench.bench.plugins import registry


def adhoc_grid(
    dataset: str | Sequence[str],
    methods: Sequence[str],
    seeds: str | Sequence[int] | None = None,
    sets: Sequence[str] = (),
    precision: str | None = None,
) -> Grid:
    """The grid of `run --dataset … --method … --seeds 0-9 --set sd.coef=0.1`, without a file.

    Each dataset × method starts from the recipe beside the dataset where there is one, else from defaults. A key of
    `sets` is `method.name`, `training.name` or `dataset.name`; a list as value (`sd.coef=[0.1,1]`) runs each of them.
    """
    names = [dataset] if isinstance(dataset, str) else list(dataset)
    changes = parsed_sets(sets, names, methods)
    blocks: list[dict[str, Any]] = []
    told: dict[Where, str] = {}
    for name in names:
        for method in methods:
            own = changes if trained(method) or not any(map(trained, methods)) else changes | {"training": {}}
            block = starting_point(name, method, own)
            told |= places(own, name, method, len(blocks), sets)
            block |= {"seeds": seeds if isinstance(seeds, str) else list(seeds)} if seeds is not None else {}
            blocks.append(block | ({"precision": precision} if precision else {}))
    data = {
        "description": f"{', '.join(methods)} on {', '.join(names)}, from the command line",
        "notes": [f"set by hand: {', '.join(sets)}"] if sets else [],
        "datasets": blocks,
    }
    return replace(resolve(data, Origin("", given=told), f"adhoc-{fingerprint(data)[:8]}"), place="command line")


def trained(method: str) -> bool:
    """Whether a method trains; one that there is not is complained of elsewhere."""
    known = registry.methods().get(method)
    return known is None or known.trains


def placed(dataset: str, method: str) -> tuple[tuple[str, str], ...]:
    """The places of a row, and whose name stands for each in `--set NAME.field=value`."""
    return ("hyper_parameters", method), ("training", "training"), ("options", dataset)


def places(changes: Changes, dataset: str, method: str, block: int, sets: Sequence[str]) -> dict[Where, str]:
    """Where the values of `--set` stand in an ad hoc grid, each with its option."""
    row: Where = ("datasets", block, "methods", 0)
    options = {given.partition("=")[0].strip(): f"--set {cut(given)}" for given in sets}
    return {(*row, place, name): options[f"{owner}.{name}"]
            for place, owner in placed(dataset, method) for name in changes.get(owner, {})}  # fmt: skip


def starting_point(dataset: str, method: str, changes: Changes) -> dict[str, Any]:
    """A dataset block for one method: its recipe where there is one, with the changes on top."""
    recipes = recipes_of(registry.datasets().get(dataset))
    row: dict[str, Any] = {"method": method} | ({"recipe": method} if method in recipes.by_name else {})
    for place, name in placed(dataset, method):
        if changes.get(name):
            row[place] = changes[name]
    seeds = {} if recipes.seeds else {"seeds": "0-9"}
    return {**seeds, "precision": "float32", "dataset": dataset, "methods": [row]}
