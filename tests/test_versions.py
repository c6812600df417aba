"""What code and data made a run: noticed when they change, and only when they can alter a number."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.plugins import registry
from spurbench.bench.provenance import data_files, edits, plugin_code
from spurbench.bench.store.store import Store

POINTS = Path(__file__).with_name("points.py")
SD = registry.methods()["sd"].path.read_text()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"""Spectral', '"""Spectral (again)', True),
        ("\n\n\n@dataclass", "\n\n\n# a comment\n@dataclass", True),
        ("hyper(0.01, low=1e-5", "hyper(0.02, low=1e-4", True),  # a run's identity holds the value
        (" -> Tensor", "", True),
        ("risk = batch.losses(logits).mean()", "risk = (\n            batch.losses(logits).mean())", True),
        ("batch.losses(logits).mean()", "2 * batch.losses(logits).mean()", False),
        ("step < self.delay", "step <= self.delay", False),
        ("from torch import Tensor", "from torch import Tensor\nimport torch.nn.functional", False),
    ],
)
def test_code_changes_when_results_can(tmp_path: Path, old: str, new: str, same: bool) -> None:
    assert old in SD
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text(SD)
    other.write_text(SD.replace(old, new))
    assert (plugin_code.code(one) == plugin_code.code(other)) == same


def test_code_holds_what_a_plugin_imports_of_its_own(tmp_path: Path) -> None:
    mine, helper = tmp_path / "mine.py", tmp_path / "helper_of_mine.py"
    mine.write_text(f"import helper_of_mine\n{SD}")
    helper.write_text("FACTOR = 1\n")
    before = plugin_code.code(mine)
    helper.write_text("FACTOR = 2\n")
    edits.clear_caches()
    assert plugin_code.code(mine) != before
    names = {file.name for file in plugin_code.with_imports(registry.datasets()["dominoes"].path)}
    assert names == {"dominoes.py", "cifar10.py"}


def test_a_file_that_cannot_be_parsed_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def broken(:")
    assert plugin_code.code(tmp_path / "broken.py") == plugin_code.code(tmp_path / "none.py") == ""


def test_the_files_a_dataset_reads_are_heard(tmp_path: Path) -> None:
    data, other = tmp_path / "points.csv", tmp_path / "written.txt"
    data.write_text("1,2\n")
    with data_files.watching("points") as files:
        data.read_text()
        other.write_text("not read")
        Path(edits.__file__).read_text()
    assert files == {"points.csv": data_files.content_of(data)}
    with data_files.watching("points") as again:
        pass
    assert again == files  # a dataset may keep what it read
    data.write_text("1,3\n")
    assert data_files.differ(files, {"points.csv": data_files.content_of(data)}) == ["points.csv"]


DATASET = '''"""Points of a table.

Source: mine. Licence: mine. Groups: none.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from spurbench.bench.plugins.dataset import Data, Dataset, Split, Training

TABLE = Path(__file__).with_name("points.csv")

@dataclass(frozen=True)
class Points(Dataset):
    training = Training(width=5, hidden_layers=1, optimizer="sgd", lr=0.1, steps=5)

    def load(self, seed, build):
        rows = torch.from_numpy(np.loadtxt(TABLE, delimiter=","))
        torch.manual_seed(seed)
        split = Split(rows[:, :2].float(), rows[:, 2].long())
        return Data(split, {"test": split}), build(split.x)
