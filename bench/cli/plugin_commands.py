"""The commands about plug-ins and this machine: `list`, `new-…` and `check-…` for methods and datasets, `doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from spurbench.bench.cli import options
from spurbench.bench.cli.entry import print_answers
from spurbench.bench.core import terminal
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.terminal import plural, show


def add_to(app: typer.Typer) -> None:
    """Put the commands into the command line."""
    app.command("list")(list_)
    app.command("new-method")(new_method)
    app.command("check-method")(check_method)
    app.command("new-dataset")(new_dataset)
    app.command("check-dataset")(check_dataset)
    app.command()(doctor)


def list_(
    what: Annotated[
        str,
        typer.Argument(help="methods, datasets, networks, optimizers, rules, metrics or grids; or a plug-in's name."),
    ] = "",
    plugin: options.Plugin = None,
    json_: options.Json = False,
) -> None:
    """List plug-ins and grids, with settings and needs; by a plug-in's name, show all about it.

    [dim]spurbench list metrics[/dim]
    [dim]spurbench list sd[/dim]
    """
    from spurbench.bench.api import catalogue
    from spurbench.bench.plugins.registry import add_plugins

    add_plugins(plugin)
    if what and what not in catalogue.COLUMNS:
        show_plugin(what, json_)
        return
    found = catalogue.list_rows(what)
    if json_:
        print(json.dumps(found, indent=1, default=str))
        return
    for kind, rows in found.items():
        show(rows, catalogue.COLUMNS[kind], kind)


def show_plugin(name: str, json_: bool) -> None:
    """Show the plug-ins of one name."""
    from spurbench.bench.api import catalogue, description

    each = catalogue.find_plugins(name)
    if json_:
        print(json.dumps([description.describe(info) for info in each], indent=1, default=str))
        return
    for info in each:
        found = description.describe(info)
        rows, summary = found.pop("options"), found.pop("summary")
        print(f"{found.pop('kind')} {found.pop('name')}: {terminal.line(summary)}")
        for title, text in found.items():
            if text:
                print(terminal.line(f"  {title}: {text}", 3000))
        if rows:
            show(rows, {key: heading for key, heading in description.COLUMNS.items() if any(r[key] for r in rows)})
        if hint := description.how_to_set(info):
            print(f"set with {hint}")


def new_method(
    name: Annotated[str, typer.Argument(help="Name of the method, lower case with underscores.")],
    folder: Annotated[Path, typer.Option(help="Folder to write it to.")] = Path(),
) -> None:
    """Write a complete method file to start from."""
    from spurbench.bench.checks.scaffold import write_plugin

    path = write_plugin("method", name, folder)
    file = terminal.shell(path)
    print(f"wrote {path}\nnext:  spurbench check-method {file}\n"
          f"       spurbench run --plugin {file} --dataset two_moon --method {name}")  # fmt: skip


def check_method(method: Annotated[str, typer.Argument(help="Name of a method, or its .py file.")]) -> None:
    """Check what the engine relies on in a method: shapes, gradients, NaN, stacking, state, needs."""
    from spurbench.bench.checks.method_checks import check

    checks = check(method)
    bad = print_answers((one.name, one.ok, one.message) for one in checks)
    if bad:
        raise UserError(f"{method} fails {len(bad)} of {plural(len(checks), 'check')}")


def new_dataset(
    name: Annotated[str, typer.Argument(help="Name of the dataset, lower case with underscores.")],
    folder: Annotated[Path, typer.Option(help="Folder to write it to.")] = Path(),
) -> None:
    """Write a complete dataset file to start from."""
    from spurbench.bench.checks.scaffold import write_plugin

    path = write_plugin("dataset", name, folder)
    file = terminal.shell(path)
    print(f"wrote {path}\nnext:  spurbench check-dataset {file}\n"
          f"       spurbench run --plugin {file} --dataset {name} --method erm --method group_dro")  # fmt: skip


def check_dataset(
    dataset: Annotated[str, typer.Argument(help="Name of a dataset, or its .py file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="A dataset option: celeba.origin=twin.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Files to prepare it from, for these checks alone: its twin's folder.")
    ] = None,
) -> None:
    """Check a dataset: draws, splits, groups and P(a | y), copies across splits, what methods are handed, memory.

    [dim]spurbench check-dataset mine.py --set mine.agreement=0.8[/dim]
    [dim]spurbench check-dataset celeba --from twin --set celeba.origin=twin --set celeba.size=32[/dim]
    """
    from spurbench.bench.api.dataset_check import check
    from spurbench.bench.plugins.registry import add_plugin

    name = add_plugin(dataset).name if dataset.endswith(".py") else dataset
    checks = check(name, set_ or [], source)
    bad = print_answers((one.name, one.ok, one.message) for one in checks)
    if bad:
        raise UserError(f"{dataset} fails {len(bad)} of {plural(len(checks), 'check')}")


def doctor(json_: options.Json = False) -> None:
    """Check this machine: versions, cores, GPUs, bf16, plug-ins, data, and how runs would be placed."""
    from spurbench.bench.api.doctor import examine

    rows = examine()
    if json_:
        print(json.dumps(rows, indent=1))
        return
    if bad := print_answers((row["what"], row["ok"], row["found"]) for row in rows):
        raise UserError(f"this machine has problems with: {', '.join(dict.fromkeys(bad))}")
