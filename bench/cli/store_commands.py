"""The commands about stores: `status`, `watch`, `show`, `leaderboard`, `rescore`, `pack`, `merge` and `accept`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from spurbench.bench.cli import options
from spurbench.bench.core import terminal
from spurbench.bench.core.terminal import plural, show


def add_to(app: typer.Typer) -> None:
    """Put the commands into the command line."""
    app.command()(status)
    app.command()(watch)
    app.command("show")(show_run)
    app.command()(leaderboard)
    app.command()(rescore)
    app.command()(pack)
    app.command()(merge)
    app.command()(accept)


def status(
    store: Annotated[Path, typer.Argument(help="Store folder.")] = Path("stores/quick"),
    json_: options.Json = False,
    plugin: options.Plugin = None,
) -> None:
    """Show the state of every cell: done, running, failed with its cause, waiting."""
    from spurbench.bench.cli import entry
    from spurbench.bench.cluster.status import COLUMNS, states_of
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    opened = Store.open(store)
    rows = states_of(opened)
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        show(rows, COLUMNS)
    entry.report_unused(opened)


def watch(
    store: Annotated[Path, typer.Argument(help="Store folder.")] = Path("stores/quick"),
    every: Annotated[float, typer.Option(min=1, help="Seconds between updates.")] = 10,
    plugin: options.Plugin = None,
) -> None:
    """Show `status` live until nothing is running or queued; Ctrl-C stops only the display."""
    import time

    from rich.live import Live

    from spurbench.bench.cluster.status import COLUMNS, states_of
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    console = terminal.console()
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as screen:
        while True:
            rows = states_of(Store.open(store))
            screen.update(terminal.table(rows, COLUMNS, "", console.width), refresh=True)
            if not any(row["running"] or row["queued"] for row in rows):
                break
            time.sleep(every)


def show_run(
    run: Annotated[str, typer.Argument(help="ID of the run, or the start of it.")],
    store: Annotated[Path, typer.Argument(help="Store: a folder or a packed .jsonl.gz file.")] = Path("stores/quick"),
    json_: Annotated[bool, typer.Option("--json", help="Print the record, for programs.")] = False,
) -> None:
    """Show everything about one run: what it is, its settings and their origin, scores, curve, provenance, files.

    [dim]spurbench show 0188 stores/paper[/dim]
    """
    from spurbench.bench.api import run_details
    from spurbench.bench.core.errors import UserError
    from spurbench.bench.store.store import Store

    opened = Store.open(store)
    found = run_details.load_details(opened, run)
    record = found.record
    if json_:
        if record is None:
            raise UserError(f"run {found.run.id} has no record: {', '.join(filter(None, (found.state, found.note)))}")
        print(json.dumps(record.to_dict(), indent=1))
        return
    say(run_details.describe_run(found))
    if record is not None:
        if record.cause and record.cause.detail:
            print(terminal.plain(record.cause.detail.rstrip()))
        for title, (rows, columns) in {
            run_details.scores_title(record, found.rule): run_details.score_table(record, found.rule),
            run_details.groups_title(record): run_details.group_table(record, found.rule),
            "learning curve": run_details.curve_table(record),
        }.items():
            if rows:
                show(rows, columns, title)
        say(run_details.describe_attributes(record) | run_details.describe_origin(record))
    say({"files": ", ".join(run_details.list_files(opened, found.run.id)) or "none"})


def say(facts: Mapping[str, str]) -> None:
    """Print facts, a line each."""
    for name, text in facts.items():
        if text:
            print(f"{name:<17} {terminal.line(text, 3000)}")


def leaderboard(
    store: Annotated[
        list[Path], typer.Argument(help="Store: a folder or a packed .jsonl.gz file; several are read as if merged.")
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="table, markdown, latex, csv, json or html; by default from the ending of --out."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the screen.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Show every split and metric, not only the main ones.")] = False,
    grid: Annotated[str | None, typer.Option(help="Restrict the leaderboard to what this grid planned.")] = None,
    only: options.Only = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns to show instead: split/metric,split/metric; the first is the main one.")
    ] = None,
    sort: Annotated[str | None, typer.Option(help="Order of the rows: split/metric, best first, or method.")] = None,
    plugin: options.Plugin = None,
) -> None:
    """Compare the methods: means with intervals, paired differences, cost, and what was published.

    [dim]spurbench leaderboard stores/paper --out paper.html[/dim]
    [dim]spurbench leaderboard stores/here there.jsonl.gz --columns test/loss,train/loss --sort test/loss[/dim]
    """
    from spurbench.bench.cli import entry
    from spurbench.bench.formats.render import format_of, load_format, render
    from spurbench.bench.leaderboard import view
    from spurbench.bench.leaderboard.build import build_from_store
    from spurbench.bench.plugins.registry import add_plugins

    add_plugins(plugin)
    out = out and entry.file_to_write(out)
    chosen = format_ or format_of(out)
    load_format(chosen)  # errors come before the work
    made = build_from_store(entry.open_stores(store), all_, grid, view.parse_columns(columns))
    made = view.sort_rows(view.filter_rows(made, only or []), sort)
    text = render(made, chosen, terminal.coloured() and out is None)
    if out is None:
        print(text if chosen == "table" or not sys.stdout.isatty() else terminal.plain(text))
        return
    from spurbench.bench.core.files import write_atomically

    write_atomically(out, text.encode())
    print(f"wrote {out}")


def rescore(
    store: Annotated[Path, typer.Argument(help="Store folder.")],
    metric: Annotated[
        list[str], typer.Option(help="Name of a metric of predictions (see `list metrics`); may be repeated.")
    ],
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be repeated.")] = None,
    plugin: options.Plugin = None,
) -> None:
    """Compute further metrics from the predictions kept of each run; `leaderboard` then has them. Nothing is trained.

    Any metric of predictions has a worst_group_ form: the worst of its values over the groups.

    [dim]spurbench rescore stores/paper --metric ece --metric worst_group_ece[/dim]
    """
    from spurbench.bench.cli import entry
    from spurbench.bench.evaluation import rescoring
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    opened = Store.open(store)
    outcome = rescoring.rescore(opened, metric, split or [])
    print(*rescoring.describe_outcome(outcome), f"next: spurbench leaderboard {terminal.shell(store)} --all", sep="\n")
    for line in outcome.damaged:
        print(f"spurbench: {line}", file=sys.stderr)
    if entry.report_unused(opened) or outcome.damaged:
        raise typer.Exit(2)


def pack(
    store: Annotated[Path, typer.Argument(help="Store folder.")],
    file: Annotated[Path, typer.Argument(help="File to write, .jsonl or .jsonl.gz.")],
    with_drawings: Annotated[
        bool, typer.Option("--drawings", help="Also pack what `figure` and `probe` draw from.")
    ] = False,
    plugin: options.Plugin = None,
) -> None:
    """Write a store's plans and records to one file, to commit or send; `leaderboard` reads it directly.

    Damaged records are named and left out; the exit code is then 2.
    """
    from spurbench.bench.cli import entry
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    file, source = entry.file_to_write(file), Store.open(store)
    print(f"{plural(source.pack(file), 'record')} in {file}")
    if with_drawings:
        from spurbench.bench.store import artifacts

        runs = artifacts.pack(source, file, [record.id for record in source.records()[0]])
        print(f"the drawings of {plural(runs, 'run')} in {artifacts.drawings_file(file)}")
    if entry.report_unused(source):
        raise typer.Exit(2)


def merge(
    store: Annotated[Path, typer.Argument(help="Store folder to add to; created if missing.")],
    sources: Annotated[list[Path], typer.Argument(help="Stores to add: folders or packed .jsonl.gz files.")],
    keep: Annotated[
        str, typer.Option(help="Which of two contradicting records of a run to keep: ask, ours or theirs.")
    ] = "ask",
    plugin: options.Plugin = None,
) -> None:
    """Add the records of other stores, e.g. from another cluster; records that contradict each other are named.

    Damaged records are named and left out, and the exit code is 2: merge again once they are repaired.

    [dim]spurbench merge stores/all /shared/a/paper paper-of-b.jsonl.gz[/dim]
    """
    from spurbench.bench.cli import entry
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store import merge as merging
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    others = [Store.open(source) for source in sources]
    for one in others:
        one.records()  # errors come before anything is written
    new, here = merging.merge(Store.open(store, create=True), others, keep, print)
    print(f"{plural(new, 'record')} added to {store}, {here} already there")
    if any([entry.report_unused(one) for one in others]):
        raise typer.Exit(2)


def accept(
    store: Annotated[Path, typer.Argument(help="Store folder.")],
    files: Annotated[list[str], typer.Argument(help="Names of the edited files, as `status` shows them: mine.py.")],
    plugin: options.Plugin = None,
) -> None:
    """Declare that an edit to a method or dataset changes no result: earlier runs count as made by the current file.

    Records keep the hashes of the code that made them. If an edit may change results, use `run --fresh` instead.
    """
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.merge import accept_edits
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    runs = accept_edits(Store.open(store), files)
    print(f"{plural(runs, 'run')} now accepted as made by the current {', '.join(files)}")
