"""Published settings: what methods ran with on a dataset, in the file `NAME.recipes.yaml` beside the dataset's own."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from spurbench.bench.core.errors import say_unknown
from spurbench.bench.core.yamlfile import Origin, Where, load
from spurbench.bench.grid.schema import (
    BY_DEFAULT,
    DatasetSheet,
    Given,
    MethodSheet,
    RuleName,
    Seeds,
    Strict,
    checked,
    short_for,
)
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.registry import PluginInfo


class RecipeSheet(Strict):
    """What one method ran with; a second recipe of a method has a name of its own."""

    method: str
    name: str | None = Field(default=None, min_length=1, max_length=80)
    source: str | None = None
    published: str | None = None
    selection: RuleName | None = None
    hyper_parameters: Given = {}
    training: Given = {}


class RecipesSheet(Strict):
    """A file of recipes; what it says for all of them, each may say for itself."""

    source: str
    seeds: Seeds | None = None
    selection: RuleName | None = None
    training: Given = {}
    recipes: list[Annotated[RecipeSheet, short_for("method")]] = Field(min_length=1)


@dataclass(frozen=True)
class Recipe:
    """The published settings of one method on one dataset, and where they are from."""

    name: str
    method: str
    source: str
    published: str | None  # the published number that a run of exactly these settings is compared with
    selection: str | None
    values: Mapping[str, Mapping[str, Any]]  # place → name → value, as the file has them
    where: Where
    origin: Origin

    def rule(self, untouched: bool) -> str | None:
        """How these settings, or the steps of their runs, were chosen; changed ones no one chose by the test set."""
        oracle = self.selection is not None and registry.rule(self.selection).oracle
        return self.selection if untouched or not oracle else None


@dataclass(frozen=True)
class Recipes:
    """Those of a dataset by name, the plain ones by that of their method; and the seeds that were published."""

    seeds: list[int] | None
    by_name: Mapping[str, Recipe]


def recipes_of(dataset: PluginInfo | None) -> Recipes:
    """The recipes beside a dataset's file; none if there is no such file.

    Errors: UserError with file and line.
    """
    file = dataset.path.with_suffix(".recipes.yaml") if dataset else None
    return read(file, file.stat().st_mtime_ns) if file and file.is_file() else Recipes(None, {})


@cache
def read(file: Path, changed: int) -> Recipes:
    """The recipes of a file as it was when it was last changed."""
    data, origin = load(file, file.name)
    if not isinstance(data, Mapping):
        raise origin.error((), "expected keys such as 'recipes:' at the top of recipes")
    sheet = checked(data, RecipesSheet, origin, (), "the recipes")
    found: dict[str, Recipe] = {}
    for place, one in enumerate(sheet.recipes):
        where: Where = ("recipes", place)
        name = one.name or one.method
        if name in found or name == BY_DEFAULT:
            raise origin.error(where, f"another recipe '{name}'; give it a 'name:'")
        values = {"hyper_parameters": one.hyper_parameters, "training": {**sheet.training, **one.training}}
        found[name] = Recipe(name, one.method, one.source or sheet.source, one.published,
                             one.selection or sheet.selection, values, where, origin)  # fmt: skip
    return Recipes(sheet.seeds, found)


def chosen(block: DatasetSheet, entry: MethodSheet, dataset: PluginInfo, commanded: Set[str]) -> Recipe | None:
    """The recipe of an entry: the one it names, else its method's if neither it nor its block gives settings.

    What the command line puts into the block stands on top of a recipe: `commanded` are those fields of training.

    Errors: ValueError for a name that there is not, or another method's.
    """
    known = recipes_of(dataset).by_name
    if entry.recipe is None:
        own_settings = block.training.keys() - commanded or entry.hyper_parameters or entry.training
        return None if own_settings else known.get(entry.method)
    if entry.recipe == BY_DEFAULT:
        return None
    own = {name: one for name, one in known.items() if one.method == entry.method}
    if entry.recipe not in own:
        raise ValueError(say_unknown(f"recipe of {entry.method} on {dataset.name}", entry.recipe, [*own, BY_DEFAULT]))
    return own[entry.recipe]
