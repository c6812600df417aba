"""How busy the cores are while a grid of sixty short runs goes through, with stages, features, all starts and records.

python tests/perf/busy.py, or with the rest by `make perf`. The grids are busy.yaml, beside this file, and as many runs
of two of its rows that need no other run.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from pathlib import Path

import yaml
from commands import command
from turns import ROUNDS

from spurbench.bench.core import machine

GRID = Path(__file__).with_suffix(".yaml")
SINGLE = {"erm", "group_dro"}  # rows that need no other run


def without_stages(folder: Path) -> Path:
    """The grid of the rows that need no other run, each with three times the seeds."""
    grid = yaml.safe_load(GRID.read_text())
    grid["seeds"] = "0-29"
    grid["datasets"][0]["methods"] = sorted(SINGLE)
    file = folder / "single.yaml"
    file.write_text(yaml.safe_dump(grid))
    return file


def busy(grid: Path, store: Path) -> list[float]:
    """Seconds that a grid takes, and the share of them that the cores compute."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command("run", str(grid), "--store", str(store))
    took, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [took, computed / (took * machine.cores())]


def measure() -> dict[str, list[float]]:
    """Of each grid the median time and share."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grids = {"60 short runs": without_stages(folder), "60 short runs with stages and features": GRID}
        found: dict[str, list[list[float]]] = {what: [] for what in grids}
        for i in range(ROUNDS):
            for what, grid in grids.items():
                found[what].append(busy(grid, folder / f"{grid.stem}-{i}"))
    return {what: [statistics.median(values) for values in zip(*each, strict=True)] for what, each in found.items()}


def rows(found: dict[str, list[float]]) -> list[tuple[str, str]]:
    return [(what, f"{took:.0f} s, the cores {share:.0%} busy") for what, (took, share) in found.items()]


if __name__ == "__main__":
    for what, value in rows(measure()):
        print(f"{what}: {value}")
