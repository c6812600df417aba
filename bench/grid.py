"""Grids: a YAML file or command-line options, validated, resolved to cells and expanded to runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spurbench.bench import registry
from spurbench.bench.errors import UserError, cut, unknown
from spurbench.bench.home import at_home
from spurbench.bench.plans import decided, search_of
from spurbench.bench.record import IDENTITY, SCHEMA, Record, Run, fingerprint, run_ids, settled
from spurbench.bench.selection import RULES, Scores, at_its_best, lack, mean_scores
from spurbench.bench.yamlfile import Origin, Where, load, scalar

if TYPE_CHECKING:
    from spurbench.bench.gridfile import GridSheet

SHIPPED = Path(__file__).with_name("grids")
Plan = dict[str, Any]
Changes = dict[str, dict[str, Any]]
"""What `--set` changes: a method's name, a dataset's or "training" → field → value."""
T = TypeVar("T")


@dataclass(frozen=True)
class Draw:
    """One candidate of a search: the settings it runs with, and those it would give the cell."""

    final: Mapping[str, Mapping[str, Any]]  # place → name → value: the settings of the cell if this one is chosen
    hyper_parameters: Mapping[str, Any]
    training: Mapping[str, Any]
    dataset_options: Mapping[str, Any]


@dataclass(frozen=True)
class Search:
    """How a cell's hyper-parameters are found."""

    rule: str
    text: str  # the budget and the rule in words
    seeds: tuple[int, ...]
    draws: tuple[Draw, ...]


@dataclass(frozen=True)
class Cell:
    """One row of one dataset's table, every value resolved; `na` says why it cannot run."""

    dataset: str
    dataset_options: Mapping[str, Any]
    protocol_version: int
    method: str
    label: str
    published: str | None
    hyper_parameters: Mapping[str, Any]
    training: Mapping[str, Any]
    precision: str
    seeds: tuple[int, ...]
    na: str | None = None
    selection: Mapping[str, Any] = field(default_factory=dict)
    search: Search | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)  # what a launcher on a cluster should ask for


@dataclass(frozen=True)
class Grid:
    """A validated grid, every cell resolved; nothing in it can be a user's mistake any more."""

    name: str
    description: str
    selection: Mapping[str, Any]  # {rule, oracle, text}
    notes: tuple[str, ...]
    cells: tuple[Cell, ...]
    place: str = ""  # where its file is, hashed; the same grid, edited, is found by it

    @property
    def origin(self) -> dict[str, str]:
        """Where it is from and a hash of what is to be run: equal grids have it wherever their files are."""
        cells = [asdict(cell) | {"resources": None} for cell in self.cells]
        return {"place": self.place, "content": fingerprint(cells)[:16]}


def shipped_grids() -> dict[str, str]:
    """The grids that come with spurbench: name → description."""
    found = {}
    for file in sorted(SHIPPED.glob("*.yaml")):
        data, _ = load(file, file.name)
        found[file.stem] = str(data.get("description", "")).strip()
    return found


def load_grid(name_or_path: str) -> Grid:
    """The shipped grid of that name, or the grid file at that path.

    Errors: UserError `file:line: what is wrong; the nearest valid name`.
    """
    data, origin, stem = read_grid(name_or_path)
    shipped = SHIPPED / f"{name_or_path}.yaml"
    place = f"shipped {name_or_path}" if shipped.is_file() else str(at_home(Path(name_or_path)).resolve())
    return replace(resolve(data, origin, stem), place=fingerprint(place)[:16])


def read_grid(name_or_path: str) -> tuple[Any, Origin, str]:
    """The raw content of a grid, where it came from, and its file's stem."""
    shipped = {file.stem: file for file in SHIPPED.glob("*.yaml")}
    path = shipped.get(name_or_path) or at_home(Path(name_or_path))
    try:
        data, origin = load(path, path.name if name_or_path in shipped else str(path))
    except FileNotFoundError:
        error = unknown("grid", name_or_path, shipped)
        raise UserError(f"{error}, or the path of a .yaml file") from None
    return data, origin, path.stem


def resolve(data: Any, origin: Origin, name: str) -> Grid:
    """The grid of a file's content; `name` if the file gives none."""
    from spurbench.bench.cells import cells_of  # pydantic comes with these
    from spurbench.bench.gridfile import validate

    sheet: GridSheet = validate(data, origin)
    cells = tuple(cells_of(sheet, origin))
    rule = RULES[sheet.selection].to_dict(sheet.selection)
    return Grid(sheet.name or name, sheet.description.strip(), rule, tuple(sheet.notes), cells)


