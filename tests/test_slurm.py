"""A real SLURM on this machine, with `make test-slurm`: tasks are killed, preempted, warned, cancelled, refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import chaos_slurm

from spurbench.bench.store.store import Store

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "slurm" / "local_cluster.sh"
GRID = """\
name: cells
seeds: 0-1
datasets:
  - dataset: two_moon
    options: {examples: 60}
    training: {steps: STEPS, width: 200}
    methods:
      - {method: erm, training: {lr: [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]}}
      - {method: sd, resources: {mem: 3G}, training: {lr: [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]}}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two nodes, two stand-in GPUs each, arrays of at most ten tasks."""
    if not os.environ.get("SPURBENCH_SLURM"):
        pytest.skip("a real SLURM is tested by `make test-slurm`")
    folder = tmp_path_factory.mktemp("slurm")
    environment = os.environ | {"MAX_ARRAY_SIZE": "11"}
    subprocess.run([CLUSTER, "start", folder], check=True, env=environment)
    os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
    yield
    subprocess.run([CLUSTER, "stop", folder], check=True)
    del os.environ["SLURM_CONF"]


SEND = ("--node-local", "--gpus", "1", "--cpus", "1", "--mem", "2G", "--device", "cpu")


def grid_file(folder: Path, steps: int) -> Path:
    file = folder / "cells.yaml"
    file.write_text(GRID.replace("STEPS", str(steps)))
    return file


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def queue() -> dict[str, str]:
    lines = slurm("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
    return dict(line.split(maxsplit=1) for line in lines)


def wait_for(condition: Any, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited too long; the queue: {queue()}"
        time.sleep(0.3)


def tally(spurbench: Any, store: Path) -> dict[str, int]:
    rows = json.loads(spurbench("status", store, "--json").stdout)
    return {name: sum(row[name] for row in rows) for name in ("done", "running", "queued", "failed", "waiting")}


def science(store: Path) -> dict[str, Any]:
    loose = ("digest", "cost", "provenance")
    return {r.id: {k: v for k, v in r.to_dict().items() if k not in loose} for r in Store.open(store).whole_records()}


def local(spurbench: Any, folder: Path, grid: Path) -> dict[str, Any]:
    spurbench("run", grid, "--store", folder / "local", "--jobs", "1", "--threads", "1")
    return science(folder / "local")


def notes(spurbench: Any, store: Path) -> str:
    return " ".join(row["note"] for row in json.loads(spurbench("status", store, "--json").stdout))


@pytest.mark.slurm
def test_a_grid_gives_the_records_of_a_local_run(spurbench: Any, tmp_path: Path, cluster: None) -> None:
    """40 cells as 40 tasks of four arrays, bit for bit, though slurmctld is restarted and a node goes down on the way.

    What is in the queue is not submitted again.
    """
    grid, store = grid_file(tmp_path, 1000), tmp_path / "s"
    rates = ", ".join(f"{i / 1000:g}" for i in range(1, 21))
    text = grid.read_text().replace("0.01, 0.02, 0.03, 0.04, 0.05, 0.06", rates).replace("resources: {mem: 3G}, ", "")
    grid.write_text(text.replace("seeds: 0-1", "seeds: 3"))
    assert "submitted 40 runs as 40 tasks of 4 arrays" in spurbench("submit", grid, "--store", store, *SEND).stdout
    again = spurbench("submit", grid, "--store", store, *SEND).stdout
    assert "submitted 0 runs" in again and "40 runs already in the queue" in again
    assert sum(tally(spurbench, store).values()) == 40
    wait_for(lambda: 5 < len(list(store.glob("records/*/*.json"))))
    slurm("scontrol", "update", "NodeName=n1", "State=down", "Reason=test")
    chaos_slurm.controller(up=False)
    chaos_slurm.controller(up=True)
    wait_for(lambda: "n2" in sinfo(), 60)
    assert tally(spurbench, store)["failed"] == 0
    resume = ["scontrol", "update", "NodeName=n1", "State=resume"]
    subprocess.run(resume, capture_output=True, check=False)  # the new slurmctld may have done it already
    wait_for(lambda: release() == 0 and not queue(), 500)
    assert tally(spurbench, store) == {"done": 40, "running": 0, "queued": 0, "failed": 0, "waiting": 0}
    assert science(store) == local(spurbench, tmp_path, grid)
    assert "submitted 0 runs" in spurbench("submit", grid, "--store", store, *SEND).stdout


def sinfo() -> str:
    done = subprocess.run(["sinfo", "--noheader", "--Node"], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


PACED = """\
import time
from dataclasses import dataclass
from pathlib import Path
from spurbench.methods.erm import ERM


