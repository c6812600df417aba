"""Speed, measured in one run and in turn: ours against what one would do otherwise, and the harness's own costs.

make perf; the figures are printed and written to results/perf/, with --only those of some sections, the others kept.
Ratios of medians; other work on the machine disturbs them, so nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import attacks
import reading
import torch
from queueing import grid_of
from torch import Tensor, nn
from turns import in_turn

from spurbench.bench.core import machine
from spurbench.bench.core.errors import unknown
from spurbench.bench.jobs.memory import tune_process
from spurbench.bench.launch import placement
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data, Training
from spurbench.bench.records.record import Counts
from spurbench.bench.training.engine import Engine
from spurbench.bench.training.execution import Options
from spurbench.bench.training.replica import prepare

ROOT = Path(__file__).parents[2]
OUT = ROOT / "results" / "perf"
Row = tuple[str, str]  # of perf.md: what was measured, and the figures in words
SD = {"two_moon": {"coef": 0.003}, "colored_mnist": {"coef": 2e-5, "delay": 450, "rescale": True}}
STEPS = {"two_moon": 300, "colored_mnist": 6}
ROWS = {"two_moon": 300, "colored_mnist": 50_000}


# ---- the straightforward loop: one seed after another, float32, whole batch, test scored every step -----------------


def reference(dataset: str, seeds: list[int]) -> float:
    """Seconds per seed and step of the loop one would write first, with torch's own number of threads."""
    prepared = [ready(dataset, seed) for seed in seeds]
    begun = time.perf_counter()
    for data, net in prepared:
        plain_loop(dataset, data, net)
    return (time.perf_counter() - begun) / (len(seeds) * STEPS[dataset])


def plain_loop(dataset: str, data: Data, net: nn.Module) -> list[float]:
    x, y = as_floats(data.train.x), data.train.y.float()
    test = data.tests.get("test")
    held_out = (as_floats(test.x), test.y) if test else None
    c = SD[dataset]["coef"]
    optimizer: torch.optim.Optimizer
    if dataset == "two_moon":
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    scores = []
    for _ in range(STEPS[dataset]):
        z = net(x)
        loss = nn.functional.binary_cross_entropy_with_logits(z, y) + c * z.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            guesses, labels = (net(held_out[0]), held_out[1]) if held_out else (z, y)
            scores.append(((guesses > 0) == labels).float().mean().item())
    return scores