def adhoc_grid(
    dataset: str | Sequence[str],
    methods: Sequence[str],
    seeds: str | Sequence[int] | None = None,
    sets: Sequence[str] = (),
    precision: str | None = None,
) -> Grid:
    """The grid of `run --dataset … --method … --seeds 0-9 --set sd.coef=0.1`, without a file.

    Each dataset × method starts from the shipped `paper` grid where it has that pair (its settings, not
    its search), else from defaults. A key of `sets` is `method.name`, `training.name` or `dataset.name`;
    a list as value (`sd.coef=[0.1,1]`) runs each of them.
    """
    names = [dataset] if isinstance(dataset, str) else list(dataset)
    changes = parsed_sets(sets, names, methods)
    paper = read_grid("paper")[0]
    blocks: list[dict[str, Any]] = []
    told: dict[Where, str] = {}
    for name in names:
        for method in methods:
            own = changes if trained(method) or not any(map(trained, methods)) else changes | {"training": {}}
            block = starting_point(paper, name, method, own)
            told |= places(own, name, method, len(blocks), sets)
            block |= {"seeds": seeds if isinstance(seeds, str) else list(seeds)} if seeds is not None else {}
            blocks.append(block | ({"precision": precision} if precision else {}))
    data = {
        "description": f"{', '.join(methods)} on {', '.join(names)}, from the command line",
        "selection": "none",
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


def starting_point(paper: Any, dataset: str, method: str, changes: Changes) -> dict[str, Any]:
    """A dataset block for one method: the paper's where it has one, with the changes on top."""
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (block, entry)
        for block in paper["datasets"]
        for entry in ({"method": each} if isinstance(each, str) else each for each in block["methods"])
        if (block["dataset"], entry["method"]) == (dataset, method)
    ]
    block, entry = min(pairs, key=lambda pair: "label" in pair[1], default=({}, {}))  # one without a label
    kept = {key: value for key, value in entry.items() if key not in {"search", "label", "draws"}}
    compared = not any(changes.values()) and "search" not in entry
    row = {**kept, "method": method}
    row["published"] = entry.get("published", method if block.get("paper_budget") else None) if compared else None
    if changes.get(method) or changes.get("training"):  # no longer what someone chose by looking at the test
        block = {**block, "selection": "none"}
    for place, name in placed(dataset, method):
        if changes.get(name):
            row[place] = {**row.get(place, {}), **changes[name]}
    return {"seeds": "0-9", **block, "precision": "float32", "dataset": dataset, "methods": [row]}


def parsed_sets(sets: Iterable[str], datasets: Sequence[str], methods: Sequence[str]) -> Changes:
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


def expand(grid: Grid, records_by_id: Mapping[str, Record], before: Iterable[Plan] = ()) -> Plan:
    """The plan: every cell with the ids of its runs. A pure function of the grid, the records and the plans present.

    While a search is unfinished its cell has `chosen` null, no ids and no hyper-parameters; run what the
    plan lists, expand again with the new records, until nothing is pending. Of draws that score alike, one that a plan
    of `before` chose stays chosen.
    """
    taken = decided(before)
    return {
        "schema": SCHEMA,
        "grid": grid.name,
        "description": grid.description,
        "selection": dict(grid.selection),
        "notes": list(grid.notes),
        "origin": grid.origin,
        "superseded": [],
        "cells": [planned(cell, records_by_id, taken) for cell in grid.cells],
    }


def planned(cell: Cell, records: Mapping[str, Record], taken: Mapping[str, int]) -> dict[str, Any]:
    """One cell of the plan."""
    row: dict[str, Any] = {
        "dataset": cell.dataset,
        "dataset_options": dict(cell.dataset_options),
        "protocol_version": cell.protocol_version,
        "method": cell.method,
        "label": cell.label,
        "published": cell.published,
        "hyper_parameters": dict(cell.hyper_parameters),
        "training": dict(cell.training),
        "precision": cell.precision,
        "selection": dict(cell.selection),
        "na": cell.na,
        "seeds": [] if cell.na else list(cell.seeds),
        "ids": [],
        "search": None,
    }
    if cell.search and not cell.na:
        add_search(row, cell.search, records, taken)
    if not row["na"] and row["hyper_parameters"] is not None:
        row["ids"] = run_ids(row, row["seeds"])
    return row


def add_search(row: dict[str, Any], search: Search, records: Mapping[str, Record], taken: Mapping[str, int]) -> None:
    """Put the search into the cell, and its winner if every draw has come to an end."""
    draws: list[dict[str, Any]] = []
    for draw in search.draws:
        settings: dict[str, Any] = {
            "hyper_parameters": dict(draw.hyper_parameters),
            "training": dict(draw.training),
            "dataset_options": dict(draw.dataset_options),
            "seeds": list(search.seeds),
        }
        draws.append({**settings, "ids": run_ids({**row, **settings}, search.seeds)})
    ids = [id for draw in draws for id in draw["ids"]]
    finished = all(settled(records.get(id)) for id in ids)
    scores = [mean_scores(search.rule, [records[id] for id in draw["ids"]]) for draw in draws] if finished else []
    row["search"] = {"rule": search.rule, "draws": draws}
    chosen, failed = best(scores, taken.get(search_of(row))), scores.count(None)
    why = unserved(search.rule, [records[id] for id in ids if id in records])
    if finished and chosen is None:
        why = why or f"every draw of the search failed ({failed})"
    text = search.text + (f"; {failed} of {len(draws)} draws failed" if failed else "")
    draws = [begun(draw, records) for draw in draws] if why else draws  # no other is needed any more
    row["search"] |= {"text": text, "draws": draws, "chosen": chosen}
    if chosen is None:
        row["hyper_parameters"] = None
        row["na"] = why
        row["seeds"] = [] if why else row["seeds"]
    else:
        row["hyper_parameters"] = dict(search.draws[chosen].final["hyper_parameters"])
        row["training"] = dict(search.draws[chosen].final["training"])


