"""The commands about grids: `plan`, `estimate` and `run`."""

from __future__ import annotations

import json
import sys
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from spurbench.bench.cli import options
from spurbench.bench.core import terminal
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.terminal import plural, show


def add_to(app: typer.Typer) -> None:
    """Put the commands into the command line."""
    app.command()(plan)
    app.command()(estimate)
    app.command()(run)


def plan(
    grid: options.Grid = None,
    dataset: options.Datasets = None,
    method: options.Methods = None,
    seeds: options.Seeds = None,
    set_: options.Sets = None,
    draws: options.Draws = None,
    rule: options.Rule = None,
    only: options.Only = None,
    precision: options.Precision = None,
    plugin: options.Plugin = None,
    json_: options.Json = False,
) -> None:
    """Show what a grid would run, cell by cell, where its settings come from, and which cells cannot be run and why.

    [dim]spurbench plan paper[/dim]
    [dim]spurbench plan --dataset colored_mnist --method sd[/dim]
    """
    from spurbench.bench.api import running
    from spurbench.bench.grid.cells import only as chosen
    from spurbench.bench.grid.expand import count_bases, expand, summarize, without_validation
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.records.run import used

    add_plugins(plugin)
    asked = running.choose_grid(grid, dataset or [], method or [], seeds, set_ or [], precision, draws, rule)
    shown = chosen(asked, only or [])
    planned = expand(shown, {})
    if json_:
        print(json.dumps(planned.to_dict(), indent=1))
        return
    rows = summarize(planned)
    for row in rows:
        note = [row["search"], row["starts_from"]]
        row["state"] = f"n/a: {row['na']}" if row["na"] else "; ".join(filter(None, note))
        row["options"] = ", ".join(f"{k}={v}" for k, v in used(row["dataset_options"]).items())
    columns = {"dataset": "dataset", "options": "options", "label": "method", "precision": "precision", "runs": "runs",
               "search_runs": "search", "updates": "updates", "state": "note"}  # fmt: skip
    show(rows, columns, f"{planned.grid}: {planned.description}")
    for source, names in shown.sources().items():
        print(terminal.line(f"settings of {', '.join(names)}: {source}", 3000))
    total, updates = sum(row["runs"] + row["search_runs"] for row in rows), sum(row["updates"] for row in rows)
    print(f"{plural(total, 'run')} in {plural(len(rows), 'cell')}, {plural(updates, 'update')}")
    for name, (runs, more) in count_bases(planned).items():
        print(f"and {plural(runs, 'run')} of {name} that others start from, {plural(more, 'update')}")
    for name in without_validation(planned):
        print(f"no rule can choose on validation, {name} has no such split: --set {name}.held_out=0.2 makes one")


def estimate(
    grid: options.Grid = None,
    dataset: options.Datasets = None,
    method: options.Methods = None,
    set_: options.Sets = None,
    draws: options.Draws = None,
    rule: options.Rule = None,
    only: options.Only = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps to measure in each cell, or more in half a second, after one to warm up.")
    ] = 3,
    device: options.Device = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    compile_: options.Compile = False,
    micro_batch: options.MicroBatch = None,
    plugin: options.Plugin = None,
    json_: options.Json = False,
) -> None:
    """Measure a few steps of each cell and project what the whole grid would take on this machine.

    Times are for one process that trains run after run, seeds of small networks together; nothing is recorded.

    [dim]spurbench estimate paper[/dim]
    [dim]spurbench estimate --dataset cifar10 --method erm --set cifar10.origin=jpeg[/dim]
    """
    from spurbench.bench.api import running
    from spurbench.bench.grid.cells import only as chosen
    from spurbench.bench.launch import estimate as estimates
    from spurbench.bench.launch.runner import Settings
    from spurbench.bench.plugins.registry import add_plugins

    add_plugins(plugin)
    asked = running.choose_grid(grid, dataset or [], method or [], None, set_ or [], precision, draws, rule)
    rows = []
    settings = Settings(device, None, threads, micro_batch=micro_batch, compile=compile_)
    for row in estimates.estimate(chosen(asked, only or []), settings, steps):
        rows.append(row)
        print(f"{len(rows)}: {row['dataset']} × {terminal.line(row['label'])}", file=sys.stderr)
    if json_:
        print(json.dumps(rows, indent=1))
        return
    show(
        [estimates.shown(row) for row in rows],
        estimates.COLUMNS,
        f"{asked.name}: {plural(steps, 'step')} of each cell measured",
    )
    print(estimates.total(rows))


def run(
    grid: options.Grid = None,
    dataset: options.Datasets = None,
    method: options.Methods = None,
    seeds: options.Seeds = None,
    set_: options.Sets = None,
    draws: options.Draws = None,
    rule: options.Rule = None,
    store: Annotated[Path | None, typer.Option(help="Store folder; by default stores/GRID.")] = None,
    only: options.Only = None,
    launcher: Annotated[
        str, typer.Option(help="Where jobs run: local, on this machine, or in another pool; see docs/cluster.md.")
    ] = "local",
    device: options.Device = "auto",
    precision: options.Precision = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of processes; by default one per core or GPU. 0: run inside this process, for a debugger.",
        ),
    ] = None,
    threads: options.Threads = None,
    retry: Annotated[bool, typer.Option("--retry", help="Rerun failed runs.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Rerun what was made before its method or data were edited.")
    ] = False,
    time_limit: Annotated[
        float | None, typer.Option(min=1, help="Seconds a run may take; one that takes longer fails.")
    ] = None,
    checkpoint_seconds: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 60,
    compile_: options.Compile = False,
    micro_batch: options.MicroBatch = None,
    keep_weights: options.KeepWeights = False,
    plugin: options.Plugin = None,
) -> None:
    """Run a grid, or one dataset × method, and wait for it; run it again to continue where it stopped.

    [dim]spurbench run quick[/dim]
    [dim]spurbench run --dataset colored_mnist --method sd --seeds 0-9 --set sd.coef=0.1[/dim]
    [dim]spurbench run --dataset two_moon --method sd --draws 8[/dim]
    """
    from spurbench.bench.api import running
    from spurbench.bench.launch.runner import Settings
    from spurbench.bench.plugins.registry import add_plugins

    add_plugins(plugin)
    chosen = running.choose_grid(grid, dataset or [], method or [], seeds, set_ or [], precision, draws, rule)
    for name, value in (("--checkpoint-seconds", checkpoint_seconds), ("--time-limit", time_limit or 0)):
        if not 0 <= value < inf:
            raise UserError(f"{name} {value}: expected a number of seconds")
    if jobs == 0 and time_limit is not None:
        raise UserError("--time-limit ends a process, and --jobs 0 starts none")
    where = store or Path("stores") / (grid and Path(grid).stem or "adhoc")
    settings = Settings(
        device,
        jobs,
        threads,
        retry,
        fresh,
        time_limit,
        only or [],
        checkpoint_seconds,
        micro_batch,
        compile_,
        keep_weights,
    )
    raise typer.Exit(running.run(chosen, where, settings, launcher))
