"""The keys of a grid file, and errors that name the line and the nearest key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from spurbench.bench.core.errors import cut, say_unknown
from spurbench.bench.core.fields import quote_value
from spurbench.bench.core.seeds import parse_seeds
from spurbench.bench.core.yamlfile import Origin, Where
from spurbench.bench.plugins import registry

Seeds = Annotated[list[int], BeforeValidator(parse_seeds)]
PRECISIONS = ("float32", "bf16", "fp16")
Precision = Literal["float32", "bf16", "fp16", "auto"]
Sheet = TypeVar("Sheet", bound=BaseModel)
BY_DEFAULT = "defaults"  # instead of a recipe
Given = dict[str, Any]
"""Checked later: against the fields of the method, the dataset or Training; resources by the launcher they are for."""


def known_rule(name: object) -> object:
    """A selection rule's name, as given, if there is such a rule."""
    known = registry.rules()
    if name not in known:
        raise ValueError(f"{say_unknown('selection rule', str(name), known)} (or --plugin FILE)")
    return name


def short_for(key: str, kind: type = str) -> BeforeValidator:
    """A text (or a list) stands for a mapping with this key: `- erm` for `- {method: erm}`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, kind) else value)


RuleName = Annotated[str, BeforeValidator(known_rule)]


class Strict(BaseModel):
    """A mapping with these keys and no others; `1` is no text and `"1"` no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SearchSheet(Strict):
    """How the hyper-parameters of a cell are found: draws (or all combinations), seeds, rule and budget."""

    draws: int | None = Field(default=None, ge=1, le=100_000)  # random draws; left out: all combinations of lists
    seeds: Seeds = [0]  # that each draw is trained with; its score is their mean
    rule: RuleName | None = None  # that picks a draw; by default the block's or grid's `selection`
    space: Given | None = None  # what varies, as `eta` or `training.lr`; by default the ranges that the method declares
    options: Given = {}  # dataset options of the draws alone, such as a smaller training set
    training: Given = {}  # training fields of the draws alone, such as fewer steps


class BaseSheet(Strict):
    """The run that each run of a row starts from, where it is to differ from what the method declares."""

    method: str | None = None  # its name; by default the one that the row's method declares
    hyper_parameters: Given = {}  # of that method
    training: Given = {}  # over the block's
    step: int | float | None = None  # after which it is looked at; 0.5 is half of its training, 1.0 its end
    groups: Annotated[GroupsSheet, short_for("from")] | None = None  # inferred ones that it is given itself


class GroupsSheet(Strict):
    """Which groups a row has: those of some named attributes, or ones that a method infers."""

    by: list[str] | None = Field(default=None, min_length=1)  # named attributes: with y they make the groups
    from_: str | None = Field(default=None, alias="from")  # name of the method that infers them
    # selection: they only choose settings and steps; by default they also train, where the method takes groups
    use: Literal["training", "selection"] = "training"
    hyper_parameters: Given = {}  # of that method
    training: Given = {}  # of a method that infers from its own runs, over the block's
    base: BaseSheet | None = None  # of a method that infers from another run


def one_kind(groups: GroupsSheet) -> GroupsSheet:
    """What says which groups, and nothing about a method where none infers them."""
    if groups.by is None and groups.from_ is None:
        raise ValueError("groups: give 'by', a list of named attributes, or 'from', a method that infers them")
    given = [key for key in ("use", "hyper_parameters", "training", "base") if key in groups.model_fields_set]
    if groups.from_ is None and given:
        raise ValueError(f"{given[0]} in groups is of a method that infers them: give it as 'from'")
    return groups


Groups = Annotated[GroupsSheet, AfterValidator(one_kind), short_for("from"), short_for("by", list)]


class MethodSheet(Strict):
    """One row of the leaderboard, or several if values are lists or ranges."""

    method: str  # its name
    label: str | None = Field(default=None, min_length=1, max_length=80)  # name of the row; by default the method's
    published: str | None = None  # row of datasets/published.yaml to show beside it; null for none
    recipe: str | None = None  # the method's recipe beside the dataset that it starts from; by default its own
    hyper_parameters: Given = {}  # a list is a row for each value, {low, high, scale} a range for `draws`
    training: Given = {}  # over the block's
    options: Given = {}  # over the block's
    # the run that each starts from, of a method that starts from one; a method's name is short for {method: NAME}
    base: Annotated[BaseSheet, short_for("method")] | None = None
    # others than the dataset's; a list of named attributes is short for {by: LIST}, a method's name for {from: NAME}
    groups: Groups | None = None
    seeds: Seeds | None = None  # instead of the block's
    draws: int | None = Field(default=None, ge=1, le=100_000)  # rows drawn at random from lists and ranges
    search: SearchSheet | None = None  # finds the hyper-parameters before the seeds are run
    resources: Given = {}  # of a cluster task, over the block's


