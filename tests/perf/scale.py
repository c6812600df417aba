"""Large stores: seconds and memory of the commands that read a whole store of 10,000 and of 100,000 records.

python tests/perf/scale.py [--records 100000 ...] [--store FOLDER]. The store is that of a grid of Two-Moon, its records
as long as those of `results/` (4 kB), all done. Each command is run twice: the first makes the index, the second reads
it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from commands import PROGRAM
from make_records import make_record

from spurbench.bench.core.hashing import canonical
from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid
from spurbench.bench.provenance import plugin_code
from spurbench.bench.records.record import Record, seal
from spurbench.bench.records.run import Run
from spurbench.bench.store.store import Store

SEEDS = 100  # of a row
GRID = """\
name: large
seeds: 0-{last}
datasets:
  - dataset: two_moon
    methods:
      - method: sd
        hyper_parameters: {{coef: [{values}]}}
"""


def grid_file(folder: Path, records: int) -> Path:
    rows = max(1, records // SEEDS)
    file = folder / "large.yaml"
    file.write_text(
        GRID.format(last=min(records, SEEDS) - 1, values=", ".join(f"{i / 1e4:g}" for i in range(1, rows + 1)))
    )
    return file


def record_of(run: Run) -> Record:
    """A record as long as those in results/."""
    right = [500 + run.seed % 17, 480 + len(run.id) % 5]
    counts = {"n": [1000, 1000], "correct": right, "loss_sum": 812.53125 + run.seed, "entropy_sum": 733.25 + run.seed}
    point = {"loss": 0.6944924592971802, "train_accuracy": 0.48654, "test_accuracy": 0.4612}
    code = {kind: plugin_code.loaded(kind, getattr(run, kind)) for kind in ("method", "dataset")}
    return make_record(
        **run.to_dict(), groups=["y0", "y1"], classes=2, attributes=1, headline=[["test", "accuracy"]],
        splits=dict.fromkeys(("train", "test", "coloured_blank", "coloured_digit", "grey_blank", "train_e0"), counts),
        history=[{"step": step, **point} for step in range(0, 88, 4)],
        predictions=f"predictions/{run.id[:2]}/{run.id}.npz",
        provenance={
            "commit": "8c86fe7336b4f991d41f477168606204a7c6a07f", "device": "cpu", "code": code,
            "started": "2026-11-25T21:06:12+00:00", "finished": "2026-11-25T21:07:48+00:00",
            "hardware": {"bf16": True, "cores": 2, "cpu": "AMD EPYC", "gpu": None},
            "versions": {"numpy": "2.4.6", "python": "3.11.7", "scikit-learn": "1.9.1", "spurbench": "0.1.0",
                         "torch": "2.14.1"},
        },
    )  # fmt: skip


def make_store(folder: Path, records: int) -> Store:
    """A store with all records of the large grid but its plan; files are written as they are, without syncing them."""
    store = Store.open(folder / "store", create=True)
    for run, _ in expand(load_grid(str(grid_file(folder, records))), {}).runs():
        file = store.path("records", run.id, ".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(canonical(seal(record_of(run))))
    return store


def measure(folder: Path, records: int) -> Iterator[tuple[str, float, float]]:
    """Each command with its seconds and MB."""
    store, grid = str(make_store(folder, records).root), str(folder / "large.yaml")
    for words in (
        ["run", grid, "--store", store], ["run", grid, "--store", store],
        ["status", store, "--json"], ["status", store, "--json"],
        ["leaderboard", store, "--format", "csv"], ["leaderboard", store, "--format", "csv"],
        ["plan", grid, "--json"],
    ):  # fmt: skip
        yield f"{words[0]}", *timed(words)


def timed(words: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of a command."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, words
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="*", default=[10_000, 100_000])
    asked: Any = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    for records in asked.records:
        with tempfile.TemporaryDirectory() as folder:
            for command, seconds, memory in measure(Path(folder), records):
                print(f"{records:,} records: {command}: {seconds:.1f} s, {memory:.0f} MB", flush=True)
                found.setdefault(f"{records}", {}).setdefault(command, []).extend((round(seconds, 2), round(memory)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
