"""The committed results are what this code makes of the committed records, and the pages show them."""

from __future__ import annotations

import gzip
import importlib
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.formats.render import render
from spurbench.bench.leaderboard.build import build_from_store
from spurbench.bench.store.store import Store

ROOT = Path(__file__).parent.parent
README = runpy.run_path(str(ROOT / "tests" / "readme.py"))
FIELDS = (
    "dataset",
    "label",
    "split",
    "metric",
    "n",
    "n_planned",
    "mean",
    "std",
    "ci95_low",
    "published_mean",
    "p_holm",
)


def essence(text: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in FIELDS} for row in json.loads(text)]


@pytest.mark.parametrize(("grid", "least"), [("paper", 20), ("adult", 14)])
def test_the_leaderboard_comes_from_the_records(grid: str, least: int) -> None:
    made = essence(render(build_from_store(Store.open(README["records"](grid)), grid=grid), "json"))
    kept = essence((ROOT / "results" / grid / "leaderboard.json").read_text())
    assert len(made) == len(kept) > least
    for one, other in zip(made, kept, strict=True):
        assert one == pytest.approx(other, nan_ok=True), "run `make results`"


@pytest.mark.parametrize("grid", ["paper", "adult"])
def test_no_committed_record_is_damaged_or_from_other_code(grid: str) -> None:
    records, unusable = Store.open(README["records"](grid)).records()
    assert records and not unusable
    for record in records:
        assert record.provenance.commit and record.provenance.diff is None


def texts_in(value: Any) -> Iterator[str]:
    """Every text in plain values, keys too."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for part in value:
            yield from texts_in(part)
    elif isinstance(value, str):
        yield value


ABSOLUTE = re.compile(r"""(?:^|[\s"'=(])(?:/\w|~/|[A-Z]:\\)""")


@pytest.mark.parametrize("file", sorted((ROOT / "results").rglob("*.jsonl.gz")), ids=lambda file: file.parent.name)
def test_no_committed_record_holds_a_path_of_a_machine(file: Path) -> None:
    with gzip.open(file) as lines:
        texts = {text for line in lines for text in texts_in(json.loads(line))}
    assert len(texts) > 100 and [text for text in texts if ABSOLUTE.search(text)] == []


OWN = '''"""Points of a table.

Source: these tests.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spurbench.bench.plugins.dataset import Data, Dataset, Split


@dataclass(frozen=True)
class Own(Dataset):
    def load(self, seed, build):
        file = Path(__file__).with_name("points.csv")
        if seed:
            raise ValueError(f"{file} has one seed")
        table = np.loadtxt(file, delimiter=",")
        split = Split(torch.tensor(table[:, :2], dtype=torch.float32), torch.tensor(table[:, 2]).long())
        torch.manual_seed(seed)
        return Data(split, {"test": split}), build(split.x[:1])
'''


def test_no_fresh_record_holds_a_path_of_this_machine(tmp_path: Path, command: Any) -> None:
    """Neither of a plug-in nor of data, wherever they are, nor in the traceback of what fails."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "points.csv").write_text("".join(f"{i % 7},{i % 3},{i % 2}\n" for i in range(20)))
    line = ["--dataset", "own", "--method", "erm", "--seeds", "0-1", "--set", "training.steps=2"]
    command("run", "--plugin", tmp_path / "own.py", *line, "--store", tmp_path / "s", code=2)
    done, failed = sorted(Store.open(tmp_path / "s").records()[0], key=lambda record: record.seed)
    assert done.provenance.paths == {"method": "methods/erm.py", "dataset": "own.py"}
    assert list(done.provenance.files) == ["points.csv"]
    whole = Store.open(tmp_path / "s").record(failed.id)
    assert whole is not None and whole.cause is not None
    assert whole.cause.message == "ValueError: points.csv has one seed"
    assert 'File "bench/jobs/worker.py"' in str(whole.cause.detail)
    texts = [
        text
        for path in (tmp_path / "s" / "records").rglob("*.json")
        for text in texts_in(json.loads(path.read_bytes()))
    ]
    assert len(texts) > 100 and [text for text in texts if ABSOLUTE.search(text)] == []


def test_the_pages_show_the_results() -> None:
    for name, block in README["blocks"]().items():
        assert block in (ROOT / name).read_text(), "run `make results`"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that measures speed, as a script finds those beside it."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "perf")
    return importlib.import_module("measure")


def test_the_table_of_speed_tells_the_figures(speed: Any) -> None:
    told = (ROOT / "results" / "perf" / "perf.md").read_text().splitlines()
    rows = [line for line in speed.text(speed.written()).splitlines() if line.startswith("|")]
    assert [line for line in told if line.startswith("|")] == rows and len(rows) > 10


def test_a_section_of_speed_is_renewed_by_itself(
    speed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others keep their figures, and the machine these were measured on."""
    figures: dict[str, Any] = {"attacks": {}, "harness": {"list, s": 0.7}}
    sections = {
        name: speed.Section(name, lambda name=name: figures[name], speed.SECTIONS[name].rows) for name in figures
    }
    monkeypatch.setattr(speed, "OUT", tmp_path)
    monkeypatch.setattr(speed, "SECTIONS", sections)
    (tmp_path / "perf.json").write_text('{"machine": "another", "harness": {"list, s": 0.5}}')
    speed.main(["--only", "attacks"])
    assert "attacks cannot be measured here" in capsys.readouterr().err
    figures["attacks"] = {"foolbox": 2.5, "foolbox, 2 threads": 2.0, "apart": 1e-7, "threads": 2}
    figures["attacks"] |= {"released, 1 thread": 0.2, "released": 0.1, "default": 0.05}
    speed.main(["--only", "attacks"])
    here, _, there = (tmp_path / "perf.md").read_text().partition("On another:")
    assert "0.1 s a picture, 20.0 ×" in here and "torch" in here and "| list, s | 0.50 s |" in there
    speed.main([])
    assert "another" not in (tmp_path / "perf.json").read_text() and "0.70 s" in (tmp_path / "perf.md").read_text()
    with pytest.raises(SystemExit, match="2"):
        speed.main(["--only", "atacks"])
    assert "did you mean attacks?" in capsys.readouterr().err
