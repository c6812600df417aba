"""Jobs on Ray, which the command starts on this machine. Records are those of `run`, to the last bit."""

from __future__ import annotations

import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.store.store import Store, checkpoint_of
from tests.test_local import predictions, science

POINTS = Path(__file__).with_name("points.py")
GRID = """\
seeds: 0
datasets:
  - dataset: points
    methods:
      - {method: mine, training: {steps: 1000}}
      - {method: jtt, training: {steps: 40}, base: {training: {steps: 20}}}
"""
MINE = '''"""Half of the loss, slowly while there is a file.

Source: none. Needs: nothing. Differs: nothing.
"""
import time
from dataclasses import dataclass
from pathlib import Path
from spurbench import Method

@dataclass(frozen=True)
class Mine(Method):
    def loss(self, logits, batch, state, step):
        time.sleep(0.2 * Path("slow").exists())
        return batch.losses(logits).mean() / 2
'''


@pytest.fixture(autouse=True)
def announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pools of pyproject.toml, though it may have changed since it was installed."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    lines = [f"{name} = {value}" for name, value in project["entry-points"]["spurbench.pools"].items()]
    info = tmp_path / "site" / "announced-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: announced\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[spurbench.pools]", *lines]))
    monkeypatch.syspath_prepend(str(info.parent))
    monkeypatch.setenv("PYTHONPATH", f"{info.parent}:{os.environ.get('PYTHONPATH', '')}")


def test_a_grid_on_ray_has_the_records_of_run(
    spurbench: Any, command: Any, until: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain, and a method of the user's. Its process gets SIGKILL: another goes on. Ctrl-C: that one saves.

    The rest is done without Ray.
    """
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written into the home folder
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "g.yaml").write_text(GRID)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "plain").mkdir()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "slow").touch()
    line = ("run", "../g.yaml", "--plugin", "../mine.py", "--plugin", POINTS, "--store", "s")
    running = spurbench.start(*line, "--launcher", "ray", "--jobs", 2, "--checkpoint-seconds", 0, cwd=tmp_path / "ray")
    command(*line, cwd=tmp_path / "plain")
    plain, store = Store.open(tmp_path / "plain" / "s"), Store.open(tmp_path / "ray" / "s", create=True)
    (slow,) = (record.id for record in plain.records()[0] if record.method == "mine")
    saved = checkpoint_of(store, slow)

    def process() -> int | None:
        """The one that works at the slow run, if it has saved any state of it."""
        return store.claims.living().get(slow, {}).get("pid") if saved.exists() else None

    until(lambda: len(store.records()[0]) == 2 and process(), 240)
    first = process()
    assert first
    os.kill(first, signal.SIGKILL)
    until(lambda: process() not in (None, first), 240)
    before = saved.stat().st_mtime_ns
    until(lambda: saved.stat().st_mtime_ns != before)
    os.killpg(running.pid, signal.SIGINT)
    said = running.communicate(timeout=240)[1]
    assert running.returncode == 130 and "stopped with 1 run left and their state saved" in said
    assert "Ray, 1 node: 2 processes on cpu, 1 thread each" in said
    assert not store.claims.living() and len(store.records()[0]) == 2
    (tmp_path / "ray" / "slow").unlink()
    command(*line, cwd=tmp_path / "ray")
    assert science(store.root) == science(plain.root) and len(science(plain.root)) == 3
    assert predictions(store.root) == predictions(plain.root)
    assert {record.id: record.cost.resumed for record in store.records()[0]}[slow] == 2


def test_without_a_cluster_one_line_says_so(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("ray"), "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    line = ("run", "--dataset", "two_moon", "--method", "erm", "--store", tmp_path / "s", "--launcher", "ray")
    said = command(*line, code=2).stderr
    assert said == "spurbench: no Ray at 127.0.0.1:1: ConnectionRefusedError: [Errno 111] Connection refused\n"
    assert not (tmp_path / "s").exists()


def test_without_ray_one_line_says_so(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = command("run", "quick", "--launcher", "ray", code=2).stderr
    assert "--launcher ray needs the package ray" in said and "pip install 'spurbench[ray]'" in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("run", "--launcher", "rai"), "no launcher 'rai'; did you mean ray? there are: local, ray"),
        (("run", "--launcher", "slurm"), "`spurbench submit --launcher slurm` sends them"),
        (("submit", "--launcher", "ray"), "`spurbench run --launcher ray`"),
    ],
)
def test_a_launcher_for_another_command(line: Any, words: str, command: Any) -> None:
    assert words in command(line[0], "quick", *line[1:], code=2).stderr
