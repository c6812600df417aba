"""The grid of `run --dataset … --method …`, without a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from spurbench.bench.core.assignments import Changes, parse_assignments
from spurbench.bench.core.errors import cut
from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.core.seeds import parse_seeds
from spurbench.bench.core.yamlfile import Origin, Where, located
from spurbench.bench.grid.cells import Grid
from spurbench.bench.grid.load import resolve
from spurbench.bench.grid.recipes import recipes_of
from spurbench.bench.grid.search_space import declared
from spurbench.bench.plugin_files.places import without_folders
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.registry import PluginInfo
from spurbench.bench.plugins.rule import mean_over_groups
from spurbench.bench.records.selection import lack


def adhoc_grid(
    dataset: str | Sequence[str],
    methods: Sequence[str],
    seeds: str | Sequence[int] | None = None,
    sets: Sequence[str] = (),
    precision: str | None = None,
    draws: int | None = None,
    rule: str | None = None,
) -> Grid:
    """The grid of `run --dataset … --method … --seeds 0-9 --set sd.coef=0.1`, without a file.

    Each dataset × method starts from the recipe beside the dataset where there is one, else from defaults. A key of
    `sets` is `method.name`, `training.name` or `dataset.name`; a list as value (`sd.coef=[0.1,1]`) runs each of them.
    With `draws` a search by `rule` finds hyper-parameters in the ranges that the methods declare; those that declare
    none are run as they are, beside others that do.
    """
    names = [dataset] if isinstance(dataset, str) else list(dataset)
    changes = parse_assignments(sets, names, methods)
    blocks: list[dict[str, Any]] = []
    options_by_place: dict[Where, str] = {}
    for name in names:
        for method in methods:
            own = changes if trained(method) or not any(map(trained, methods)) else changes | {"training": {}}
            block = starting_point(name, method, own)
            options_by_place |= places(own, name, method, len(blocks), sets)
            block |= {"seeds": seeds if isinstance(seeds, str) else list(seeds)} if seeds is not None else {}
            if draws is not None and (searchable(method) or not any(map(searchable, methods))):
                block["methods"][0]["search"] = search_of(name, block, draws, rule)
                row: Where = ("datasets", len(blocks), "methods", 0, "search")
                options_by_place |= {
                    row: f"--draws {draws}",
                    (*row, "draws"): f"--draws {draws}",
                    (*row, "rule"): f"--rule {rule}",
                }
            blocks.append(block | ({"precision": precision} if precision else {}))
    data = {
        "description": f"{', '.join(methods)} on {', '.join(names)}, from the command line",
        "notes": [f"set by hand: {without_folders(', '.join(sets))}"] if sets else [],
        "datasets": blocks,
    }
    return replace(
        resolve(data, Origin("", given=options_by_place), f"adhoc-{fingerprint(data)[:8]}"), place="command line"
    )


def trained(method: str) -> bool:
    """Whether a method trains, or the run that it starts from; one that there is not is complained of elsewhere."""
    known = registry.methods().get(method)
    return known is None or known.trains or has_base(method)


def has_base(method: str) -> bool:
    """Whether a method starts from another run: fields of training are for both then, and stand in their block."""
    known = registry.methods().get(method)
    return known is not None and bool(known.base)


def searchable(method: str) -> bool:
    """Whether a method declares ranges to search; one that there is not is complained of elsewhere."""
    known = registry.methods().get(method)
    return known is None or bool(declared(known.options, method))


def search_of(dataset: str, block: dict[str, Any], draws: int, rule: str | None) -> dict[str, Any]:
    """A search on the first of a block's seeds, by a rule that the dataset can serve if none is given."""
    info = registry.datasets().get(dataset)
    published = recipes_of(info).seeds or [0]
    options = block["methods"][0].get("options", {})
    seeds = located(Origin(""), (), lambda: parse_seeds(block["seeds"])) if "seeds" in block else published
    return {"draws": draws, "seeds": seeds[:1], "rule": rule or (usual_rule(info, options) if info else None)}


def usual_rule(dataset: PluginInfo, options: Mapping[str, Any]) -> str | None:
    """The rule that a search goes by if none is named, of those that the dataset has what is needed for.

    What is held out comes before training, what is not the test set before what is; then the rule that looks at more
    splits, and the one that uses groups where there are some, the worst rather than their mean.
    """
    splits = registry.splits_of(dataset, options)
    usable = [name for name in registry.rules() if registry.rule(name).criteria and lack(name, splits) is None]

    def rank(name: str) -> tuple[bool, bool, int, bool, bool]:
        rule = registry.rule(name)
        by_training = all(split.startswith("train") for split in rule.splits)
        finer = [what.split()[-1] in dataset.provides for what in rule.uses]  # groups, subsets
        return by_training, rule.oracle, -len(rule.splits), not any(finer), rule.criteria[0] is mean_over_groups

    return min(usable, key=rank, default=None)


def placed(dataset: str, method: str) -> tuple[tuple[str, str], ...]:
    """The places of a row, and whose name stands for each in `--set NAME.field=value`."""
    return ("hyper_parameters", method), ("training", "training"), ("options", dataset)


def places(changes: Changes, dataset: str, method: str, block: int, sets: Sequence[str]) -> dict[Where, str]:
    """Where the values of `--set` stand in an ad hoc grid, each with its option."""
    row: Where = ("datasets", block, "methods", 0)
    options = {given.partition("=")[0].strip(): f"--set {cut(given)}" for given in sets}
    home = {place: row[:2] if place == "training" and has_base(method) else row for place, _ in placed(dataset, method)}
    return {(*home[place], place, name): options[f"{owner}.{name}"]
            for place, owner in placed(dataset, method) for name in changes.get(owner, {})}  # fmt: skip


def starting_point(dataset: str, method: str, changes: Changes) -> dict[str, Any]:
    """A dataset block for one method: its recipe where there is one, with the changes on top."""
    recipes = recipes_of(registry.datasets().get(dataset))
    row: dict[str, Any] = {"method": method} | ({"recipe": method} if method in recipes.by_name else {})
    for place, name in placed(dataset, method):
        if changes.get(name):
            row[place] = changes[name]
    seeds = {} if recipes.seeds else {"seeds": "0-9"}
    shared = {"training": row.pop("training")} if "training" in row and has_base(method) else {}
    return {**seeds, "precision": "float32", "dataset": dataset, **shared, "methods": [row]}
