"""Speed, measured in one run and in turn: ours against what one would do otherwise, and the harness's own costs.

make perf; the figures are printed and written to results/perf/, with --only those of some sections, the others kept.
Ratios of medians; other work on the machine disturbs them, so nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attacks
import busy
import estimates
import million
import reading
import torch
import training
from commands import command_seconds
from queueing import grid_of

from spurbench.bench.core import machine
from spurbench.bench.core.errors import unknown
from spurbench.bench.records.record import Counts
from spurbench.bench.training.execution import Options

ROOT = Path(__file__).parents[2]
OUT = ROOT / "results" / "perf"
Row = tuple[str, str]  # of perf.md: what was measured, and the figures in words


# ---- the harness's own costs ----------------------------------------------------------------------------------------


def big_grid(folder: Path) -> Path:
    """A grid of 10,000 runs: 5 methods × 20 learning rates × 100 seeds."""
    rates = ", ".join(f"{1e-4 * (i + 1):.4f}" for i in range(20))
    methods = ("erm", "sd", "irm", "rex", "lff")
    rows = "".join(f"      - {{method: {name}, training: {{lr: [{rates}], steps: 1}}}}\n" for name in methods)
    file = folder / "big.yaml"
    file.write_text(f"datasets:\n  - dataset: colored_mnist\n    seeds: 0-99\n    methods:\n{rows}")
    return file


def finished_store(folder: Path, grid: Path) -> Path:
    """A store in which every run of the grid has a record of the usual size, made up for timing only."""
    from spurbench.bench.grid.expand import expand
    from spurbench.bench.grid.load import load_grid
    from spurbench.bench.jobs.recording import begin_record
    from spurbench.bench.store.store import Store

    store = Store.open(folder / "store", create=True)
    planned = expand(load_grid(str(grid)), {})
    store.write_plan(planned)
    history = [{"step": 50 * i, "loss": 0.5, "train_accuracy": 0.8, "test_accuracy": 0.5} for i in range(20)]
    splits = {"train": counts(12_500), "test": counts(2_500), "train_e0": counts(6_250), "train_e1": counts(6_250)}
    for i, (run, _) in enumerate(planned.runs()):
        record = begin_record(run, Options())
        splits["test"] = counts(2_500, 1_000 + i % 500)
        record = record.with_(status="done", cause=None, splits=splits, history=history, groups=list("abcd"))
        store.write_record(record)
    return store.root


def counts(n: int, right: int | None = None) -> Counts:
    correct = n // 2 if right is None else right
    return Counts(n=[n] * 4, correct=[correct] * 4, loss_sum=n * 0.5, entropy_sum=n * 0.5)


def harness() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = big_grid(folder)
        store = finished_store(folder, grid)
        return {
            "planning 10,000 runs, s": statistics.median(command_seconds("plan", str(grid)) for _ in range(3)),
            "leaderboard over 10,000 records, s": command_seconds("leaderboard", str(store), "--format", "markdown"),
            "resuming a finished grid of 10,000 runs, s": command_seconds("run", str(grid), "--store", str(store)),
            "--help, s": statistics.median(command_seconds("--help") for _ in range(5)),
            "list, s": statistics.median(command_seconds("list") for _ in range(5)),
        }


# ---- on a cluster ---------------------------------------------------------------------------------------------------

CLUSTER = Path(__file__).parents[2] / "slurm" / "local_cluster.sh"


def cluster() -> dict[str, float]:
    """Submitting 1,000 runs as 1,000 tasks, their status, and what a task takes beyond importing torch."""
    if shutil.which("slurmctld") is None or os.geteuid() != 0:
        return {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid, store = folder / "many.yaml", folder / "store"
        grid.write_text(grid_of(1000))
        subprocess.run([CLUSTER, "start", folder / "slurm"], check=True, stdout=subprocess.PIPE)
        os.environ["SLURM_CONF"] = str(folder / "slurm" / "slurm.conf")
        try:
            subprocess.run(["scontrol", "update", "PartitionName=gpu", "State=down"], check=True)  # they only wait
            send = ("submit", str(grid), "--store", str(store), "--node-local", "--cpus", "1", "--device", "cpu")
            return {
                "submitting 1,000 runs as 1,000 tasks, s": command_seconds(*send),
                "status of 1,000 runs in the queue, s": command_seconds("status", str(store)),
                "a task's first step beyond importing torch, s": overhead(store),
            }
        finally:
            subprocess.run([CLUSTER, "stop", folder / "slurm"], check=True)


FIRST_STEP = """
import os, sys
from spurbench.bench.cluster import task
first = Engine.update
Engine.update = lambda self: (first(self), os._exit(0))
task.main(sys.argv[1])
"""


def overhead(store: Path) -> float:
    """A task up to the end of its first step less a Python that only imports torch, median of five, in turn."""
    manifest = next(store.glob("slurm/*/array-0.json"))
    found = []
    for i in range(5):
        took = []
        for words in (["-c", FIRST_STEP, str(manifest)], ["-c", "import torch"]):
            begun = time.perf_counter()
            environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(i)}
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, env=environment)
            took.append(time.perf_counter() - begun)
        found.append(took[0] - took[1])
    return statistics.median(found)


# ---- sections, and what is written of them --------------------------------------------------------------------------


def seconds_rows(found: dict[str, float]) -> list[Row]:
    return [(what, f"{seconds:.2f} s") for what, seconds in found.items()]


@dataclass(frozen=True)
class Section:
    """What can be measured by itself: its figures, kept in perf.json, and how they are told in perf.md."""

    what: str
    measure: Callable[[], dict[str, Any]]  # empty where this machine cannot
    rows: Callable[[Any], list[Row]]


SECTIONS = {
    "training": Section("training steps against the released scripts' loops", training.measure, training.rows),
    "harness": Section("planning, leaderboard, resuming, --help, list", harness, seconds_rows),
    "cluster": Section("submitting to a SLURM that is started for it, as root", cluster, seconds_rows),
    "reading": Section("prepared pictures against the wilds loader", reading.measure, reading.rows),
    "million": Section("reading a million rows, and a run's start on them", million.measure, million.rows),
    "busy": Section("the share of the cores that a grid of short runs uses", busy.measure, busy.rows),
    "estimates": Section("what `estimate` says against what runs take", estimates.measure, estimates.rows),
    "attacks": Section("the search for margins against Foolbox", attacks.measure, attacks.rows),
}


def chosen(argv: list[str] | None) -> list[str]:
    """The sections to measure."""
    listed = "\n".join(f"  {name:8} {section.what}" for name, section in SECTIONS.items())
    parser = argparse.ArgumentParser(
        description=f"Measure speed and write it to results/perf/, each section when it is done:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", metavar="SECTION,...", help="measure only these, such as reading,attacks, and keep the other rows"
    )
    only = parser.parse_args(argv).only
    names = only.split(",") if only else list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            parser.error(str(unknown("section", name, SECTIONS)))
    return names


def written() -> dict[str, Any]:
    """What perf.json has: the figures of each section, and under `machine` where each was measured."""
    file = OUT / "perf.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"machine": {}}
    if isinstance(found["machine"], str):  # all were measured at once
        found["machine"] = {name: found["machine"] for name in SECTIONS if name in found}
    return found


def text(found: dict[str, Any]) -> str:
    """A table for each machine, the sections in their order."""
    parts = []
    for where in dict.fromkeys(found["machine"].values()):
        names = [name for name in SECTIONS if found["machine"].get(name) == where]
        rows = [row for name in names for row in SECTIONS[name].rows(found[name])]
        table = "".join(f"| {what} | {value} |\n" for what, value in rows)
        parts.append(f"On {where}:\n\n| what | measured |\n| --- | --- |\n{table}")
    return "\n".join(parts)


def write(found: dict[str, Any]) -> None:
    names = [name for name in SECTIONS if name in found]
    ordered = {"machine": {name: found["machine"][name] for name in names}} | {name: found[name] for name in names}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "perf.json").write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    head = (
        "`make perf`; × is against the straightforward loops of tests/perf/training.py, or against what the row names."
    )
    (OUT / "perf.md").write_text(f"# Speed\n\n{head}\n\n{text(ordered)}")


def main(argv: list[str] | None = None) -> None:
    names, found = chosen(argv), written()
    here = (
        f"{machine.cpu()}, {machine.cores()} cores, {'with' if machine.has_bf16() else 'no'} bf16 instructions, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads by default"
    )
    for name in names:
        figures = SECTIONS[name].measure()
        if figures:
            found[name], found["machine"][name] = figures, here
            write(found)
        else:
            print(f"{name} cannot be measured here ({SECTIONS[name].what})", file=sys.stderr)
    print(text(found))


if __name__ == "__main__":
    main()