@dataclass(frozen=True)
class Paced(ERM):
    \"\"\"ERM that a machine of any speed is not done with while a file exists. Source: none. Needs: nothing.\"\"\"

    def loss(self, logits, batch, state, step):
        if Path("GATE").exists():
            time.sleep(0.1)
        return super().loss(logits, batch, state, step)
"""


BAD = """\
import time
from dataclasses import dataclass
from spurbench.bench.plugins.method import Batch, Method


@dataclass(frozen=True)
class NAME(Method):
    \"\"\"Does what it should not. Source: none. Needs: nothing. Differs: in all.\"\"\"

    def loss(self, logits, batch, state, step):
        if step == 20:
            FAULT
        return (logits**2).mean()
"""


@pytest.mark.slurm
def test_past_the_time_limit_and_an_exception(spurbench: Any, tmp_path: Path, cluster: None) -> None:
    """A task that hangs is ended at its limit, an exception is the run's own; `retry` tells them apart.

    One that is told to end, and is not ended, goes on from what it has saved.
    """
    grid, store, gate = tmp_path / "two.yaml", tmp_path / "s", tmp_path / "gate"
    gate.touch()
    (tmp_path / "paced.py").write_text(PACED.replace("GATE", str(gate)))
    plugins: list[Any] = ["--plugin", tmp_path / "paced.py"]
    faults = {"hangs": "time.sleep(1000)", "raises": "raise RuntimeError('boom')"}
    for name, fault in faults.items():
        (tmp_path / f"{name}.py").write_text(BAD.replace("NAME", name.title()).replace("FAULT", fault))
        plugins += ["--plugin", tmp_path / f"{name}.py"]
    grid.write_text(
        "name: two\nseeds: 0\ndatasets:\n  - dataset: two_moon\n    options: {examples: 60}\n"
        "    training: {steps: 10000, width: 200}\n    methods: [hangs, paced, raises]\n"
    )
    said = spurbench("submit", grid, "--store", store, *plugins, *SEND, "--srun").stdout
    array = said.splitlines()[0].split()[-1]
    wait_for(lambda: running(store) >= {f"{array}_0", f"{array}_1"})
    slurm("scontrol", "update", f"JobId={array}_0", "TimeLimit=1")
    slurm("scancel", "--signal=TERM", f"{array}_1")  # with srun the step gets it
    (log,) = store.glob(f"slurm/*/logs/{array}_1_*.out")
    wait_for(lambda: "asked to stop" in log.read_text() and "continuing" in log.read_text())
    slurm("scancel", "--signal=USR2", f"{array}_1")
    wait_for(lambda: queue().get(f"{array}_1") == "PENDING")
    gate.unlink()
    wait_for(lambda: release() == 0 and not queue(), 400)
    assert "time_limit" in notes(spurbench, store) and "exception: RuntimeError: boom" in notes(spurbench, store)
    assert tally(spurbench, store) == {"done": 1, "running": 0, "queued": 0, "failed": 2, "waiting": 0}
    assert "1 run had ended without a record: 1 time_limit" in spurbench("collect", store).stdout

    for name, fault in faults.items():
        file = tmp_path / f"{name}.py"
        file.write_text(file.read_text().replace(fault, "pass"))
    said = spurbench("retry", store, "--node-local", "--time", "x2").stdout
    assert "submitted 1 run as" in said and "1 run with failures of their own" in said
    assert "#SBATCH --time=480" in max(store.glob("slurm/*/array-0.sh")).read_text()
    assert "submitted 1 run" in spurbench("retry", store, "raises", "--failed", "--node-local").stdout
    wait_for(lambda: not queue())
    assert tally(spurbench, store)["done"] == 3
    spurbench("run", grid, "--store", tmp_path / "local", "--jobs", "1", "--threads", "1", *plugins)
    assert science(store) == science(tmp_path / "local")


@pytest.mark.slurm
def test_killed_preempted_warned_and_cancelled(spurbench: Any, tmp_path: Path, cluster: None) -> None:
    """Each gives the right state, and in the end the leaderboard of an unbroken run."""
    grid, store, plugin, gate = grid_file(tmp_path, 5000), tmp_path / "s", tmp_path / "paced.py", tmp_path / "gate"
    grid.write_text(grid.read_text().replace("method: erm", "method: paced"))
    plugin.write_text(PACED.replace("GATE", str(gate)))
    gate.touch()
    said = spurbench("submit", grid, "--store", store, *SEND, "--plugin", plugin, "--only", "two_moon/paced").stdout
    array = said.splitlines()[0].split()[-1]
    wait_for(lambda: len(list(store.glob("claims/*/*.json"))) == 8)

    slurm("sbatch", "--partition=high", "--nodes=2", "--gpus-per-node=2", "--cpus-per-task=2", "--mem=100M",
          "--output=/dev/null", "--wrap", "sleep 1")  # fmt: skip
    begun = {f"{array}_{i}" for i in range(4)}  # two of these run again, whoever got the other two places meanwhile
    wait_for(lambda: release() == 0 and len(running(store) & begun) >= 2 and told(store) == 4)
    first, second, *_ = sorted(running(store) & begun)

    spurbench("cancel", store, f"{array}_5")
    os.kill(pid_of(first), signal.SIGKILL)
    subprocess.run(["scancel", "--signal=USR2", "--batch", second], check=False)  # it may complain, and does it
    wait_for(lambda: queue().get(second) == "PENDING" and not {first, f"{array}_5"} & queue().keys())
    states = tally(spurbench, store)
    assert states["failed"] == 4 and sum(states.values()) == 24, (states, notes(spurbench, store))
    assert "cancelled: by `spurbench cancel`" in notes(spurbench, store)
    assert "killed: by signal 9" in notes(spurbench, store)

    gate.unlink()
    assert "submitted 4 runs as 2 tasks" in spurbench("retry", store, "--node-local").stdout
    wait_for(lambda: release() == 0 and not queue(), 500)
    assert tally(spurbench, store)["done"] == 12
    records = Store.open(store).records()[0]
    assert sum(bool(record.cost.resumed) for record in records) >= 8
    assert all(record.provenance.snapshot for record in records)
    cells = ("--only", "paced training.lr=0.0[123]")  # killed, warned and only preempted
    spurbench("run", grid, "--store", tmp_path / "local", "--jobs", "1", "--threads", "1", "--plugin", plugin, *cells)
    unbroken = science(tmp_path / "local")
    assert len(unbroken) == 6 and all(science(store)[id] == record for id, record in unbroken.items())


CHAIN = """\
seeds: 0-1
datasets:
  - dataset: two_moon
    options: {examples: 60}
    training: {steps: 1000}
    methods:
      - {method: afr, base: {method: paced}, training: {steps: 300, lr: [0.1, 0.2]}}