def begun(draw: Mapping[str, Any], records: Mapping[str, Record]) -> dict[str, Any]:
    """The draw with those of its runs that there are."""
    there = [(id, seed) for id, seed in zip(draw["ids"], draw["seeds"], strict=True) if id in records]
    return {**draw, "ids": [id for id, _ in there], "seeds": [seed for _, seed in there]}


def unserved(rule: str, records: Iterable[Record]) -> str | None:
    """What a rule needs that the runs there are do not give, by the first that is done."""
    done = next((record for record in records if record["status"] == "done"), None)
    return None if done is None else lack(rule, at_its_best(done, rule)["splits"])


def best(scores: Sequence[Scores | None], before: int | None = None) -> int | None:
    """The place of the best scores, the first of equals; None if there are none.

    What was chosen `before` stays if the rule's own score is the best: its runs may be there.
    """
    found = [(score, -place) for place, score in enumerate(scores) if score is not None]
    stays = before is not None and before < len(scores) and (score := scores[before]) and score[0] == max(found)[0][0]
    return before if stays else -max(found)[1] if found else None


def runs(plan: Plan) -> list[tuple[Run, dict[str, Any]]]:
    """Every run the plan lists, searches' draws included, each with its cell; an id comes once."""
    found: dict[str, tuple[Run, dict[str, Any]]] = {}
    for cell in plan["cells"]:
        for part in [*(cell["search"] or {"draws": []})["draws"], cell]:
            fields = {name: part.get(name, cell[name]) for name in IDENTITY}
            for id, seed in zip(part["ids"], part["seeds"], strict=False):  # no ids: nothing to run yet
                if id not in found:
                    found[id] = (Run(**fields, seed=seed), cell)
                    vars(found[id][0])["id"] = id  # known: not to be hashed again
    return list(found.values())


SHOWN = ("dataset", "dataset_options", "label", "method", "precision", "na", "published")


def summary(plan: Plan) -> list[dict[str, Any]]:
    """One row per cell for `spurbench plan`: how many runs and updates, and why none."""
    rows, known = [], registry.methods()
    for cell in plan["cells"]:
        search = cell["search"] or {"draws": [], "text": None}
        counts = [(len(draw["ids"]), draw["training"].get("steps", 0)) for draw in search["draws"]]
        own = 0 if cell["na"] else len(cell["seeds"])
        idle = cell["method"] in known and not known[cell["method"]].trains
        row = {key: cell[key] for key in SHOWN} | {"runs": own, "search_runs": sum(n for n, _ in counts)}
        updates = own * cell["training"].get("steps", 0) + sum(n * steps for n, steps in counts)
        rows.append(row | {"updates": 0 if idle else updates, "search": search["text"]})
    return rows


def only(grid: Grid, patterns: Sequence[str]) -> Grid:
    """The grid with the cells that a pattern names: dataset, method, label or dataset/method, also `co*`.

    Errors: UserError for a pattern that names no cell.
    """
    if not patterns:
        return grid
    names = [cell_names(cell.dataset, cell.method, cell.label) for cell in grid.cells]
    kept = chosen(names, patterns, "dataset, method or label in the grid")
    return replace(grid, cells=tuple(grid.cells[place] for place in sorted(kept)))


def cell_names(dataset: str, method: str, label: str) -> tuple[str, ...]:
    """What a cell may be called by."""
    return dataset, method, label, f"{dataset}/{method}", f"{dataset}/{label}"


def chosen(rows: Sequence[Collection[str]], patterns: Iterable[str], kind: str) -> set[int]:
    """The places of the rows that the patterns name, each row given by all its names.

    What is a name as it stands means that one, even with `*`, `?` or `[` in it; else it is a pattern.
    Errors: UserError for one that names none, with the nearest name.
    """
    found: set[int] = set()
    for pattern in patterns:
        here = picked(rows, pattern)
        if not here:
            raise unknown(kind, pattern, {name for names in rows for name in names if "/" not in name})
        found |= here
    return found


def picked(rows: Sequence[Collection[str]], pattern: str) -> set[int]:
    """The places of the rows that one pattern names, as for `chosen`."""
    exact = {place for place, names in enumerate(rows) if pattern in names}
    return exact or {place for place, names in enumerate(rows) if any(fnmatchcase(name, pattern) for name in names)}


def at(origin: Origin, where: tuple[str | int, ...], action: Callable[[], T]) -> T:
    """What `action` returns; its complaint gets the file and the line of `where`."""
    try:
        return action()
    except (UserError, ValueError) as error:
        raise origin.error(where, str(error)) from None
