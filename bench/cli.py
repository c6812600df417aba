"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from spurbench.bench import entry, options, packages, terminal
from spurbench.bench.errors import UserError
from spurbench.bench.terminal import show

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Compare methods against spurious correlations, with each other and with what was published.

    A [bold]grid[/bold] says which datasets, methods and seeds to run. Its records go into a
    [bold]store[/bold], a folder of plain files. A leaderboard is made from the store at any time.

    [dim]First steps:[/dim]  spurbench run quick,  spurbench leaderboard stores/quick,  spurbench new-method mine""",
)


@app.callback()
def spurbench(version: options.Version = False) -> None:
    pass


def main() -> None:
    """Entry point of the `spurbench` command, with the commands that other folders and packages add to it."""
    terminal.prepare()
    os.environ["PYTHONSAFEPATH"] = "1"  # whatever is started from here: files of the working directory are no modules
    with entry.user_errors():
        entry.here()
        whole()()


@cache
def whole() -> typer.Typer:
    """The command line, complete."""
    from spurbench.bench.figures import commands as drawing
    from spurbench.bench.pictures import commands as data

    data.add_to(app)
    drawing.add_to(app)
    for more in packages.each("spurbench.commands", lambda add_to: entry.added(add_to, app)):
        app.registered_commands += more.registered_commands
        app.registered_groups += more.registered_groups
    entry.take_home(app)
    return app


def add_plugins(paths: list[Path] | None) -> None:
    from spurbench.bench import registry

    for path in paths or []:
        registry.add_plugin(path)


def answered(answers: Iterable[tuple[str, bool, str]]) -> list[str]:
    """Print what was asked, whether it is in order and what was found, a line each; the names of what is not."""
    bad = []
    for name, ok, found in answers:
        print(f"{'ok  ' if ok else 'FAIL'}  {terminal.line(name)}: {terminal.line(found)}")
        bad += [] if ok else [name]
    return bad


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, datasets or grids; all three if left out.")] = "",
    plugin: options.Plugin = None,
    json_: options.Json = False,
) -> None:
    """Show the methods, datasets and grids there are, with hyper-parameters and what each needs."""
    from spurbench.bench import catalogue

    add_plugins(plugin)
    found = catalogue.everything(what)
    if json_:
        print(json.dumps(found, indent=1, default=str))
        return
    for kind, rows in found.items():
        show(rows, catalogue.COLUMNS[kind], kind)


@app.command()
def plan(
    grid: Annotated[str, typer.Argument(help="Name of a shipped grid, or a .yaml file.")],
    only: options.Only = None,
    plugin: options.Plugin = None,
    json_: options.Json = False,
) -> None:
    """Show what a grid would run, cell by cell, and which cells cannot be run and why."""
    from spurbench.bench.grid import expand, load_grid, summary
    from spurbench.bench.grid import only as chosen
    from spurbench.bench.record import used

    add_plugins(plugin)
    planned = expand(chosen(load_grid(grid), only or []), {})
    if json_:
        print(json.dumps(planned, indent=1))
        return
    rows = summary(planned)
    for row in rows:
        row["state"] = f"n/a: {row['na']}" if row["na"] else row["search"] or ""
        row["options"] = ", ".join(f"{k}={v}" for k, v in used(row["dataset_options"]).items())
    columns = {"dataset": "dataset", "options": "options", "label": "method", "precision": "precision", "runs": "runs",
               "search_runs": "search", "updates": "updates", "state": "note"}  # fmt: skip
    show(rows, columns, f"{planned['grid']}: {planned['description']}")
    total = sum(row["runs"] + row["search_runs"] for row in rows)
    print(f"{total} runs in {len(rows)} cells, {sum(row['updates'] for row in rows):,} updates")


@app.command()
def estimate(
    grid: options.Grid = None,
    dataset: options.Datasets = None,
    method: options.Methods = None,
    set_: options.Sets = None,
    only: options.Only = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure in each cell, after one to warm up.")] = 3,
    device: options.Device = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    compile_: options.Compile = False,
    plugin: options.Plugin = None,
    json_: options.Json = False,
) -> None:
    """Measure a few steps of each cell and project what the whole grid would take on this machine.

    Times are those of one process that trains one seed after the other; nothing is recorded.

    [dim]spurbench estimate paper[/dim]
    [dim]spurbench estimate --dataset cifar10 --method erm --set cifar10.origin=jpeg[/dim]
    """
    from spurbench.bench import command
    from spurbench.bench import estimate as estimates
    from spurbench.bench.grid import only as chosen
    from spurbench.bench.runner import Settings

    add_plugins(plugin)
    asked = command.the_grid(grid, dataset or [], method or [], None, set_ or [], precision)
    rows = []
    for row in estimates.estimate(chosen(asked, only or []), Settings(device, None, threads, compile=compile_), steps):
        rows.append(row)
        print(f"{len(rows)}: {row['dataset']} × {terminal.line(row['label'])}", file=sys.stderr)
    if json_:
        print(json.dumps(rows, indent=1))
        return
    show(
        [estimates.shown(row) for row in rows], estimates.COLUMNS, f"{asked.name}: {steps} steps of each cell measured"
    )
    print(estimates.total(rows))


@app.command()
def run(
    grid: options.Grid = None,
    dataset: options.Datasets = None,
    method: options.Methods = None,
    seeds: Annotated[
        str | None, typer.Option(help="Without a grid: 0-9, or 1,2,5; by default those of the paper, else 0-9.")
    ] = None,
    set_: options.Sets = None,
    store: Annotated[Path | None, typer.Option(help="Folder of the results; default stores/GRID.")] = None,
    only: options.Only = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    jobs: Annotated[
        int | None, typer.Option(min=0, help="Processes at once; default one a core or GPU. 0: none, for a debugger.")
    ] = None,
    threads: options.Threads = None,
    retry: Annotated[bool, typer.Option("--retry", help="Do failed runs again.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do runs again that were made before their method or data were edited.")
    ] = False,
    time_limit: Annotated[
        float | None, typer.Option(min=1, help="Seconds a run may take; one that takes longer has failed.")
    ] = None,
    checkpoint_seconds: Annotated[float, typer.Option(help="Seconds between two saves of a run's state.")] = 60,
    compile_: options.Compile = False,
    plugin: options.Plugin = None,
) -> None:
    """Run a grid, or one dataset × method, on this machine; run it again to go on where it stopped.

    [dim]spurbench run quick[/dim]
    [dim]spurbench run --dataset colored_mnist --method sd --seeds 0-9 --set sd.coef=0.1[/dim]
    """
    from spurbench.bench import command
    from spurbench.bench.runner import Settings

    add_plugins(plugin)
    chosen = command.the_grid(grid, dataset or [], method or [], seeds, set_ or [], precision)
    for name, value in (("--checkpoint-seconds", checkpoint_seconds), ("--time-limit", time_limit or 0)):
        if not 0 <= value < inf:
            raise UserError(f"{name} {value}: expected a number of seconds")
    if jobs == 0 and time_limit is not None:
        raise UserError("--time-limit ends a process, and --jobs 0 starts none")
    where = store or Path("stores") / (grid and Path(grid).stem or "adhoc")
    settings = Settings(
        device, jobs, threads, retry, fresh, time_limit, only or [], checkpoint_seconds, compile=compile_
    )
    raise typer.Exit(command.run(chosen, where, settings))


@app.command()
def status(
    store: Annotated[Path, typer.Argument(help="The folder of the results.")] = Path("stores/quick"),
    json_: options.Json = False,
) -> None:
    """Show the state of every cell: done, running, failed with its cause, waiting."""
    from spurbench.bench import command
    from spurbench.bench.store import Store

    opened = Store.open(store)
    rows = command.status(opened)
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        show(rows, command.STATUS_COLUMNS)
    command.complain(opened)


@app.command()
def watch(
    store: Annotated[Path, typer.Argument(help="The folder of the results.")] = Path("stores/quick"),
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 10,
) -> None:
    """Show `status` again and again until nothing is running or queued; Ctrl-C stops only the watching."""
    import time

    from rich.live import Live

    from spurbench.bench import command

    console = terminal.console()
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as screen:
        while True:
            rows = command.status(store)
            screen.update(terminal.table(rows, command.STATUS_COLUMNS, "", console.width), refresh=True)
            if not any(row["running"] or row["queued"] for row in rows):
                break
            time.sleep(every)


@app.command()
def leaderboard(
    store: Annotated[Path, typer.Argument(help="The folder of the results, or a packed .jsonl.gz file.")],
    format_: Annotated[str, typer.Option("--format", help="table, markdown, latex, csv, json or html.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the screen.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every split and metric, not only the main ones.")] = False,
    grid: Annotated[str | None, typer.Option(help="Only what this grid planned.")] = None,
) -> None:
    """Compare the methods: means with intervals, paired differences, cost, and what was published."""
    from spurbench.bench import command

    out = out and entry.file_to_write(out)
    text = command.leaderboard(store, format_, all_, grid, terminal.coloured() and out is None)
    if out is None:
        print(text if format_ == "table" or not sys.stdout.isatty() else terminal.plain(text))
        return
    from spurbench.bench.files import write_atomically

    write_atomically(out, text.encode())
    print(f"wrote {out}")


@app.command()
def pack(
    store: Annotated[Path, typer.Argument(help="The folder of the results.")],
    file: Annotated[Path, typer.Argument(help="The file to write, .jsonl or .jsonl.gz.")],
    with_drawings: Annotated[
        bool, typer.Option("--drawings", help="Also what `figure` and `probe` draw from.")
    ] = False,
) -> None:
    """Write a store's plans and records into one file, to commit or to send; `leaderboard` reads it as it is.

    What is damaged cannot be packed: it is named, and the command ends with 2.
    """
    from spurbench.bench import command
    from spurbench.bench.store import Store

    file, source = entry.file_to_write(file), Store.open(store)
    print(f"{source.pack(file)} records in {file}")
    if with_drawings:
        from spurbench.bench import drawings

        runs = drawings.pack(source, file, [record["id"] for record in source.records()[0]])
        print(f"the drawings of {runs} runs in {drawings.beside(file)}")
    if command.complain(source):
        raise typer.Exit(2)


@app.command()
def merge(
    store: Annotated[Path, typer.Argument(help="The folder to add records to; made if it is not there.")],
    sources: Annotated[list[Path], typer.Argument(help="Folders of other results, or packed .jsonl.gz files.")],
    keep: Annotated[str, typer.Option(help="Of two finished records of one run: ask, ours or theirs.")] = "ask",
) -> None:
    """Add the records of other stores, such as those of another cluster; two that contradict each other are named.

    What is whole is added, what is damaged is named, and then the command ends with 2: merge it again once mended.

    [dim]spurbench merge stores/all /shared/a/paper paper-of-b.jsonl.gz[/dim]
    """
    from spurbench.bench import command
    from spurbench.bench import merge as merging
    from spurbench.bench.store import Store

    others = [Store.open(source) for source in sources]
    for one in others:
        one.records()  # complaints come before anything is written
    new, here = merging.merge(Store.open(store, create=True), others, keep, print)
    print(f"{new} records added to {store}, {here} were there already")
    if any([command.complain(one) for one in others]):
        raise typer.Exit(2)


@app.command()
def accept(
    store: Annotated[Path, typer.Argument(help="The folder of the results.")],
    files: Annotated[list[str], typer.Argument(help="Names of the edited files, as `status` says them: mine.py.")],
    plugin: options.Plugin = None,
) -> None:
    """Say that an edit of a method's or dataset's file alters no result: runs made before it count as made after it.

    Their records keep what made them. For an edit that may alter results: `run` with --fresh.
    """
    from spurbench.bench import command

    add_plugins(plugin)
    print(f"{command.accept(store, files)} runs now count as made by the current {', '.join(files)}")


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="Name of the method, lower case with underscores.")],
    folder: Annotated[Path, typer.Option(help="Where to write it.")] = Path(),
) -> None:
    """Write a complete method file to start from."""
    from spurbench.bench.scaffold import write_method

    path = write_method(name, folder)
    file = terminal.shell(path)
    print(f"wrote {path}\nnext:  spurbench check-method {file}\n"
          f"       spurbench run --plugin {file} --dataset two_moon --method {name}")  # fmt: skip


@app.command("check-method")
def check_method(method: Annotated[str, typer.Argument(help="Name of a method, or its .py file.")]) -> None:
    """Ask a method all the questions the engine relies on: shapes, gradients, NaN, stacking, state, needs."""
    from spurbench.bench.conformance import check

    checks = check(method)
    bad = answered((one.name, one.ok, one.message) for one in checks)
    if bad:
        raise UserError(f"{method} fails {len(bad)} of {len(checks)} checks")


@app.command()
def doctor(json_: options.Json = False) -> None:
    """Look at this machine: versions, cores, GPUs, bf16, plug-ins, data, and how runs would be laid out."""
    from spurbench.bench import doctor as surgery

    rows = surgery.examine()
    if json_:
        print(json.dumps(rows, indent=1))
        return
    if answered((row["what"], row["ok"], row["found"]) for row in rows):
        raise UserError("something above needs mending")
