"""What is to be run: a grid's cells with the ids of their runs. A store has one plan for each grid.

Two grids may have one name, and a grid may be edited: see `kept_as`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.records.record import Id, Name, Part, Whole
from spurbench.bench.records.run import IDENTITY, Run, used

Text = Annotated[str, Meta(max_length=10_000)]
FileName = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f/\\.][^\x00-\x1f\x7f/\\]*\Z")]


class Choice(Part, frozen=True, omit_defaults=False):
    """By which rule settings and steps are chosen, and whether it looks at the test set."""

    rule: Name
    oracle: bool = False  # it uses the test set
    text: str = ""  # the rule in words


class Origin(Part, frozen=True):
    """Where a grid is from, hashed, and a hash of what is to be run: equal grids have it wherever their files are."""

    place: Name  # hash of the file's path
    content: Name  # hash of what is to be run


class Draw(Part, frozen=True, kw_only=True):
    """One candidate of a search, and its runs."""

    dataset_options: dict[str, Any]
    hyper_parameters: dict[str, Any]
    training: dict[str, Any]
    seeds: list[Whole]
    ids: list[Id]  # of its runs, one a seed
    base: dict[str, Any] | None = None  # the run that each starts from


class Search(Part, frozen=True, kw_only=True):
    """How a cell's settings are found; the search goes on while `chosen` is None."""

    rule: Name
    text: str  # budget and rule in words
    draws: list[Draw]
    chosen: int | None  # place of the chosen draw


class Cell(Part, frozen=True, kw_only=True):
    """One row of one dataset's table; `na` says why it cannot be run."""

    dataset: Name
    dataset_options: dict[str, Any]
    protocol_version: Whole
    method: Name
    label: Text  # name of the row
    published: Name | None  # row of datasets/published.yaml to show beside it
    hyper_parameters: dict[str, Any] | None  # None while they are searched
    training: dict[str, Any]
    precision: Name
    na: Text | None  # why it cannot be run
    seeds: list[Whole]
    ids: list[Id]  # none while the settings are searched
    search: Search | None  # of a cell whose settings are searched
    selection: Choice | None = None  # where it differs from the plan's
    source: Text | None = None  # where the settings are from, in words; None in plans that do not say
    base: dict[str, Any] | None = None  # the run that each starts from: method, settings, and the step of it
    inferred_by: dict[str, Any] | None = None  # the run that infers the groups that each is given, likewise

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of a run of the cell without the seed."""
        return {name: getattr(self, name) for name in IDENTITY}

    @property
    def draws(self) -> list[Draw]:
        return self.search.draws if self.search else []

    @property
    def draw_ids(self) -> list[str]:
        """The ids of the runs of its search."""
        return [id for draw in self.draws for id in draw.ids]

    @property
    def pending(self) -> bool:
        """Whether its settings are still searched."""
        return self.search is not None and self.search.chosen is None and not self.na

    @property
    def depends(self) -> bool:
        """Whether its runs start from others."""
        return bool(self.base or self.inferred_by or any(draw.base for draw in self.draws))

    @property
    def search_key(self) -> str:
        """What tells searches apart: what is searched for, by which runs, chosen by which rule."""
        rule = self.search.rule if self.search else ""
        return fingerprint([self.dataset, used(self.dataset_options), self.label, rule, self.draw_ids])

    def parts(self) -> Iterator[tuple[dict[str, Any], list[int], list[str]]]:
        """The identity, seeds and ids of each draw of its search, then of the cell itself."""
        for draw in self.draws:
            names = ("dataset_options", "hyper_parameters", "training", "base")
            yield self.identity | {name: getattr(draw, name) for name in names}, draw.seeds, draw.ids
        yield self.identity, self.seeds, self.ids


class Plan(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All cells of a grid, as far as the searches among them have come."""

    schema: int  # version of this format
    grid: FileName  # name
    description: Text
    selection: Choice
    notes: list[Text]  # for the reader of every leaderboard
    cells: list[Cell]
    origin: Origin | None = None
    superseded: list[Id] = []  # draws of plans this one has replaced: none of them becomes a result

    @property
    def draw_ids(self) -> list[str]:
        """The ids of the runs of all its searches."""
        return [id for cell in self.cells for id in cell.draw_ids]

    @property
    def ids(self) -> list[str]:
        """The ids of all runs, searches' draws included, each once."""
        return list(dict.fromkeys(id for cell in self.cells for id in (*cell.draw_ids, *cell.ids)))

    def runs(self) -> list[tuple[Run, Cell]]:
        """Every run, searches' draws included, each with its cell; an id comes once."""
        found: dict[str, tuple[Run, Cell]] = {}
        for cell in self.cells:
            for fields, seeds, ids in cell.parts():
                for id, seed in zip(ids, seeds, strict=False):  # no ids: nothing to run yet
                    if id not in found:
                        run = Run(**fields, seed=seed)
                        vars(run)["id"] = id  # known: not to be hashed again
                        found[id] = run, cell
        return list(found.values())

    def bases(self, dependents: Collection[str]) -> dict[str, tuple[Run, set[int]]]:
        """The runs that these (by id) start from and, first, those that those start from; the steps needed of each."""
        found: dict[str, tuple[Run, set[int]]] = {}
        cells = [cell for cell in self.cells if cell.depends]
        wanted = set(dependents) if cells else set()
        for cell in cells:
            for fields, seeds, ids in cell.parts():
                for id, seed in zip(ids, seeds, strict=False):
                    if id in wanted:
                        gather_bases(Run(**fields, seed=seed), found)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As it is written, in plain values."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def with_(self, **changes: Any) -> Plan:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)


