"""What a grid would cost on this machine: a few steps of each cell, and from them the time of all its runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from spurbench.bench.core.terminal import duration
from spurbench.bench.evaluation.monitor import Monitor, interval
from spurbench.bench.grid.cells import Grid
from spurbench.bench.grid.expand import expand, summarize
from spurbench.bench.jobs.job import Job
from spurbench.bench.jobs.memory import peak_memory, reset_peak_memory, tune_process
from spurbench.bench.jobs.setup import set_up
from spurbench.bench.launch import placement
from spurbench.bench.launch.runner import Settings, options_of, step_flops
from spurbench.bench.plugins.dataset import count_inputs, split_inputs
from spurbench.bench.records.plan import Cell
from spurbench.bench.records.run import Run
from spurbench.bench.training.engine import Engine, kernels_for
from spurbench.bench.training.replica import Frozen

COLUMNS = {"dataset": "dataset", "label": "method", "precision": "precision", "rows": "rows", "step": "a step",
           "memory": "MB", "steps": "steps", "run": "a run", "runs": "runs", "total": "all runs"}  # fmt: skip
SAMPLE = 32  # examples by which the time for features is measured
SHORTEST = 0.5  # seconds of a measurement: small steps are taken until it is over


def estimate(grid: Grid, settings: Settings, steps: int) -> Iterator[dict[str, Any]]:
    """One row a cell: what a run takes by some steps of it, at least `steps` and half a second, after one to warm up.

    The runs that would train together do so here, and the looks at held-out splits count; `run` is one run's share,
    `total` that of all in one process, searches included. Scoring at the end, attacks and the wait for data that are
    not yet in memory are left out. Cells that cannot be run, or do not train, have no times, nor have those that start
    from other runs: what they train on is known only when those are done.
    """
    where = placement.choose(settings.device, settings.jobs, settings.threads, len(expand(grid, {}).runs()))
    for cell in grid.cells:
        plan = expand(replace(grid, cells=(cell,)), {})
        (row,) = summarize(plan)
        known = {key: row[key] for key in ("dataset", "label", "precision", "na", "starts_from")}
        known |= {"runs": row["runs"] + row["search_runs"]}
        if row["updates"] and not row["starts_from"]:
            known["total_seconds"] = 0.0
            for runs, updates in shares(plan.cells[0]):  # of its search, then of the cell itself
                flops = step_flops(runs[0])
                threads, together = where.job_threads(flops), runs[: where.job_height(flops, len(runs))]
                options = replace(options_of(settings, where), device=where.devices[0], threads=threads)
                known |= measure(Job(together, cell.label, options), steps)
                known["total_seconds"] += known["seconds_per_step"] * updates
        yield known


def shares(cell: Cell) -> list[tuple[list[Run], int]]:
    """The seeds of a draw of a cell's search, if it has one, and those of the cell itself; all updates of each kind."""
    found = []
    parts = list(cell.parts())
    if updates := sum(len(draw.seeds) * draw.training["steps"] for draw in cell.draws):
        found.append(([Run(**parts[0][0], seed=seed) for seed in parts[0][1]], updates))
    if updates := len(cell.seeds) * cell.training["steps"]:
        own = parts[-1][0]
        if cell.hyper_parameters is None:  # what the search will choose is not known yet, and costs no less or more
            own = own | {"hyper_parameters": cell.draws[0].hyper_parameters}
        found.append(([Run(**own, seed=seed) for seed in cell.seeds], updates))
    return found


def measure(job: Job, steps: int) -> dict[str, Any]:
    """Time and memory of the steps of some seeds together."""
    device, setup = job.options.device, set_up(job)
    training = setup.training
    tune_process(job.options.threads, device)
    reset_peak_memory(device)
    replicas = [setup.draw(run) for run in job.runs]
    threads = setup.threads(replicas[0])
    torch.set_num_threads(threads)
    engine = setup.make_engine(replicas, Monitor(len(replicas)))
    seconds = seconds_of(engine, steps) / len(replicas)
    frozen = replicas[0].frozen
    return {
        "network": training.network.name,
        "parameters": sum(parameter[0].numel() for parameter in engine.stacks[0].parameters.values()),
        "rows": training.batch or len(replicas[0].data.train.y),
        "threads": threads,
        "together": len(replicas),
        "seconds": seconds,
        "seconds_per_step": seconds / training.steps,
        "memory_mb": round(peak_memory(device) / 2**20),
        "steps": training.steps,
        **({"features_seconds": features_seconds(frozen, torch.device(device))} if frozen else {}),
    }


def seconds_of(engine: Engine, steps: int) -> float:
    """How long an engine would train: by the mean time of some steps, of a point of the curve and of a look."""
    training, monitor = engine.training, engine.observer
    assert isinstance(monitor, Monitor)
    points = -(-training.steps // interval(engine))
    looks = training.steps // training.evaluate if training.evaluate else 0
    with kernels_for(training.batch):
        first = engine.update()
        step = mean_seconds(engine.update, engine.device, steps, SHORTEST)
        point = mean_seconds(partial(monitor.extend_history, engine, first), engine.device)
        look = mean_seconds(partial(monitor.evaluate, engine), engine.device) if looks else 0.0
    return step * training.steps + point * points + look * looks


def mean_seconds(action: Callable[[], object], device: torch.device, least: int = 1, shortest: float = 0.0) -> float:
    """The mean time of an action that is done at least so often, and for so many seconds."""
    times, begun = 0, time.perf_counter()
    while times < least or time.perf_counter() - begun < shortest:
        action()
        times += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) / times


def features_seconds(frozen: Frozen, device: torch.device) -> float:
    """How long a frozen network takes for the features of all examples, by its time for some."""
    some = next(split_inputs(frozen.data.train.x, SAMPLE))
    begun = time.perf_counter()
    frozen.features(some, device, SAMPLE)
    each = (time.perf_counter() - begun) / count_inputs(some)
    return each * sum(len(split.y) for split in frozen.data.splits.values())


def total(rows: Sequence[dict[str, Any]]) -> str:
    """The time of all rows together, in words."""
    seconds = sum(row.get("total_seconds", 0) for row in rows)
    frozen = sum({row["dataset"]: row["features_seconds"] for row in rows if "features_seconds" in row}.values())
    features = f"; the features of frozen networks take {duration(frozen)}, once" if frozen else ""
    return f"{duration(seconds)} for one process; scoring and attacks come on top{features}"


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a person reads it."""
    if "seconds_per_step" not in row:
        return row | {"step": f"n/a: {row['na']}" if row["na"] else row["starts_from"] or "does not train"}
    each = row["seconds_per_step"]
    return row | {
        "rows": f"{row['rows']:,}",
        "step": f"{each:.2f} s" if each >= 1 else f"{each * 1e3:.3g} ms",
        "memory": f"{row['memory_mb']:,}",
        "steps": f"{row['steps']:,}",
        "run": duration(row["seconds"]),
        "total": duration(row["total_seconds"]),
    }