"""


@pytest.mark.slurm
def test_a_chain_that_is_killed_ends_with_the_records_of_a_local_run(
    spurbench: Any, tmp_path: Path, cluster: None
) -> None:
    """The task of the base is killed; those that start from it begin, make it themselves, and are killed in that."""
    grid, store, plugin, gate = tmp_path / "chain.yaml", tmp_path / "s", tmp_path / "paced.py", tmp_path / "gate"
    grid.write_text(CHAIN)
    plugin.write_text(PACED.replace("GATE", str(gate)))
    gate.touch()
    said = spurbench("submit", grid, "--store", store, *SEND, "--plugin", plugin).stdout
    assert "submitted 6 runs as 3 tasks of 2 arrays" in said
    first, second = said.splitlines()[0].split(": ")[-1].split(", ")
    wait_for(lambda: f"{first}_0" in running(store))
    assert queue()[f"{second}_0"] == "PENDING"
    os.kill(pid_of(f"{first}_0"), signal.SIGKILL)
    wait_for(lambda: release() == 0 and running(store) & {f"{second}_0", f"{second}_1"})
    (at_it, *_) = running(store) & {f"{second}_0", f"{second}_1"}
    os.kill(pid_of(at_it), signal.SIGKILL)
    wait_for(lambda: at_it not in queue())
    gate.unlink()
    spurbench("retry", store, "--node-local")
    wait_for(lambda: release() == 0 and not queue(), 400)
    assert tally(spurbench, store) == {"done": 4, "running": 0, "queued": 0, "failed": 0, "waiting": 0}
    spurbench("run", grid, "--store", tmp_path / "local", "--jobs", "1", "--threads", "1", "--plugin", plugin)
    assert science(store) == science(tmp_path / "local") and len(science(store)) == 6


def running(store: Path) -> set[str]:
    """The tasks in the queue's state RUNNING whose runs are claimed."""
    held = [json.loads(path.read_bytes()).get("task") for path in store.glob("claims/*/*.json")]
    lines = slurm("squeue", "--noheader", "--array", "--format=%A %i").splitlines()
    names = dict(line.split() for line in lines)
    return {names[id] for id in held if id in names}