'''


def forget_files() -> None:
    """Let this process read a user's files again, as a new one would."""
    plugin_code.first_seen.cache_clear()
    data_files._read.clear()
    for name in [name for name in sys.modules if name.startswith("spurbench_plugin_")]:
        del sys.modules[name]


def test_an_edited_method_dataset_or_table_is_said_and_trained_again(command: Any, tmp_path: Path) -> None:
    """Until it is asked for with --fresh, a run stays as it is; a comment changes nothing."""
    method, dataset, table, store = (tmp_path / name for name in ("mine.py", "points.py", "points.csv", "s"))
    method.write_text(SD.replace("SD", "Mine"))
    dataset.write_text(DATASET)
    table.write_text("".join(f"{i % 7},{i % 3},{i % 2}\n" for i in range(20)))
    line = ["run", "--plugin", method, "--plugin", dataset, "--dataset", "points", "--method", "mine", "--seeds", "0-1",
            "--store", store]  # fmt: skip

    def losses() -> list[float]:
        return [record.splits["test"].loss_sum for record in Store.open(store).records()[0]]

    forget_files()
    try:
        assert "was edited" not in command(*line).stderr
        method.write_text(f"# a comment\n{method.read_text()}")
        assert "was edited" not in command(*line).stderr
        before = losses()
        for file, text in (
            (method, method.read_text().replace("logits.square()", "50 * logits.square()")),
            (dataset, DATASET.replace('delimiter=","', 'delimiter=",", dtype=float')),
            (table, table.read_text().replace("1,1,1", "2,1,1")),
        ):
            file.write_text(text)
            assert f"2 runs were made before {file.name} was edited" in command(*line).stderr
            assert losses() == before and file.name in command("status", store).stdout.replace("\n", "")
            anew = ["--jobs", 1] if file is method else []
            forget_files()
            assert "was edited" not in command(*line, "--fresh", *anew).stderr
            assert file is dataset or losses() != before
            before = losses()
    finally:
        registry.forget_plugins()
    assert json.loads(command("leaderboard", store, "--format", "json").stdout)


def test_a_run_begun_by_other_code_starts_over(started: Any, command: Any, until: Any, tmp_path: Path) -> None:
    method, store = tmp_path / "mine.py", tmp_path / "s"
    method.write_text(SD.replace("SD", "Mine"))
    line = ["run", "--plugin", method, "--plugin", POINTS, "--dataset", "points", "--method", "mine", "--seeds", "0",
            "--store", store, "--set", "training.steps=6000"]  # fmt: skip
    running = started(*line, "--checkpoint-seconds", "0.05")
    until(lambda: list(store.glob("checkpoints/*.pt")))
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    method.write_text(method.read_text().replace("self.coef * penalty", "3 * self.coef * penalty"))
    said = command(*line).stderr
    assert "seed 0: the method changed since it was begun; it starts over" in said
    (record,) = Store.open(store).records()[0]
    assert record.cost.resumed == 0 and not list(store.glob("checkpoints/*"))


def test_an_edit_that_alters_nothing_is_accepted(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SD.replace("SD", "Mine"))
    line = ["run", "--plugin", "mine.py", "--dataset", "two_moon", "--method", "mine", "--seeds", 0, "--store", "s",
            "--set", "training.steps=2", "--set", "two_moon.examples=20"]  # fmt: skip
    command(*line)
    (before,) = Store.open("s").records()[0]
    assert (
        "no file that was edited after it made runs of s 'mine.py'" in command("accept", "s", "mine.py", code=2).stderr
    )
    Path("mine.py").write_text(f"{SD.replace('SD', 'Mine')}\nUNUSED = 1\n")
    edits.clear_caches()
    assert "`spurbench accept s mine.py`" in command(*line).stderr
    assert "1 run now accepted as made by the current mine.py" in command("accept", "s", "mine.py").stdout
    (after,) = Store.open("s").records()[0]
    assert edits.find_edited_files(after) == []
    assert after.provenance.accepted["method"] == [edits.versions_of(before)["method"]]
    registry.forget_plugins()


def test_a_helpers_fields_and_a_packages_modules_count(tmp_path: Path) -> None:
    """What is in no run's identity is part of the code: the fields of other classes, modules imported by a package."""
    package = tmp_path / "own"
    package.mkdir()
    (package / "__init__.py").write_text("")
    helper = package / "helper.py"
    helper.write_text("A = 1\n")
    file = package / "mine.py"
    text = (
        "from . import helper\nclass Net(nn.Module):\n    width: int = 3\nclass Mine(Method):\n    coef: float = 1.0\n"
    )

    def version() -> str:
        edits.clear_caches()
        return plugin_code.code(file)

    file.write_text(text)
    first = version()
    file.write_text(text.replace("1.0", "2.0"))
    assert version() == first
    file.write_text(text.replace("= 3", "= 4"))
    assert version() != first
    file.write_text(text)
    helper.write_text("A = 2\n")
    assert version() != first


def test_the_version_of_code_does_not_change_by_itself(tmp_path: Path) -> None:
    """All that was ever recorded would count as made by other code."""
    (tmp_path / "fixed.py").write_text("import torch\n\nA: int = 1\n\n\ndef f(x, y=2):\n    return x + y * A\n")
    assert plugin_code.code(tmp_path / "fixed.py") == "872886941dad8b79"
