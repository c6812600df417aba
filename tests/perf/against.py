"""The time of a training step here and in another commit, in turn: `python tests/perf/against.py COMMIT`.

Each commit trains the cells in a process of its own, bound to one core, the two alternating; printed are the medians of
both and of their ratios. Other work on the machine disturbs them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CELLS = {
    "Two-Moon ERM, 5 seeds": ("two_moon", "erm", "float32", 5, 300),
    "Two-Moon SD, 5 seeds": ("two_moon", "sd", "float32", 5, 300),
    "Two-Moon LfF, 5 seeds": ("two_moon", "lff", "float32", 5, 200),
    "Two-Moon ERM, 1 seed": ("two_moon", "erm", "float32", 1, 800),
    "Colored MNIST SD, float32": ("colored_mnist", "sd", "float32", 1, 4),
    "Colored MNIST IRM, float32": ("colored_mnist", "irm", "float32", 1, 4),
}

STEPS = """
import json, statistics, sys, time
from importlib import import_module

def find(*places):  # the first that there is: older commits have others
    for module, _, name in (place.partition(":") for place in places):
        try:
            return getattr(import_module(f"spurbench.bench.{module}"), name)
        except (ImportError, AttributeError):
            pass
    raise SystemExit(f"none of {places}")

Engine = find("training.engine:Engine", "engine:Engine")
Options = find("training.execution:Options", "engine:Options")
prepare = find("training.replica:prepare", "engine:prepare")
load_dataset = find("plugins.registry:load_dataset", "registry:load_dataset")
load_method = find("plugins.registry:load_method", "registry:load_method")
find("jobs.memory:tune_process", "worker:tune")(1)
found = {}
for name, (dataset, method, precision, seeds, steps) in json.loads(sys.argv[1]).items():
    adapter, chosen = load_dataset(dataset)(), load_method(method)()
    drawn = [prepare(adapter, chosen, adapter.training, seed) for seed in range(seeds)]
    engine = Engine(chosen, adapter.training, precision, Options(), drawn)
    for _ in range(steps // 10 + 1):
        engine.update()
    parts = []
    for _ in range(4):  # the quickest quarter is the least disturbed one
        begun = time.perf_counter()
        for _ in range(max(1, steps // 4)):
            engine.update()
        parts.append((time.perf_counter() - begun) / max(1, steps // 4))
    found[name] = min(parts)
print(json.dumps(found))
"""


def measured(package: Path, cells: dict[str, tuple[str, str, str, int, int]]) -> dict[str, float]:
    """Seconds of a step of each cell under the code of a folder called `spurbench`."""
    core = min(os.sched_getaffinity(0))
    line = ["taskset", "-c", str(core), sys.executable, "-P", "-c", STEPS, json.dumps(cells)]
    environment = os.environ | {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the one to compare with")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (7)")
    parser.add_argument("--only", default="", help="cells whose name has this in it")
    given = parser.parse_args()
    cells = {name: cell for name, cell in CELLS.items() if given.only.lower() in name.lower()}
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder) / "here" / "spurbench", Path(folder) / "there" / "spurbench"
        here.parent.mkdir()
        here.symlink_to(ROOT)
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", there, given.commit], check=True,
                       capture_output=True)  # fmt: skip
        try:
            rounds = [(measured(there, cells), measured(here, cells)) for _ in range(given.rounds)]
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", there], check=True)
    for name in cells:
        before, now = ([each[at][name] * 1e3 for each in rounds] for at in (0, 1))
        ratio = statistics.median(one / other for one, other in zip(now, before, strict=True))
        print(f"{name}: {statistics.median(before):.3g} → {statistics.median(now):.3g} ms, {ratio:.3f}")


if __name__ == "__main__":
    main()
