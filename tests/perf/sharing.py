"""What shared bases save: the training time of a grid's runs as they are, and if each row trained its own bases.

python tests/perf/sharing.py results/celeba_twin_methods/records.jsonl.gz celeba_twin_methods
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from spurbench.bench.records.plan import Cell
from spurbench.bench.records.run import Run
from spurbench.bench.store.store import Store


def needed(run: Run) -> Iterator[str]:
    """The ids of a run and of all that it starts from."""
    yield run.id
    for base, _ in run.bases:
        yield from needed(base)


def runs_of(cell: Cell) -> set[str]:
    """The ids of a row's runs, of its search and of what they start from."""
    runs = [Run(**identity, seed=seed) for identity, seeds, _ in cell.parts() for seed in seeds]
    return {id for run in runs for id in needed(run)}


def seconds_of(file: str | Path, grid: str) -> tuple[float, float]:
    """The training time of a grid's runs as they are, and if each row trained its own bases."""
    store = Store.open(file)
    seconds = {record.id: record.cost.seconds for record in store.whole_records()}
    (plan,) = [plan for plan in store.plans() if plan.grid == grid]
    rows = [runs_of(cell) for cell in plan.cells]
    return sum(map(seconds.__getitem__, set().union(*rows))), sum(seconds[id] for row in rows for id in row)


def main(file: str, grid: str) -> None:
    shared, apart = seconds_of(file, grid)
    print(f"{shared:,.0f} s as they are, {apart:,.0f} s if each row trained its own: {shared / apart:.0%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
