"""What the commands that touch a store do, without the command line around them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from spurbench.bench import grid as grids
from spurbench.bench import packages, provenance, registry, terminal, versions
from spurbench.bench.errors import UserError, unknown
from spurbench.bench.grid import Grid
from spurbench.bench.layout import find_devices
from spurbench.bench.plans import name_among
from spurbench.bench.record import OUTSIDE, settled
from spurbench.bench.runner import Settings, outdated, run_grid
from spurbench.bench.store import Store

if TYPE_CHECKING:
    from spurbench.bench.leaderboard import Leaderboard


def the_grid(
    name: str | None,
    datasets: list[str],
    methods: list[str],
    seeds: str | None,
    sets: list[str],
    precision: str | None,
) -> Grid:
    """The grid a `run` command means: by name or file, or put together from its options."""
    if name and (datasets or methods or seeds or sets):
        raise UserError("give either a grid or --dataset, --method, --seeds and --set; a grid names its own")
    if not name:
        if not datasets or not methods:
            raise UserError("name a grid (quick, paper, a .yaml file), or give --dataset and --method")
        return grids.adhoc_grid(datasets, methods, seeds, sets, precision)
    chosen = grids.load_grid(name)
    if precision is None:
        return chosen
    if precision not in ("float32", "bf16"):
        raise unknown("precision", precision, ("bf16", "float32"))
    cells = [replace(cell, precision=precision) for cell in chosen.cells]
    once = {repr(cell): cell for cell in cells}  # the grid may have had it in both
    return replace(chosen, name=f"{chosen.name}-{precision}", cells=tuple(once.values()))


def run(grid: Grid, where: Path, settings: Settings) -> int:
    """Run a grid with a display; the exit code: 0 all done, 2 failures, 130 interrupted."""
    from spurbench.bench.display import Bars, Lines

    chosen = grids.only(grid, settings.only)  # complaints come before anything is written
    devices = find_devices(settings.device)
    store, console = Store.open(where, create=True), terminal.console(stderr=True)
    store.tidy()
    versions.look_again()
    if "cpu" in devices and not provenance.has_bf16() and any(cell.precision == "bf16" for cell in chosen.cells):
        console.print("this processor only emulates bf16: --precision float32 is faster")
    shown: list[Lines] = []

    def announce(work: Sequence[Any], plan: Any) -> Lines:
        console.print(f"{grid.name}: {len(work)} jobs; {plan}", soft_wrap=True)
        bars = console.is_terminal and not plan.inside  # they would draw over a debugger
        watcher = (Bars if bars else Lines)(console, work, len(plan.devices))
        shown.append(watcher)
        return watcher

    before = {plan["grid"]: plan for plan in store.plans()}
    name = name_among(grid.name, grid.origin, before)
    if name != grid.name:
        console.print(f"{where} has another grid called {grid.name}: this one is kept beside it as {name}",
                      highlight=False, soft_wrap=True)  # fmt: skip
    for one in store.records()[1]:
        fate = "set aside" if one.ours and not one.newer else "not used"
        console.print(f"{fate}: {terminal.line(f'{one.path}: {one.reason}')}", soft_wrap=True)
    try:
        result = run_grid(grid, store, settings, announce)
    finally:
        for bars in shown:
            if isinstance(bars, Bars):
                bars.close()
    if result.refused and result.plan and name not in before and not begun(result.plan, store):
        store.drop_plan(name)  # else a mistyped option would stay as a row that waits for ever
    return conclude(result, store, where, console)


def begun(plan: dict[str, Any], store: Store) -> bool:
    """Whether there is a record of any run of a plan, or someone is at work on one."""
    there = {record["id"] for record in store.records()[0]} | store.claims.living().keys()
    return any(run.id in there for run, _ in grids.runs(plan))


def conclude(result: Any, store: Store, where: Path, console: Console) -> int:
    """Say how a launch ended and what to do next."""

    def say(text: str) -> None:
        console.print(terminal.plain(text), soft_wrap=True)

    store_name = terminal.shell(where)

    for line in result.refused:
        say(f"spurbench: {line}")
    if result.interrupted:
        say(f"stopped; {result.left} runs are left and their state is saved: run the same command again to go on")
        return 130
    failed = failures(result.plan, store)
    if failed:
        causes = ", ".join(sorted(set(failed)))
        again = "the same command" if set(failed) <= OUTSIDE else "--retry"
        say(f"{len(failed)} runs failed, {causes}; `spurbench status {store_name}` says why, {again} does them again")
    elif result.left and not result.refused:
        say(f"{result.left} runs are in the hands of another process; run the same command again to see them")
    records = {record["id"]: record for record in store.records()[0]}
    for files, ids in outdated(result.plan, list(records.values())).items():
        code = versions.edited_plugins(records[ids[0]])
        names = " ".join(terminal.shell(Path(name)) for name in code)
        or_else = f", `spurbench accept {store_name} {names}` says that the edit alters nothing" if code else ""
        say(
            f"{len(ids)} runs were made before {files} was edited and are kept as they are: --fresh trains them again"
            + or_else
        )
    say(f"next: spurbench leaderboard {store_name}")
    return 2 if failed or result.refused else 0


def failures(plan: dict[str, Any], store: Store) -> list[str]:
    """The cause of every failed run of a plan."""
    ids = {run.id for run, _ in grids.runs(plan)}
    return [r["cause"]["kind"] for r in store.records()[0] if r["id"] in ids and r["status"] == "failed"]


STATES = ("done", "running", "queued", "failed", "waiting")
STATUS_COLUMNS = {"grid": "grid", "dataset": "dataset", "label": "method", "precision": "precision"} | {
    name: name for name in (*STATES, "note")
}


def complain(store: Store) -> bool:
    """Name on the standard error what of a store is not used; whether there is a record or plan among it."""
    found = store.complaints()
    for one in found:
        print(f"spurbench: not used: {one.path}: {one.reason}", file=sys.stderr)
    return any(one.ours for one in found)


def status(where: Path | Store) -> list[dict[str, Any]]:
    """One row a cell: how many of its runs are in each state, and why some failed."""
    store = where if isinstance(where, Store) else Store.open(where)
    records = store.records()[0]
    versions.look_again()
    old = {record["id"]: files for record in records if (files := versions.edited(record))}
    known = Known({record["id"]: record for record in records}, store.claims.living(), queued(store), old)
    rows = []
    for plan in store.plans():
        for cell in plan["cells"]:
            draws = cell["search"]["draws"] if cell["search"] else []
            ids = [id for part in [*draws, cell] for id in part["ids"]]
            rows.append({"grid": plan["grid"], "dataset": cell["dataset"], "label": cell["label"],
                         "precision": cell["precision"], **tally(ids, known, cell)})  # fmt: skip
    return rows


def queued(store: Store) -> dict[str, tuple[str, str]]:
    """What the launchers that other folders add know of unfinished runs: `queued`, `running` or `failed`, and why."""
    found: dict[str, tuple[str, str]] = {}
    for told in packages.each("spurbench.queues", lambda states: answer(states(store))):
        found |= told
    return found


def answer(told: Any) -> dict[str, tuple[str, str]]:
    """What a queue says of runs, in the form it should have.

    Errors: UserError if it has another.
    """
    if not isinstance(told, dict):
        raise UserError(f"expected a dict of runs, got {type(told).__name__}")
    for id, state in told.items():
        if not (isinstance(id, str) and isinstance(state, tuple) and len(state) == 2 and state[0] in STATES):
            raise UserError(f"expected run id → (state, note), a state being one of {', '.join(STATES)}; got {state!r}")
    return {id: (state, str(note)) for id, (state, note) in told.items()}


@dataclass(frozen=True)
class Known:
    """All that is known of the runs of a store, by run id."""

    records: dict[str, Any]
    claims: dict[str, Any]
    elsewhere: dict[str, tuple[str, str]]
    edited: dict[str, list[str]] = field(default_factory=dict)  # runs made before files of theirs were edited

    def state(self, id: str) -> str:
        if not settled(self.records.get(id)):
            over = self.elsewhere.get(id, ("",))[0] == "failed"
            if id in self.claims and not (over and self.claims[id]["task"]):  # else the claim of a task that is gone
                return "running"
            if id in self.elsewhere:
                return self.elsewhere[id][0]
        if id in self.records:
            return "done" if self.records[id]["status"] == "done" else "failed"
        return "waiting"

    def note(self, id: str) -> str:
        """How far a run is, why it failed, or why it is not done."""
        state = self.state(id)
        if state == "running" and "step" in self.claims.get(id, {}):
            return "{step:,} of {steps:,} steps, seen {age:.0f} s ago".format(**self.claims[id])
        if state == "failed" and id in self.records:
            return "{kind}: {message}".format(**self.records[id]["cause"])
        return "" if state == "done" else self.elsewhere.get(id, ("", ""))[1]


def tally(ids: Sequence[str], known: Known, cell: dict[str, Any]) -> dict[str, Any]:
    """How the runs of a cell stand; the note gives progress, causes, or why the cell cannot be run."""
    states = [known.state(id) for id in ids]
    notes = sorted({known.note(id) for id in ids} - {""})
    if old := [id for id in ids if id in known.edited]:
        files = sorted({file for id in old for file in known.edited[id]})
        notes.append(f"{len(old)} made before {', '.join(files)} was edited (--fresh does them again)")
    if cell["na"]:
        notes = [f"n/a: {cell['na']}"]
    elif cell["search"] and cell["search"]["chosen"] is None:
        notes.append("search not finished")
    return {name: states.count(name) for name in STATES} | {"note": "; ".join(notes)}


def accept(where: Path, files: Sequence[str]) -> int:
    """Let runs made before plug-in files were edited count as made by them as they are now; how many.

    Errors: UserError for a file that made no run of the store in another version.
    """
    store = Store.open(where)
    records = store.records()[0]
    known = {name for record in records for name in versions.edited_plugins(record)}
    for name in files:
        if name not in known:
            raise unknown(f"file that was edited after it made runs of {where}", name, known)
    changed = [found for record in records if (found := versions.accepted(record, files))]
    for record in changed:
        store.write_record(record)
    return len(changed)


def leaderboard(where: Path, format_: str, all_: bool, grid: str | None, colour: bool) -> str:
    """The leaderboard of a store as text in a format."""
    from spurbench.bench.report import render

    return render(board(where, all_, grid), format_, colour)


def board(where: Path, all_: bool = False, grid: str | None = None) -> Leaderboard:
    """The leaderboard of a store; `grid` leaves only what that one planned."""
    from spurbench.bench import leaderboard as boards

    store = Store.open(where)
    records, unusable = store.records()
    plans = [plan for plan in store.plans() if grid in (None, plan["grid"])]
    if grid is not None and not plans:
        raise unknown(f"grid in {where}", grid, [plan["grid"] for plan in store.plans()])
    return boards.build(records, plans, unusable, all_, planned_only=grid is not None, headlines=headlines(plans),
                        edited=versions.edited)  # fmt: skip


def headlines(plans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns of every planned dataset that is installed here, for cells without a record."""
    known = registry.datasets()
    names = {cell["dataset"] for plan in plans for cell in plan["cells"]} & known.keys()
    return {name: known[name].headline for name in names}