def as_floats(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x.clone()


def ready(dataset: str, seed: int) -> tuple[Data, nn.Module]:
    adapter, method = registry.load_dataset(dataset)(), registry.load_method("sd")(**SD[dataset])
    drawn = prepare(adapter, method, adapter.training, seed)
    return drawn.data, drawn.networks[0]


# ---- ours: processes side by side, laid out by the launcher's rule or otherwise -------------------------------------


@dataclass(frozen=True)
class Shape:
    """A layout: so many processes, threads in each, and seeds trained together."""

    processes: int
    threads: int
    height: int

    def __str__(self) -> str:
        words = ((self.processes, "process", "es"), (self.threads, "thread", "s"), (self.height, "seed", "s"))
        processes, threads, seeds = (f"{n} {one}{more if n > 1 else ''}" for n, one, more in words)
        return f"{processes} of {threads}, {seeds} a job"


def by_rule(dataset: str, seeds: int) -> Shape:
    """The launcher's own choice."""
    chosen = placement.choose("cpu", None, None, seeds)
    flops = placement.step_flops(registry.load_dataset(dataset).training.flat(), ROWS[dataset])
    return Shape(len(chosen.devices), chosen.job_threads(flops), chosen.job_height(flops, seeds))


def train(dataset: str, precision: str, seeds: list[int], shape: Shape, start: Any, done: Any) -> None:
    """In a process of its own: prepare, wait for the start, train the seeds as the launcher would, say so."""
    tune_process(shape.threads)
    adapter, method = registry.load_dataset(dataset)(), registry.load_method("sd")(**SD[dataset])
    training: Training = replace(adapter.training, steps=STEPS[dataset])
    engines = []
    for at in range(0, len(seeds), shape.height):
        drawn = [prepare(adapter, method, training, seed) for seed in seeds[at : at + shape.height]]
        engine = Engine(method, training, precision, Options(), drawn)
        engine.update()  # the first step pays for memory and kernels that the others have ready
        engines.append(engine)
    start.wait()
    for engine in engines:
        for _ in range(STEPS[dataset]):
            engine.update()
    done.wait()


def ours(dataset: str, precision: str, seeds: list[int], shape: Shape | None = None) -> float:
    """Seconds per seed and step of the engine, laid out as `shape` or by the launcher's rule."""
    shape = shape or by_rule(dataset, len(seeds))
    context = mp.get_context("spawn")
    start, done = context.Barrier(shape.processes + 1), context.Barrier(shape.processes + 1)
    parts = [seeds[i :: shape.processes] for i in range(shape.processes)]
    workers = [context.Process(target=train, args=(dataset, precision, part, shape, start, done)) for part in parts]
    for worker in workers:
        worker.start()
    start.wait()
    begun = time.perf_counter()
    done.wait()
    taken = time.perf_counter() - begun
    for worker in workers:
        worker.join()
    return taken / (len(seeds) * STEPS[dataset])


def ways(dataset: str, seeds: list[int], others: list[Shape]) -> dict[str, Callable[[], float]]:
    """The straightforward loop, ours by the rule in each precision, and ours in other layouts."""
    found: dict[str, Callable[[], float]] = {"straightforward loop": lambda: reference(dataset, seeds)}
    rule = by_rule(dataset, len(seeds))
    precisions = ["float32"] + ["bf16"] * (dataset == "colored_mnist" and machine.has_bf16())
    for precision in precisions:
        found[f"{precision}, {rule} (the rule)"] = partial(ours, dataset, precision, seeds)
    for shape in others:
        if shape != rule:
            found[f"float32, {shape}"] = partial(ours, dataset, "float32", seeds, shape)
    return found


def speed() -> dict[str, dict[str, float]]:
    """Seconds per seed and step of every way, by dataset."""
    cores = machine.cores()
    several = {
        "colored_mnist": ways("colored_mnist", [1234, 1235], [Shape(1, cores, 1), Shape(1, cores, 2)]),
        "two_moon": ways("two_moon", list(range(10)), [Shape(cores, 1, 1), Shape(1, cores, 10), Shape(1, 1, 10)]),
    }
    return {dataset: in_turn(each) for dataset, each in several.items()}


def speed_rows(found: dict[str, dict[str, float]]) -> list[Row]:
    rows = [
        (f"{dataset}, SD, {way}", f"{s * 1e3:.3g} ms per seed and step, {each['straightforward loop'] / s:.2f} ×")
        for dataset, each in found.items()
        for way, s in each.items()
    ]
    if not any(way.startswith("bf16") for way in found["colored_mnist"]):
        rows.append(("colored_mnist, SD, bf16", "not measured: this processor has no bf16 instructions"))
    return rows


# ---- the harness's own costs ----------------------------------------------------------------------------------------


def command(*arguments: str) -> float:
    """Seconds of a `spurbench` command, the start of Python included."""
    begun = time.perf_counter()
    program = "from spurbench.bench.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.PIPE)
    return time.perf_counter() - begun


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
            "planning 10,000 runs, s": statistics.median(command("plan", str(grid)) for _ in range(3)),
            "leaderboard over 10,000 records, s": command("leaderboard", str(store), "--format", "markdown"),
            "resuming a finished grid of 10,000 runs, s": command("run", str(grid), "--store", str(store)),
            "--help, s": statistics.median(command("--help") for _ in range(5)),
            "list, s": statistics.median(command("list") for _ in range(5)),
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
                "submitting 1,000 runs as 1,000 tasks, s": command(*send),
                "status of 1,000 runs in the queue, s": command("status", str(store)),
                "a task's first step beyond importing torch, s": overhead(store),
            }
        finally:
            subprocess.run([CLUSTER, "stop", folder / "slurm"], check=True)


FIRST_STEP = """
import os, sys
from spurbench.bench.training.engine import Engine
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
    "speed": Section("training against a straightforward loop", speed, speed_rows),
    "harness": Section("planning, leaderboard, resuming, --help, list", harness, seconds_rows),
    "cluster": Section("submitting to a SLURM that is started for it, as root", cluster, seconds_rows),
    "reading": Section("prepared pictures against the wilds loader", reading.measure, reading.rows),
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
    head = "`make perf`; × is against the straightforward loop in tests/perf/measure.py, or against what the row names."
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
