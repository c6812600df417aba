"""What a launcher is: one class of another package, with which the commands for clusters do all that they do."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.cluster import launcher

GRID = """\
seeds: 0
datasets:
  - dataset: two_moon
    training: {steps: 20}
    methods: [erm, {method: sd, resources: {setup: [sleep 1000]}}]
"""


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package with a launcher, and the grid of a task that runs and of one that does not get to that."""
    shutil.copy(Path(__file__).with_name("spool_launcher.py"), tmp_path)
    info = tmp_path / "spool-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spool\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spurbench.launchers]\nspool = spool_launcher:Spool\n")
    (tmp_path / "g.yaml").write_text(GRID)
    (tmp_path / "spool").mkdir()
    monkeypatch.setenv("SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(tmp_path))
    launcher.launchers.cache_clear()
    yield tmp_path
    launcher.launchers.cache_clear()
    sys.modules.pop("spool_launcher", None)
    for pid in (tmp_path / "spool").glob("*/*.pid"):
        if not pid.with_suffix(".end").exists():
            os.killpg(int(pid.read_text()), 9)


def test_a_launcher_of_another_package(spool: Path, spurbench: Any, command: Any, until: Any) -> None:
    """Its tasks run, end, are cancelled and sent again; what it cannot do is said, and `submit` has its options."""
    store = spool / "s"
    line = ("submit", spool / "g.yaml", "--store", store, "--gpus", "0", "--node-local", "--no-snapshot")
    said = command(*line, "--launcher", "spol", code=2).stderr
    assert "no launcher 'spol'; did you mean spool?" in said
    assert "submitted 2 runs as 2 tasks of 2 arrays: 1, 2" in spurbench(*line, "--launcher", "spool").stdout
    until(lambda: list(store.glob("records/*/*.json")) and list(spool.glob("spool/1/0.end")))

    def states() -> dict[str, int]:
        rows = json.loads(command("status", store, "--json").stdout)
        return {name: sum(row[name] for row in rows) for name in ("done", "running", "failed")}

    assert states() == {"done": 1, "running": 1, "failed": 0}
    assert "submitted 0 runs" in command(*line).stdout  # the one that answers here
    assert "two_moon × erm, seed 0: ended" in command("logs", store, "erm").stdout
    assert "cancelled 1 task" in command("cancel", store).stdout and states()["failed"] == 1
    assert "1 run had ended without a record: 1 cancelled" in command("collect", store).stdout
    assert "submitted 1 run as 1 task of 1 array: 3" in command("retry", store, "--node-local").stdout
    assert "# 1 tasks of" in max(store.glob("spool/*/array-0.sh")).read_text()
