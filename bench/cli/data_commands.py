"""The commands `data list`, `data prepare`, `data features` and `data verify`, added to the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from spurbench.bench.cli import options


def add_to(app: typer.Typer) -> None:
    """Put the commands into the command line."""
    data = typer.Typer(
        no_args_is_help=True, help="List, prepare and verify the files of datasets, and make features of them."
    )
    data.command("list")(list_)
    data.command()(prepare)
    data.command()(features)
    data.command()(verify)
    app.add_typer(data, name="data")


def list_(plugin: options.Plugin = None, json_: options.Json = False) -> None:
    """Show where each dataset's files come from and whether they are on this machine."""
    from spurbench.bench.api import dataset_files
    from spurbench.bench.core.terminal import show
    from spurbench.bench.plugins.registry import add_plugins

    add_plugins(plugin)
    rows = dataset_files.list_files()
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        show(rows, {"dataset": "dataset", "source": "files", "licence": "licence"})


def prepare(
    dataset: Annotated[str, typer.Argument(help="Name of a dataset.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Its files: a folder, or a file of rows; downloaded if left out.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A dataset option, as for run: cifar10.origin=jpeg.")
    ] = None,
    allow_bad: Annotated[bool, typer.Option("--allow-bad", help="Leave out images that cannot be read.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Number of processes; by default one per core.")] = None,
    plugin: options.Plugin = None,
) -> None:
    """Decode images, or read a table, texts or embeddings, once for all runs on this machine.

    If it is stopped, the same command continues. What is prepared is kept under $SPURBENCH_DATA, by default
    ~/.cache/spurbench/data.

    [dim]spurbench data prepare celeba --from ~/celeba[/dim]
    [dim]spurbench data prepare own_table --from rows.csv --set own_table.name=mine[/dim]
    """
    from spurbench.bench.api import dataset_files
    from spurbench.bench.core.processes import stoppable
    from spurbench.bench.plugins.registry import add_plugins

    add_plugins(plugin)
    with stoppable():
        print(dataset_files.prepare(dataset, source, set_ or [], allow_bad, jobs))


def features(
    dataset: Annotated[str, typer.Argument(help="Name of a dataset.")],
    network: Annotated[str, typer.Option(help="Name of a network, such as timm:resnet18.")],
    name: Annotated[str, typer.Option(help="What the features are called; by default after dataset and network.")] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the dataset or a setting of the network: training.side=96."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data and weights that are drawn at random.")] = 0,
    device: Annotated[str, typer.Option(help="Where the network computes: cpu, cuda or cuda:1.")] = "cpu",
    plugin: options.Plugin = None,
) -> None:
    """Compute what a network makes of each example, once; the dataset own_features has them by their name.

    If it is stopped, the same command continues.

    [dim]spurbench data features dominoes --network timm:resnet18 --set training.pretrained=timm[/dim]
    """
    from spurbench.bench.api.feature_extraction import Request, extract
    from spurbench.bench.core.processes import stoppable
    from spurbench.bench.plugins.registry import add_plugins

    add_plugins(plugin)
    called = name or f"{dataset}-{network.replace(':', '-').rpartition('/')[2]}"
    with stoppable():
        print(extract(Request(dataset, network, called, set_ or [], seed, device)))


def verify(
    dataset: Annotated[str | None, typer.Argument(help="Name of a dataset; by default all.")] = None,
    plugin: options.Plugin = None,
) -> None:
    """Check a dataset's files, checksums and counts."""
    from spurbench.bench.api import dataset_files
    from spurbench.bench.cli.entry import print_answers
    from spurbench.bench.core.errors import UserError
    from spurbench.bench.plugins.registry import add_plugins

    add_plugins(plugin)
    bad = print_answers(dataset_files.verify(dataset))
    if bad:
        raise UserError(f"the files of {', '.join(bad)} are not in order")
