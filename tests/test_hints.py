"""The commands that messages print run as they are printed, whatever the paths and labels in them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.store.store import Store

NAME = "it's a store"
LABEL = 'sd\'s $HOME `x` "y"'
FIGURE = """\
moons:
  title: moons
  caption: a figure
  source: nowhere
  grid: g's.yaml
  panels:
    - {kind: surface, cell: {dataset: two_moon, label: erm}}
    - {kind: surface, cell: {dataset: two_moon, label: LABEL}}
"""


@pytest.fixture
def typed(tmp_path: Path, command: Any) -> Any:
    """Runs a command as a shell takes it apart."""

    def run(line: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        function = "spurbench() { printf '%s\\0' \"$@\"; }"
        split = subprocess.run(["sh", "-c", f"{function}\n{line}"], capture_output=True, text=True, check=True)
        found: subprocess.CompletedProcess[str] = command(*split.stdout.split("\0")[:-1], code=code, cwd=tmp_path)
        return found

    return run


def hints(said: str) -> list[str]:
    """The commands of a message: what follows `next:`, and what stands in backticks with a path."""
    return re.findall(r"next: +(spurbench .*)", said) + re.findall(r"`(spurbench [^`]*/[^`]*)`", said)


def quoted_label() -> str:
    return "'" + LABEL.replace("'", "''") + "'"


def test_what_run_leaderboard_and_figure_print_can_be_typed(tmp_path: Path, command: Any, typed: Any) -> None:
    grid, figure, store = tmp_path / "g's.yaml", tmp_path / "my figure.yaml", tmp_path / NAME
    grid.write_text(
        "seeds: 0-1\ndatasets:\n  - dataset: two_moon\n    training: {steps: 3}\n"
        f"    methods: [erm, {{method: sd, label: {quoted_label()}}}]\n"
    )
    figure.write_text(FIGURE.replace("LABEL", quoted_label()))
    (hint,) = hints(command("run", grid, "--store", store, "--only", "erm").stderr)
    assert typed(hint).stdout.startswith("two_moon")
    said = command("figure", figure, store, code=2).stderr
    assert hints(said), said
    (hint,) = hints(said)
    typed(hint)
    assert len(Store.open(store).records()[0]) == 4, "the row that the figure lacked was run"
    for file in store.glob("drawings/*/*"):
        file.unlink()
    (hint,) = hints(command("figure", figure, store, code=2).stderr)
    typed(f"{hint} --jobs 1")
    assert (tmp_path / "moons.svg").exists()


def test_what_is_printed_about_a_store_that_there_is_not(tmp_path: Path, command: Any, typed: Any) -> None:
    said = command("leaderboard", tmp_path / NAME, code=2).stderr
    (hint,) = re.findall(r"`(spurbench .*)` makes one", said)
    cell = "--dataset two_moon --method erm --seeds 0 --set training.steps=3 --jobs 0"
    typed(hint.replace("GRID", cell))
    assert Store.open(tmp_path / NAME).records()[0]


def test_what_new_method_prints_can_be_typed(tmp_path: Path, command: Any, typed: Any) -> None:
    folder = tmp_path / "my methods"
    folder.mkdir()
    said = command("new-method", "mine", "--folder", folder).stdout
    check, run = (line.strip().removeprefix("next:").strip() for line in said.splitlines()[1:])
    typed(check)
    typed(f"{run} --seeds 0 --set training.steps=3 --store s")
