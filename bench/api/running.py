"""What `run` does, without the command line around it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from spurbench.bench.core import machine, terminal
from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.core.terminal import plural
from spurbench.bench.grid import ad_hoc
from spurbench.bench.grid import load as grids
from spurbench.bench.grid.cells import Grid, only
from spurbench.bench.grid.schema import PRECISIONS
from spurbench.bench.launch.dispatch import Refusal
from spurbench.bench.launch.pool import Pool
from spurbench.bench.launch.pools import HERE, find_pool
from spurbench.bench.launch.runner import Outstanding, Result, Settings, run_grid
from spurbench.bench.provenance import edits
from spurbench.bench.records.plan import name_among
from spurbench.bench.records.record import OUTSIDE
from spurbench.bench.store.store import Store

MOST_NAMED, MOST_ORIGINS = 4, 5  # cells in a line, lines


def choose_grid(
    name: str | None,
    datasets: list[str],
    methods: list[str],
    seeds: str | None,
    sets: list[str],
    precision: str | None,
    draws: int | None = None,
    rule: str | None = None,
) -> Grid:
    """The grid that a `run` command means: by name or file, or assembled from its options."""
    if name and (datasets or methods or seeds or draws or rule):
        raise UserError("give either a grid or --dataset, --method, --seeds, --draws and --rule; a grid names its own")
    if rule and not draws:
        raise UserError(f"--rule {rule} is for a search: give its number of random draws, such as --draws 8")
    if not name:
        if not datasets or not methods:
            raise UserError("name a grid (quick, paper, a .yaml file), or give --dataset and --method")
        return ad_hoc.adhoc_grid(datasets, methods, seeds, sets, precision, draws, rule)
    chosen = grids.load_grid(name, sets)
    if precision is None:
        return chosen
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    cells = [replace(cell, precision=precision) for cell in chosen.cells]
    once = {repr(cell): cell for cell in cells}  # the grid may have had it in both
    return replace(chosen, name=f"{chosen.name}-{precision}", cells=tuple(once.values()))


def run(grid: Grid, where: Path, settings: Settings, launcher: str = HERE) -> int:
    """Run a grid and show the progress; returns the exit code: 0 all done, 2 failures, 130 interrupted."""
    with closing(find_pool(launcher)) as pool:
        return run_in(pool, grid, where, settings)


def run_in(pool: Pool, grid: Grid, where: Path, settings: Settings) -> int:
    """The same in a pool."""
    from spurbench.bench.api.progress import Bars, Lines

    chosen = only(grid, settings.only)  # errors come before anything is written
    devices = pool.lay_out(settings.device, settings.jobs, settings.threads, runs=1).devices
    store, console = Store.open(where, create=True), terminal.console(stderr=True)
    store.tidy()
    edits.clear_caches()
    if "cpu" in devices and not machine.has_bf16() and any(cell.precision == "bf16" for cell in chosen.cells):
        console.print("this processor only emulates bf16: --precision float32 is faster")
    shown: list[Lines] = []

    def announce(work: Sequence[Any], plan: Any) -> Lines:
        console.print(f"{grid.name}: {plural(len(work), 'job')}; {plan}", soft_wrap=True)
        bars = console.is_terminal and not plan.inside  # they would draw over a debugger
        watcher = (Bars if bars else Lines)(console, work, len(plan.devices))
        shown.append(watcher)
        return watcher

    before = {plan.grid: plan for plan in store.plans()}
    name = name_among(grid.name, grid.origin, before)
    if name != grid.name:
        console.print(f"{where} has another grid called {grid.name}: this one is kept beside it as {name}",
                      highlight=False, soft_wrap=True)  # fmt: skip
    for line in sources(chosen):
        console.print(terminal.line(line), soft_wrap=True)
    for one in store.records()[1]:
        fate = "set aside" if one.ours and not one.newer else "not used"
        console.print(f"{fate}: {terminal.line(f'{one.path}: {one.reason}')}", soft_wrap=True)
    try:
        result = run_grid(grid, store, settings, announce, pool)
    finally:
        for bars in shown:
            if isinstance(bars, Bars):
                bars.close()
    assert result.end is not None
    if result.refused and name not in before and not has_begun(result.end, store):
        store.drop_plan(name)  # else a mistyped option would leave a row that waits for ever
    return conclude(result, result.end, where, console)


def sources(grid: Grid) -> list[str]:
    """Where the settings of a grid's cells come from, a line for each origin."""
    each = [
        f"settings of {', '.join(names) if len(names) <= MOST_NAMED else f'{len(names)} cells'}: {source}"
        for source, names in grid.sources().items()
    ]
    more = f"and others from {len(each) - MOST_ORIGINS} more sources: `spurbench plan` shows them"
    return each if len(each) <= MOST_ORIGINS + 1 else [*each[:MOST_ORIGINS], more]


def has_begun(end: Outstanding, store: Store) -> bool:
    """Whether any run of a plan has a record or is being worked on."""
    return bool(end.own_records) or not store.claims.living().keys().isdisjoint(end.plan.ids)


def one_line_each(refused: Sequence[Refusal]) -> list[str]:
    """A line for each reason, with the first job that was refused for it and the number of others."""
    jobs: dict[str, list[str]] = {}
    for job, why in refused:
        jobs.setdefault(why, []).append(job)
    others = {why: f" and {plural(len(each) - 1, 'other job')}" if len(each) > 1 else "" for why, each in jobs.items()}
    return [f"{each[0]}{others[why]}: {why}" if each[0] else why for why, each in jobs.items()]


def conclude(result: Result, end: Outstanding, where: Path, console: Console) -> int:
    """Say how a launch ended and what to do next."""

    def say(text: str) -> None:
        console.print(terminal.plain(text), soft_wrap=True)

    store_name, left = terminal.shell(where), plural(len(end.waiting), "run")

    for refusal in one_line_each(result.refused):
        say(f"spurbench: {refusal}")
    if result.interrupted:
        state = "not all of their state" if result.unsaved else "their state"
        say(f"stopped with {left} left and {state} saved; run the same command again to continue")
        return 130
    failed = [record.cause.kind for record in end.own_records if record.cause]
    if failed:
        causes = ", ".join(sorted(set(failed)))
        retry = "the same command" if set(failed) <= OUTSIDE else "--retry"
        say(
            f"{plural(len(failed), 'run')} failed ({causes}): `spurbench status {store_name}` shows why, {retry} reruns"
        )
    elif end.waiting and not result.refused:
        say(f"another process is working on {left}; run the same command again later to include them")
    for files, ids in end.outdated().items():
        code = edits.find_edited_plugins(end.records[ids[0]])
        names = " ".join(terminal.shell(Path(name)) for name in code)
        or_else = f", `spurbench accept {store_name} {names}` declares that the edit changes nothing" if code else ""
        were, them = ("run was", "it") if len(ids) == 1 else ("runs were", "them")
        say(f"{len(ids)} {were} made before {files} was edited; --fresh repeats {them}{or_else}")
    say(f"next: spurbench leaderboard {store_name}")
    return 2 if failed or result.refused else 0
