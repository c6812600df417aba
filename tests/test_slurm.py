"""Clusters: how arrays are planned and worded, and, with `make test-slurm`, a real SLURM on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.errors import UserError
from spurbench.bench.grid import adhoc_grid, expand, runs
from spurbench.bench.job import Job, Options, gather
from spurbench.bench.store import Store
from spurbench.slurm import submit
from spurbench.slurm.arrays import Array, Resources, minutes, plan

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
      - {method: sd, training: {lr: [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]}}
"""


# ---- without SLURM --------------------------------------------------------------------------------------------------


def jobs_of(count: int) -> list[Job]:
    planned = [
        (run, cell["label"]) for run, cell in runs(expand(adhoc_grid("two_moon", ["erm"], f"0-{count - 1}"), {}))
    ]
    return gather(planned, {run.id for run, _ in planned}, lambda run, seeds: 1, Options())


@pytest.mark.parametrize(
    ("count", "per_task", "largest", "parallel", "expected"),
    [
        (5, 1, 1000, None, [(5, 5)]),
        (40, 1, 10, None, [(10, 10)] * 4),
        (40, 1, 10, 8, [(10, 2)] * 4),
        (41, 1, 10, 5, [(10, 1)] * 4 + [(1, 1)]),
        (7, 3, 1000, 2, [(3, 2)]),
        (0, 1, 10, 4, []),
    ],
)
def test_arrays_hold_every_job_once_within_the_limits(
    count: int, per_task: int, largest: int, parallel: int | None, expected: list[tuple[int, int]]
) -> None:
    jobs = jobs_of(count) if count else []
    arrays = plan(jobs, per_task, largest, parallel)
    assert [(len(array.tasks), array.parallel) for array in arrays] == expected
    assert [job for array in arrays for task in array.tasks for job in task] == jobs
    assert parallel is None or sum(array.parallel for array in arrays) <= parallel


