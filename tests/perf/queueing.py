"""Submitting 5,000 tasks and asking for them, with a queue that answers at once: `python tests/perf/queueing.py`.

What is measured is the harness; how often it asks SLURM is counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from commands import PROGRAM
from fake_slurm import FakeSlurm


def grid_of(tasks: int) -> str:
    """A grid of so many cells of one seed and one step."""
    rates = ", ".join(f"{i}e-5" for i in range(1, tasks + 1))
    methods = f"[{{method: erm, training: {{lr: [{rates}]}}}}]"
    return f"seeds: 0\ndatasets: [{{dataset: two_moon, training: {{steps: 1}}, methods: {methods}}}]\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fake = FakeSlurm(folder / "fake")
        grid, store = folder / "many.yaml", folder / "store"
        grid.write_text(grid_of(5000))
        environment = os.environ | {"PATH": f"{fake.bin}:{os.environ['PATH']}"}
        send = ("submit", grid, "--store", store, "--node-local")
        for words in (send, ("status", store), send, ("cancel", store), ("status", store)):
            asked, begun = len(fake.calls("squeue")), time.monotonic()
            line = [sys.executable, "-P", "-c", PROGRAM, *map(str, words)]
            said = subprocess.run(line, check=True, env=environment, capture_output=True, text=True).stdout
            took, asked = time.monotonic() - begun, len(fake.calls("squeue")) - asked
            print(f"{words[0]}: {took:.1f} s, {asked} squeue; {said.strip().splitlines()[0].strip()}")


if __name__ == "__main__":
    main()
