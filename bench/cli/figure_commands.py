"""The commands that draw: `figure`, `probe` and `report`, added to the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from spurbench.bench.cli import options

Train = Annotated[
    bool, typer.Option("--train", help="Retrain the runs whose drawing data were not kept, and keep them.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Number of processes; by default one per core.")]


def add_to(app: typer.Typer) -> None:
    """Put the commands into the command line."""
    for command in (figure, probe, report):
        app.command()(command)


def figure(
    name: Annotated[str, typer.Argument(help="fig1 to fig6, or paper for all of them; twin; or a .yaml file.")],
    store: Annotated[
        Path | None, typer.Argument(help="Store: a folder or a packed .jsonl.gz file; fig5 needs none.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write, or a folder for NAME.svg; by default the current one.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Draw the panels that have runs, and leave the others empty.")
    ] = False,
    train: Train = False,
    jobs: Jobs = None,
    plugin: options.Plugin = None,
) -> None:
    """Draw a figure from a store: SVG, PDF, PNG, and the plotted numbers as JSON.

    [dim]spurbench figure fig6 stores/paper --out fig6.svg[/dim]
    """
    from spurbench.bench.cli import entry
    from spurbench.bench.core.errors import UserError
    from spurbench.bench.core.processes import stoppable
    from spurbench.bench.figures import draw, sheet
    from spurbench.bench.figures.figure_data import FigureData
    from spurbench.bench.jobs import retrain
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    figures = sheet.load(name)
    source = FigureData(Store.open(store) if store else None)
    tasks = draw.find_retrainings(figures, source) if train else []
    if tasks and source.store:
        writable(where(out, figures[0].name))
        with stoppable():
            retrain.retrain_all(tasks, jobs or cores(), progress(tasks))
        source.store.damaged.clear()  # it was remade
    refused = []
    for one in figures:
        try:
            drawing = draw.prepare(one, source, partial)
        except UserError as error:
            refused.append(str(error))
            continue
        paths = draw.save(drawing, where(out, one.name))
        print(f"wrote {paths[0]}, and beside it {', '.join(path.name for path in paths[1:])}")
    if source.store:
        entry.report_unused(source.store)
    if refused and len(figures) == 1:
        raise UserError(refused[0])
    for line in refused:
        print(f"spurbench: {line}", file=sys.stderr)
    if refused and not (partial and len(refused) < len(figures)):
        raise typer.Exit(2)


def probe(
    store: Annotated[Path, typer.Argument(help="Store folder.")],
    run: Annotated[list[str] | None, typer.Option(help="ID of a run, or the start of one; may be repeated.")] = None,
    cell: Annotated[
        list[str] | None,
        typer.Option(help="Cell: label, dataset/label or pattern (fig*), averaged over its seeds; may be repeated."),
    ] = None,
    features: Annotated[int, typer.Option(min=1, help="Number of features, the strongest first.")] = 10,
    sample: Annotated[
        int, typer.Option(min=2, help="At most this many training examples, drawn with the run's seed.")
    ] = 1000,
    points: Annotated[int, typer.Option(min=2, help="Number of steps at which responses are measured.")] = 60,
    spacing: Annotated[str, typer.Option(help="Spacing of these steps: log or even.")] = "log",
    out: Annotated[
        Path | None, typer.Option(help="File to write, or a folder for probe.svg; by default the current one.")
    ] = None,
    jobs: Jobs = None,
    plugin: options.Plugin = None,
) -> None:
    """Show which features a binary run learned and which it starved, by retraining it and measuring responses.

    Features are singular vectors of the label-signed Jacobian at initialisation. Writes SVG, PDF, PNG and JSON.

    [dim]spurbench probe stores/paper --cell 'figure 1: erm' --cell 'figure 1: sd'[/dim]
    """
    from spurbench.bench.cli import entry
    from spurbench.bench.core.errors import unknown
    from spurbench.bench.core.processes import stoppable
    from spurbench.bench.core.terminal import show
    from spurbench.bench.evaluation.starvation import Settings
    from spurbench.bench.figures import draw, probe_runs
    from spurbench.bench.jobs import retrain
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    if spacing not in ("log", "even"):
        raise unknown("spacing", spacing, ("log", "even"))
    settings, source = Settings(features, sample, points, spacing), Store.open(store)
    groups = probe_runs.find_groups(source, run or [], cell or [])
    tasks = probe_runs.find_retrainings(source, groups, settings)
    if tasks:
        writable(where(out, "probe"))
        with stoppable():
            retrain.retrain_all(tasks, jobs or cores(), progress(tasks))
        source.damaged.clear()  # it was remade
    parts = probe_runs.summarize(source, groups, settings)
    for part in parts:
        probe_runs.print_table(part, show)
    entry.report_unused(source)
    paths = draw.save(probe_runs.make_drawing(parts, settings), where(out, "probe"))
    print(f"wrote {paths[0]}, and beside it {', '.join(path.name for path in paths[1:])}")


def report(
    store: Annotated[Path, typer.Argument(help="Store: a folder or a packed .jsonl.gz file.")],
    out: Annotated[Path, typer.Option(help="Folder to write; files of the same name are overwritten.")],
    grid: Annotated[str | None, typer.Option(help="Restrict the leaderboard to what this grid planned.")] = None,
    plugin: options.Plugin = None,
) -> None:
    """Write the leaderboard and every figure a store has runs for as a folder of self-contained pages.

    [dim]spurbench report stores/paper --out report[/dim]
    """
    from spurbench.bench.cli import entry
    from spurbench.bench.core.terminal import plural
    from spurbench.bench.figures import report_pages
    from spurbench.bench.plugins.registry import add_plugins
    from spurbench.bench.store.store import Store

    add_plugins(plugin)
    opened = Store.open(store)
    made = report_pages.write_report(opened, out, grid)
    entry.report_unused(opened)
    drawn = [one.name for one in made.figures]
    print(f"wrote {out / 'index.html'}: {plural(len(drawn), 'figure')}: {', '.join(drawn)}")
    for name, reason in made.lacking.items():
        print(f"not drawn: {name}: {reason}")


def where(out: Path | None, name: str) -> Path:
    """The path of a figure's files without their endings: `out` is a file or a folder.

    Errors: UserError for a file of another format.
    """
    from spurbench.bench.core.errors import UserError
    from spurbench.bench.figures.draw import FORMATS

    if out is None:
        return Path(name)
    if out.suffix.removeprefix(".") in FORMATS:
        return out.with_suffix("")
    if out.suffix and not out.is_dir():
        raise UserError(
            f"no figure can be written to {out}: expected a folder, or a name ending in {', '.join(FORMATS)}"
        )
    return out / name


def writable(base: Path) -> None:
    """Raise an error before any work is done if nothing can be written there."""
    from spurbench.bench.figures.draw import write_file

    test = base.with_name(f".{base.name}.test")
    write_file(test, b"")
    test.unlink()


def cores() -> int:
    from spurbench.bench.core import machine

    return machine.cores()


def progress(tasks: list[Any]) -> Callable[[Any, list[bool]], None]:
    """Prints how far retraining is, and whether the results are as recorded."""
    from spurbench.bench.core.terminal import duration, plural

    total = sum(len(task.records) for task in tasks)
    seconds = sum(record.cost.seconds for task in tasks for record in task.records)
    print(f"retraining {plural(total, 'run')}, which took {duration(seconds)} in one process", file=sys.stderr)
    done = 0

    def report(task: Any, same: list[bool]) -> None:
        nonlocal done
        done += len(same)
        first = task.records[0]
        how = (
            "as recorded"
            if all(same)
            else f"{same.count(False)} differ slightly from the record (another torch or processor?)"
        )
        print(f"{done}/{total} {first.dataset} × {first.method}: {how}", file=sys.stderr)

    return report