def test_more_arrays_than_tasks_at_once_is_a_mistake() -> None:
    with pytest.raises(UserError, match="40 tasks make 4 arrays of at most 10, but only 3 tasks may run"):
        plan(jobs_of(40), 1, 10, 3)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("90m", 90), ("4h", 240), ("2d", 2880), ("4:00", 240), ("2-12:00:30", 3601)]
)
def test_time_limits(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(("text", "words"), [("soon", "expected minutes"), ("5", "at least 15"), ("4:0", "expected")])
def test_wrong_time_limits_are_named(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        minutes(text)


GOLDEN = """\
#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-2%2
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=1
#SBATCH --job-name=paper
#SBATCH --mem=16G
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/s/slurm/x/logs/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --time=240

# setup
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
exec PYTHON -m spurbench.slurm.task /shared/s/slurm/x/array-0.json
"""


def test_the_text_for_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit.sys, "executable", "PYTHON")
    resources = Resources("gpu", "lab", gpus=1, cpus=4, mem="16G", setup=("module load cuda",))
    array = Array([[job] for job in jobs_of(3)], 2)
    assert submit.script(array, Path("/shared/s/slurm/x"), 0, "paper", resources).strip() == GOLDEN.strip()


def test_a_dry_run_leaves_nothing_behind(spurbench: Any, tmp_path: Path) -> None:
    said = spurbench("submit", "quick", "--store", tmp_path / "s", "--node-local", "--dry-run").stdout
    assert "#SBATCH --array=0-" in said and "would submit 47 runs" in said and not (tmp_path / "s").exists()


def test_a_folder_of_this_node_is_refused(spurbench: Any) -> None:
    said = spurbench("submit", "quick", "--store", "/tmp/never", "--dry-run", code=2).stderr
    assert "other nodes do not share" in said and len(said.strip().splitlines()) == 1


def test_without_slurm_one_line(spurbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    said = spurbench("submit", "quick", "--store", tmp_path / "s", "--node-local", code=2).stderr
    assert said.startswith("spurbench: no sbatch here") and not list(tmp_path.glob("s/slurm/*"))


# ---- on a real cluster ----------------------------------------------------------------------------------------------


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
    return {r["id"]: {k: v for k, v in r.items() if k not in loose} for r in Store.open(store).records()[0]}


def local(spurbench: Any, folder: Path, grid: Path) -> dict[str, Any]:
    spurbench("run", grid, "--store", folder / "local", "--jobs", "1", "--threads", "1")
    return science(folder / "local")


@pytest.mark.slurm
def test_a_grid_gives_the_records_of_a_local_run(spurbench: Any, tmp_path: Path, cluster: None) -> None:
    """24 runs as twelve tasks of two arrays, bit for bit; what is in the queue is not submitted again."""
    grid, store = grid_file(tmp_path, 60), tmp_path / "s"
    assert "submitted 24 runs as 12 tasks of 2 arrays" in spurbench("submit", grid, "--store", store, *SEND).stdout
    again = spurbench("submit", grid, "--store", store, *SEND).stdout
    assert "submitted 0 runs" in again and "24 runs are in the queue already" in again
    assert sum(tally(spurbench, store).values()) == 24
    wait_for(lambda: not queue())
    assert tally(spurbench, store) == {"done": 24, "running": 0, "queued": 0, "failed": 0, "waiting": 0}
    assert science(store) == local(spurbench, tmp_path, grid)
    assert "submitted 0 runs" in spurbench("submit", grid, "--store", store, *SEND).stdout


@pytest.mark.slurm
def test_killed_preempted_warned_and_cancelled(spurbench: Any, tmp_path: Path, cluster: None) -> None:
    """Each gives the right state, and in the end the leaderboard of an unbroken run."""
    grid, store = grid_file(tmp_path, 20_000), tmp_path / "s"
    said = spurbench("submit", grid, "--store", store, *SEND, "--only", "two_moon/erm").stdout
    array = said.splitlines()[0].split()[-1]
    wait_for(lambda: len(list(store.glob("claims/*/*.json"))) == 8)

    slurm("sbatch", "--partition=high", "--nodes=2", "--gpus-per-node=2", "--cpus-per-task=2", "--mem=100M",
          "--output=/dev/null", "--wrap", "sleep 1")  # fmt: skip
    wait_for(lambda: release() == 0 and running(store) >= {f"{array}_0", f"{array}_1"} and told(store) == 4)

    spurbench("cancel", store, f"{array}_5")
    os.kill(pid_of(array, 0), 9)
    subprocess.run(["scancel", "--signal=USR2", "--batch", f"{array}_1"], check=False)  # it may complain, and does it
    wait_for(lambda: queue().get(f"{array}_1") == "PENDING" and f"{array}_0" not in queue())
    notes = " ".join(row["note"] for row in json.loads(spurbench("status", store, "--json").stdout))
    assert "cancelled: task" in notes and "killed by signal 9" in notes

    spurbench("submit", grid, "--store", store, *SEND, "--only", "two_moon/erm")
    wait_for(lambda: release() == 0 and not queue(), 500)
    assert tally(spurbench, store)["done"] == 12
    records = Store.open(store).records()[0]
    assert sum(record["cost"]["resumed"] > 0 for record in records) >= 8
    cells = "erm training.lr=0.0[123]"  # killed, warned and only preempted
    spurbench("run", grid, "--store", tmp_path / "local", "--jobs", "1", "--threads", "1", "--only", cells)
    unbroken = science(tmp_path / "local")
    assert len(unbroken) == 6 and all(science(store)[id] == record for id, record in unbroken.items())


def running(store: Path) -> set[str]:
    """The tasks in the queue's state RUNNING whose runs are claimed."""
    held = [json.loads(path.read_bytes()).get("task") for path in store.glob("claims/*/*.json")]
    lines = slurm("squeue", "--noheader", "--array", "--format=%A %i").splitlines()
    names = dict(line.split() for line in lines)
    return {names[id] for id in held if id in names}


def told(store: Path) -> int:
    """How many tasks were told to end and have saved their state."""
    return sum("told to end" in log.read_text() for log in store.glob("slurm/*/logs/*.out"))


def release() -> int:
    """Let requeued tasks begin at once (SLURM makes them wait two minutes); how many of `high` are left."""
    for id, state in queue().items():
        if state == "PENDING":
            subprocess.run(["scontrol", "update", f"JobId={id}", "StartTime=now"], capture_output=True, check=False)
    return len(slurm("squeue", "--noheader", "--partition=high").splitlines())


def pid_of(array: str, index: int) -> int:
    """The process of a task on this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        mine = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={index}".encode()} <= set(variables)
        if mine and b"spurbench.slurm.task" in words:
            return int(folder.name)
    raise AssertionError(f"no process of {array}_{index}")


@pytest.mark.slurm
def test_what_sbatch_refuses_leaves_nothing(spurbench: Any, tmp_path: Path, cluster: None) -> None:
    arguments = ("submit", grid_file(tmp_path, 5), "--store", tmp_path / "s", *SEND, "--partition", "nope")
    said = spurbench(*arguments, code=2).stderr
    assert "invalid partition specified: nope" in said and "nothing is submitted" in said
    assert not list(tmp_path.glob("s/slurm/*"))