def told(store: Path) -> int:
    """How many tasks were told to end and have saved their state."""
    return sum("asked to stop" in log.read_text() for log in store.glob("slurm/*/logs/*.out"))


def release() -> int:
    """Let requeued tasks begin at once (SLURM makes them wait two minutes); how many of `high` are left."""
    for id, state in queue().items():
        if state == "PENDING":
            subprocess.run(["scontrol", "update", f"JobId={id}", "StartTime=now"], capture_output=True, check=False)
    return len(slurm("squeue", "--noheader", "--partition=high").splitlines())


def pid_of(task: str) -> int:
    """The process of a task on this machine."""
    array, index = task.split("_")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        wanted = {"ARRAY_JOB_ID": array, "ARRAY_TASK_ID": index, "CONF": os.environ["SLURM_CONF"]}
        mine = {f"SLURM_{name}={value}".encode() for name, value in wanted.items()} <= set(variables)
        if mine and b"spurbench.bench.cluster.task" in words and not words.startswith(b"srun"):
            return int(folder.name)
    raise AssertionError(f"no process of {task}")


@pytest.mark.slurm
def test_trouble_between_the_store_and_the_queue(tmp_path: Path, cluster: None) -> None:
    """The short form of tests/chaos_slurm.py; its stores have names that sbatch reads, its shell another encoding."""
    assert not chaos_slurm.everything(tmp_path, 1, random.Random(0), steps=5000)


@pytest.mark.slurm
def test_what_sbatch_refuses_leaves_nothing(spurbench: Any, tmp_path: Path, cluster: None) -> None:
    arguments = ("submit", grid_file(tmp_path, 5), "--store", tmp_path / "s", *SEND, "--partition", "nope")
    said = spurbench(*arguments, code=2).stderr
    assert "invalid partition specified: nope" in said and "nothing is submitted" in said
    assert not list(tmp_path.glob("s/slurm/2*"))
