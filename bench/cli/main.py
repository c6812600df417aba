"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
from functools import cache

import typer

from spurbench.bench.cli import (
    cluster_commands,
    data_commands,
    entry,
    figure_commands,
    grid_commands,
    options,
    plugin_commands,
    store_commands,
)
from spurbench.bench.core import terminal
from spurbench.bench.plugin_files import entry_points

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
        entry.check_working_directory()
        build_app()()


@cache
def build_app() -> typer.Typer:
    """The command line, complete."""
    for group in (grid_commands, store_commands, figure_commands, plugin_commands, data_commands, cluster_commands):
        group.add_to(app)
    for more in entry_points.load_each("spurbench.commands", lambda add_to: entry.load_commands(add_to, app)):
        app.registered_commands += more.registered_commands
        app.registered_groups += more.registered_groups
    entry.expand_home_in_paths(app)
    return app
