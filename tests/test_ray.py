"""Jobs on Ray: a cluster of this machine, with two cores. Records are those of `run`, to the last bit."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.store.store import Store
from tests.test_local import predictions, science

GRID = """\
seeds: 0-1
datasets:
  - dataset: two_moon
    options: {examples: 100}
    training: {steps: 40}
    methods: [erm, mine, {method: jtt, base: {training: {steps: 20}}}]
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
        time.sleep(0.05 * Path("SLOW").exists())
        return batch.losses(logits).mean() / 2
'''


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray to which this process is connected, and to which commands in others connect."""
    import ray

    with pytest.MonkeyPatch.context() as here, chdir("/"):
        here.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written into the home folder
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
        here.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        yield
        ray.shutdown()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A method of the user's."""
    (tmp_path / "mine.py").write_text(MINE.replace("SLOW", str(tmp_path / "slow")))
    return tmp_path / "mine.py"


def test_a_chain_and_a_plug_in_have_the_records_of_run(cluster: None, command: Any, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID)
    line = ("run", tmp_path / "g.yaml", "--plugin", mine, "--store")
    command(*line, tmp_path / "run")
    said = command(*line, tmp_path / "ray", "--launcher", "ray", "--jobs", 2).stderr
    assert "Ray, 1 node: 2 processes on cpu, 1 thread each" in said
    assert science(tmp_path / "ray") == science(tmp_path / "run") and len(science(tmp_path / "run")) == 8
    assert predictions(tmp_path / "ray") == predictions(tmp_path / "run")


def test_killed_stopped_and_gone_on_with_elsewhere(
    cluster: None, spurbench: Any, command: Any, until: Any, mine: Path, tmp_path: Path
) -> None:
    """A worker gets SIGKILL: another goes on. Ctrl-C: the state is saved. Without Ray the rest is done."""
    slow, store = tmp_path / "slow", tmp_path / "broken"
    line = ("run", "--plugin", mine, "--dataset", "two_moon", "--method", "mine", "--seeds", 0, "--set",
            "two_moon.examples=100", "--set", "training.steps=300", "--checkpoint-seconds", 0, "--store")  # fmt: skip
    claims = Store.open(store, create=True).claims
    slow.touch()
    running = spurbench.start(*line, store, "--launcher", "ray")
    until(lambda: list(store.glob("checkpoints/*.pt")))
    ((_, first),) = claims.living().items()
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: [held for held in claims.living().values() if held["pid"] != first["pid"]])
    (saved,) = store.glob("checkpoints/*.pt")
    before = saved.stat().st_mtime_ns
    until(lambda: saved.stat().st_mtime_ns != before)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and "stopped with 1 run left and their state saved" in said
    assert not claims.living() and not list(store.glob("records/*/*.json"))
    slow.unlink()
    command(*line, store)
    command(*line, tmp_path / "unbroken")
    assert science(store) == science(tmp_path / "unbroken")
    assert predictions(store) == predictions(tmp_path / "unbroken")
    assert Store.open(store).records()[0][0].cost.resumed == 2


@pytest.mark.parametrize(("address", "words"), [("127.0.0.1:1", "no Ray at 127.0.0.1:1: ConnectionRefused"),
                                                (None, "needs the package ray")])  # fmt: skip
def test_without_a_cluster_or_ray_one_line_says_so(
    address: str | None, words: str, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr("ray.is_initialized", lambda: False)
    else:
        monkeypatch.setitem(sys.modules, "ray", None)
    line = ("run", "--dataset", "two_moon", "--method", "erm", "--store", tmp_path / "s", "--launcher", "ray")
    said = command(*line, code=2).stderr
    assert len(said.splitlines()) == 1 and words in said and not (tmp_path / "s").exists()


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
