"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def say_version(wanted: bool) -> None:
    """Print the version and end, if that is wanted."""
    if wanted:
        from importlib.metadata import version

        print(version("spurbench"))
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=say_version, help="Print the version and exit.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Plugin = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A file of your own: a method, dataset, rule, ...; may be repeated."),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Only these cells: a dataset, method, label, dataset/method or pattern (co*)."),
]
Grid = Annotated[str | None, typer.Argument(help="Name of a shipped grid (quick, paper), or a .yaml file.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", help="Without a grid: dataset; may be repeated.")]
Methods = Annotated[list[str] | None, typer.Option("--method", help="Without a grid: method; may be repeated.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A value that overrides the grid's or the published one: sd.coef=0.1 or training.lr=1e-3. "
        "Fields of training hold for the runs that rows start from, too.",
    ),
]
Seeds = Annotated[
    str | None, typer.Option(help="Without a grid: 0-9, or 1,2,5; by default the published ones, else 0-9.")
]
Draws = Annotated[
    int | None,
    typer.Option(
        min=1, help="Without a grid: search with this many random draws from the ranges that a method declares."
    ),
]
Rule = Annotated[
    str | None, typer.Option(help="Rule by which --draws chooses; by default the dataset's: held out, worst group.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or a list such as cuda:0,cuda:1.")]
Precision = Annotated[str | None, typer.Option(help="float32, bf16 or, on GPUs, fp16, instead of the grid's.")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="Threads per process; by default chosen by measurements, at most OMP_NUM_THREADS."
    ),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        min=1, help="Examples that are in the network at once, for batches that do not fit: exact, a third slower."
    ),
]
KeepWeights = Annotated[
    bool, typer.Option("--keep-weights", help="Keep each run's networks after its last step, in STORE/weights.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile networks for images (torch.compile; needs a C++ compiler).")
]