class DatasetSheet(Strict):
    """One dataset with the methods that run on it."""

    dataset: str  # its name
    options: Given = {}  # dataset options
    groups: list[str] | None = Field(default=None, min_length=1)  # named attributes that make the groups
    training: Given = {}  # training fields, over the dataset's own
    precision: Precision | None = None  # instead of the grid's
    seeds: Seeds | None = None  # instead of the grid's
    selection: RuleName | None = None  # instead of the grid's
    paper_budget: bool = False  # the budget is the paper's: rows named like a published one are shown beside it
    resources: Given = {}  # of a cluster task, over the grid's
    # a method's name is short for {method: NAME}
    methods: list[Annotated[MethodSheet, short_for("method")]] = Field(min_length=1)


class GridSheet(Strict):
    """A grid file."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")  # by default the file's
    description: str = ""  # one line, for `list` and `plan`
    selection: RuleName = "none"  # rule that picks a run's step, and a search's draw
    notes: list[str] = []  # printed below every leaderboard of this grid
    precision: Precision = "float32"  # auto: bf16 where the machine has it
    seeds: Seeds | None = None  # such as 7, 0-9 or [1, 2, 5]; here, in a block or in a row
    resources: Given = {}  # of a cluster task, for all cells
    datasets: list[DatasetSheet] = Field(min_length=1)  # what to run


def validate(data: Any, origin: Origin) -> GridSheet:
    """The grid file's content, its keys and their types checked.

    Errors: UserError naming the first mistake's file and line, and the nearest valid key.
    """
    if not isinstance(data, Mapping):
        raise origin.error((), "expected keys such as 'datasets:' at the top of a grid")
    return checked(data, GridSheet, origin, (), "the grid")


def checked(data: Any, model: type[Sheet], origin: Origin, where: Where, inside: str) -> Sheet:
    """The part of a file at `where`, its keys and their types checked; `inside` is its name in errors."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        # a misspelt key also leaves its right name missing: tell of the misspelling
        first = min(wrong, key=lambda item: (item["type"] == "missing", origin.lines.get((*where, *item["loc"]), 0)))
        others = len({place_of(item) for item in wrong}) - 1
        more = f" (and {others} more)" if others else ""
        raise origin.error((*where, *first["loc"]), explain(first, model, inside) + more) from None


def place_of(wrong: ErrorDetails) -> tuple[int | str, ...]:
    """Where a finding is; pydantic appends the type where several would do, and has a finding for each."""
    where = wrong["loc"]
    return where[:-1] if where[-1:] in (("int",), ("float",)) else where


def explain(wrong: ErrorDetails, root: type[BaseModel], outermost: str) -> str:
    """One line for one of pydantic's findings."""
    where = place_of(wrong)
    key = str(where[-1]) if where else outermost
    inside = next((str(part) for part in reversed(where[:-1]) if isinstance(part, str)), outermost)
    if wrong["type"] == "extra_forbidden":
        return unknown_key(key, inside, keys_at(where[:-1], root))
    if wrong["type"] == "missing":
        return f"the key '{key}' is missing in {inside}"
    if wrong["type"] == "value_error":
        return wrong["msg"].removeprefix("Value error, ")
    if wrong["type"] == "string_pattern_mismatch":
        return f"{key} must be letters, digits, '.', '_' and '-', not {quote_value(wrong['input'])}"
    if len(where) < len(wrong["loc"]):
        return f"{key} in {inside} should be a number, not {quote_value(wrong['input'])}"
    said = re.sub(r"a valid dictionary or instance of \w+", "a mapping of keys, or a method's name", wrong["msg"])
    if said.startswith("Input should be "):
        return f"{key} in {inside} {said.removeprefix('Input ')}, not {quote_value(wrong['input'])}"
    return f"{key} in {inside}: {said[:1].lower()}{said[1:]}"


def unknown_key(key: str, inside: str, known: list[str]) -> str:
    """The complaint about a key that does not exist."""
    near = get_close_matches(key[:100], known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ";"
    return f"unknown key '{cut(key)}' in {inside}{hint} there are: {', '.join(known) or 'none'}"


def keys_at(where: Where, root: type[BaseModel]) -> list[str]:
    """The keys the schema has at a place of the file."""
    model: type[BaseModel] | None = root
    for part in where:
        if isinstance(part, str) and model is not None:
            model = next(models(model.model_fields[part].annotation), None)
    return sorted(field.alias or name for name, field in model.model_fields.items()) if model else []


def models(annotation: Any) -> Any:
    """The models inside an annotation such as `list[Annotated[Model, ...]]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)