def gather_bases(run: Run, found: dict[str, tuple[Run, set[int]]]) -> None:
    """Add what a run starts from, at any distance, the farthest first."""
    for base, steps in run.bases:
        gather_bases(base, found)
        found.setdefault(base.id, (base, set()))[1].update(steps)


def kept_as(plan: Plan, there: Iterable[Plan]) -> Plan:
    """The plan as it is put beside those of a store, one of which it may replace.

    The draws of a plan it replaces stay known as draws, in `superseded`, so that none of them becomes a result.
    """
    by_name = {one.grid: one for one in there}
    name = name_among(plan.grid, plan.origin, by_name)
    former = by_name.get(name)
    if former is None:
        return plan.with_(grid=name)
    known = {*former.superseded, *former.draw_ids} - set(plan.draw_ids)
    origin = plan.origin
    if former.origin and origin:
        origin = Origin(former.origin.place, origin.content)
    return plan.with_(grid=name, origin=origin, superseded=sorted(known))


def name_among(name: str, origin: Origin | None, there: Mapping[str, Plan]) -> str:
    """The name of a grid's plan in a store: its own, or `NAME-2` and so on beside other grids of that name.

    A plan is the same grid's if its file was at the same place (it may have been edited since), or if what is to be run
    is the same (the file was copied or moved); one that does not say where it is from is taken for the same.
    """
    names = [name, *(f"{name}-{number}" for number in range(2, len(there) + 3))]
    origins = {one: there[one].origin for one in names if one in there}
    if origin:
        for part in ("place", "content"):
            wanted = getattr(origin, part)
            if found := next((one for one, there in origins.items() if there and getattr(there, part) == wanted), None):
                return found
    if found := next((one for one, there in origins.items() if not there or not origin), None):
        return found
    return next(one for one in names if one not in there)


def decided(plans: Iterable[Plan]) -> dict[str, int]:
    """Search → the draw that was chosen."""
    cells = (cell for plan in plans for cell in plan.cells if cell.search)
    return {cell.search_key: cell.search.chosen for cell in cells if cell.search and cell.search.chosen is not None}
