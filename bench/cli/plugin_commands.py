"""The commands about methods, datasets and this machine: `list`, `new-method`, `check-method` and `doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from spurbench.bench.cli import options
from spurbench.bench.cli.entry import answered
from spurbench.bench.core import terminal
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.terminal import show


def add_to(app: typer.Typer) -> None:
    """Put the commands into the command line."""
    app.command("list")(list_)
    app.command("new-method")(new_method)
    app.command("check-method")(check_method)
    app.command()(doctor)


def list_(
    what: Annotated[str, typer.Argument(help="methods, datasets or grids; all three if left out.")] = "",
    plugin: options.Plugin = None,
    json_: options.Json = False,
) -> None:
    """Show the methods, datasets and grids there are, with hyper-parameters and what each needs."""
    from spurbench.bench.cli import catalogue
    from spurbench.bench.plugins.registry import add_plugins

    add_plugins(plugin)
    found = catalogue.everything(what)
    if json_:
        print(json.dumps(found, indent=1, default=str))
        return
    for kind, rows in found.items():
        show(rows, catalogue.COLUMNS[kind], kind)


def new_method(
    name: Annotated[str, typer.Argument(help="Name of the method, lower case with underscores.")],
    folder: Annotated[Path, typer.Option(help="Where to write it.")] = Path(),
) -> None:
    """Write a complete method file to start from."""
    from spurbench.bench.checks.scaffold import write_method

    path = write_method(name, folder)
    file = terminal.shell(path)
    print(f"wrote {path}\nnext:  spurbench check-method {file}\n"
          f"       spurbench run --plugin {file} --dataset two_moon --method {name}")  # fmt: skip


def check_method(method: Annotated[str, typer.Argument(help="Name of a method, or its .py file.")]) -> None:
    """Ask a method all the questions the engine relies on: shapes, gradients, NaN, stacking, state, needs."""
    from spurbench.bench.checks.method_checks import check

    checks = check(method)
    bad = answered((one.name, one.ok, one.message) for one in checks)
    if bad:
        raise UserError(f"{method} fails {len(bad)} of {len(checks)} checks")


def doctor(json_: options.Json = False) -> None:
    """Look at this machine: versions, cores, GPUs, bf16, plug-ins, data, and how runs would be laid out."""
    from spurbench.bench.cli import doctor as surgery

    rows = surgery.examine()
    if json_:
        print(json.dumps(rows, indent=1))
        return
    if answered((row["what"], row["ok"], row["found"]) for row in rows):
        raise UserError("something above needs mending")
