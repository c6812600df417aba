"""What `estimate` says of ten cells that have little in common, against what their runs then take.

python tests/perf/estimates.py, or with the rest by `make perf`. The grid is estimates.yaml, beside this file.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from commands import command

from spurbench.bench.store.store import Store

GRID = Path(__file__).with_suffix(".yaml")


def measure() -> dict[str, list[float]]:
    """Of each cell the seconds of a run: estimated, and the median of those trained."""
    estimates = json.loads(command("estimate", str(GRID), "--json"))
    estimated = {f"{row['dataset']} × {row['label']}": row["seconds"] for row in estimates}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        command("run", str(GRID), "--store", f"{folder}/store")
        store = Store.open(Path(folder) / "store")
        for cell in store.plans()[0].cells:
            name = f"{cell.dataset} × {cell.label}"
            took = [record.cost.seconds for id in cell.ids if (record := store.record(id)) and record.cost]
            found[name] = [estimated[name], statistics.median(took)]
    return found


def rows(found: dict[str, list[float]]) -> list[tuple[str, str]]:
    return [
        (f"estimate, {name}", f"{guess:.1f} s a run; it took {took:.1f} s, {guess / took - 1:+.0%}")
        for name, (guess, took) in found.items()
    ]


if __name__ == "__main__":
    for what, value in rows(measure()):
        print(f"{what}: {value}")
