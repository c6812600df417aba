"""Clusters: how arrays are planned and worded, and, with `make test-slurm`, a real SLURM on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.errors import UserError
from spurbench.bench.grid import adhoc_grid, expand, load_grid, runs
from spurbench.bench.job import Job, Options, gather
from spurbench.bench.record import sealed
from spurbench.bench.recording import frame
from spurbench.bench.store import Store
from spurbench.slurm import profiles, snapshot, submit, task
from spurbench.slurm.arrays import Array, Resources, changed, minutes, plan
from spurbench.slurm.queue import ends_of, named

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


# ---- without SLURM --------------------------------------------------------------------------------------------------


def jobs_of(count: int) -> list[Job]:
    planned = [
        (run, cell["label"]) for run, cell in runs(expand(adhoc_grid("two_moon", ["erm"], f"0-{count - 1}"), {}))
    ]
    return gather(planned, {run.id for run, _ in planned}, lambda run, seeds: 1, Options())


SMALL, LARGE = Resources(mem="1G"), Resources(mem="9G")


@pytest.mark.parametrize(
    ("counts", "per_task", "largest", "parallel", "expected"),
    [
        ((5, 0), 1, 1000, None, [(5, 5)]),
        ((40, 0), 1, 10, None, [(10, 10)] * 4),
        ((40, 0), 1, 10, 8, [(10, 2)] * 4),
        ((41, 0), 1, 10, 5, [(10, 1)] * 4 + [(1, 1)]),
        ((7, 0), 3, 1000, 2, [(3, 2)]),
        ((5, 7), 1, 5, 6, [(5, 2), (5, 2), (2, 1)]),
        ((4, 3), 2, 1000, None, [(2, 2), (2, 2)]),
        ((0, 0), 1, 10, 4, []),
    ],
)
def test_arrays_hold_every_job_once_within_the_limits(
    counts: tuple[int, int], per_task: int, largest: int, parallel: int | None, expected: list[tuple[int, int]]
) -> None:
    """An array for each group of resources, in chunks; the cap holds over all of them."""
    jobs = jobs_of(sum(counts)) if sum(counts) else []
    groups = {SMALL: jobs[: counts[0]], LARGE: jobs[counts[0] :]}
    arrays = plan(groups, per_task, largest, parallel)
    assert [(len(array.tasks), array.parallel) for array in arrays] == expected
    assert [job for array in arrays for one in array.tasks for job in one] == jobs
    assert all(job in groups[array.resources] for array in arrays for one in array.tasks for job in one)


def test_more_arrays_than_tasks_at_once_is_a_mistake() -> None:
    with pytest.raises(UserError, match="40 tasks make 4 arrays of at most 10, but only 3 tasks may run"):
        plan({SMALL: jobs_of(40)}, 1, 10, 3)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("90m", 90), ("4h", 240), ("2d", 2880), ("4:00", 240), ("2-12:00:30", 3601)]
)
def test_time_limits(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(("text", "words"), [("soon", "expected minutes"), ("5", "at least 15"), ("4:0", "expected")])
def test_wrong_time_limits_are_named(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        minutes(text)


def test_more_memory_and_time_for_another_try() -> None:
    was = Resources(mem="8G", time="4h", partition="gpu")
    assert changed(was, "x2", "×1.5") == Resources(mem="16G", time="360", partition="gpu")
    assert changed(was, "100G", None) == Resources(mem="100G", time="4h", partition="gpu")
    with pytest.raises(UserError, match="expected minutes"):
        changed(was, None, "twice")


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
export PYTHONPATH=/shared/s/code/c0de"${PYTHONPATH:+:$PYTHONPATH}"

# command
export SUBMITIT_EXECUTOR=slurm
exec PYTHON -P -m spurbench.slurm.task /shared/s/slurm/x/array-0.json
"""


def test_the_text_for_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit.sys, "executable", "PYTHON")
    resources = Resources("gpu", "lab", cpus=4, mem="16G", setup=("module load cuda",))
    array = Array([[job] for job in jobs_of(3)], resources, 2)
    text = submit.script(array, Path("/shared/s/slurm/x"), 0, "paper", Path("/shared/s/code/c0de"))
    assert text.strip() == GOLDEN.strip()


def test_a_store_with_signs_that_sbatch_reads(command: Any, tmp_path: Path) -> None:
    send = ("submit", "quick", "--node-local", "--dry-run", "--store")
    said = command(*send, tmp_path / "a%j b's").stdout
    assert "/a%%j b'\"'\"'s/" in said and f"{tmp_path}/a%j b'\"'\"'s/slurm" in said  # the log; the manifest
    assert "backslash" in command(*send, tmp_path / "a\\x", code=2).stderr


def test_a_dry_run_leaves_nothing_behind(command: Any, tmp_path: Path) -> None:
    said = command("submit", "quick", "--store", tmp_path / "s", "--node-local", "--dry-run").stdout
    assert "#SBATCH --array=0-" in said and "would submit 47 runs" in said and not (tmp_path / "s").exists()


def test_what_a_task_asks_for(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line over the grid file over the user's profile; a mistake is named with its place."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file, send = tmp_path / "spurbench" / "clusters.yaml", ("submit", grid_file(tmp_path, 5), "--node-local")
    file.parent.mkdir()
    file.write_text("default: {partition: long, mem: 2G, cpus: 3}\nother: {qos: low}\n")
    said = command(*send, "--store", tmp_path / "s", "--dry-run", "--cpus", "5").stdout
    assert said.count("--partition=long") == said.count("--cpus-per-task=5") == 2  # an array for each memory
    assert said.count("--mem=2G") == said.count("--mem=3G") == 1 and "--cpus-per-task=3" not in said
    said = command(*send, "--store", tmp_path / "s", "--dry-run", "--cluster", "other").stdout
    assert "--qos=low" in said and "long" not in said
    said = command(*send, "--store", tmp_path / "s", "--dry-run", "--cluster", "othr", code=2).stderr
    assert "did you mean other?" in said
    file.write_text("default: {cpu: 3}\n")
    said = command(*send, "--store", tmp_path / "s", code=2).stderr
    assert "clusters.yaml, default: no resource 'cpu'; did you mean cpus?" in said and not (tmp_path / "s").exists()
    with pytest.raises(UserError, match="^the grid: cpus: .*valid integer.*not 'many'"):
        profiles.resources(("the grid", {"cpus": "many"}))


def test_a_folder_of_this_node_is_refused(command: Any) -> None:
    said = command("submit", "quick", "--store", "/tmp/never", "--dry-run", code=2).stderr
    assert "other nodes do not share" in said and len(said.strip().splitlines()) == 1


def test_without_slurm_one_line(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    said = command("submit", "quick", "--store", tmp_path / "s", "--node-local", code=2).stderr
    assert said.startswith("spurbench: no sbatch here") and not list(tmp_path.glob("s/slurm/*"))


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Programs of SLURM that print what they are told to."""
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_no_more_is_submitted_than_the_cluster_lets_one_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, sacctmgr="\n7\n5", squeue="1_0|RUNNING|None|\n1_1|PENDING|Resources|")
    assert submit.room() == 3
    jobs = jobs_of(9)
    assert submit.fitting({SMALL: jobs[:4], LARGE: jobs[4:]}, 3, 2) == {SMALL: jobs[:4], LARGE: jobs[4:6]}
    assert submit.fitting({SMALL: jobs}, 0, 2) == {}


def test_where_squeue_does_not_answer_nothing_is_claimed(command: Any, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s", create=True)
    folder = store.root / "slurm" / "20260101-000000-abc"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text('{"arrays": ["7"]}')
    (folder / "array-0.json").write_text(json.dumps({"tasks": [[job.to_dict()] for job in jobs_of(2)]}))
    planned = expand(adhoc_grid("two_moon", ["erm"], "0-1"), {})
    store.write_plan(planned)
    (row,) = json.loads(command("status", store.root, "--json").stdout)
    assert row["queued"] == 2 and "squeue does not answer here" in row["note"]
    assert "squeue does not answer here" in command("collect", store.root, code=2).stderr


@pytest.mark.parametrize("accounting", [True, False])
def test_how_tasks_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accounting: bool) -> None:
    lines = [("1_0", "OUT_OF_MEMORY", "0:125"), ("1_1", "FAILED", "0:9"), ("1_2", "FAILED", "1:0"),
             ("1_3", "NODE_FAIL", "0:0"), ("1_4", "TIMEOUT", "0:0")]  # fmt: skip
    sacct = "\n".join(f"{id}|{state}|{code}" for id, state, code in lines)
    shown = "\n".join(
        f"JobId=9{id[-1]} ArrayJobId=1 ArrayTaskId={id[-1]} JobState={state} Reason=x ExitCode={code}"
        for id, state, code in lines
    )
    pretend(tmp_path, monkeypatch, **({"sacct": sacct} if accounting else {"scontrol": shown}))
    ends = ends_of(["1"])
    kinds = ["out_of_memory", "killed", "killed", "node_failure", "time_limit"]
    assert [ends[f"1_{i}"][0] for i in range(5)] == kinds
    assert "signal 9" in ends["1_1"][1] and "exit code 1" in ends["1_2"][1]


def test_a_snapshot_is_what_runs(tmp_path: Path) -> None:
    """The same code makes one copy; Python finds the copy first, and records say which it was."""
    plugin = tmp_path / "mine.py"
    plugin.write_text("# first\n")
    code, copies = snapshot.take(tmp_path, [str(plugin)])
    assert snapshot.take(tmp_path, [str(plugin)]) == (code, copies) and Path(copies[0]).read_text() == "# first\n"
    plugin.write_text("# second\n")
    assert snapshot.take(tmp_path, [str(plugin)])[0] != code and len(list((tmp_path / "code").iterdir())) == 2
    ask = "from spurbench.bench import provenance, registry; import spurbench.slurm.task as t; "
    ask += "print(t.__file__, provenance.code()['snapshot'], len(registry.methods()))"
    done = subprocess.run([sys.executable, "-c", ask], env=os.environ | {"PYTHONPATH": str(code)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    file, name, count = done.stdout.split()
    assert Path(file).is_relative_to(code) and name == code.name and int(count) >= 9


def test_a_task_that_gets_nowhere_is_given_up(tmp_path: Path) -> None:
    store, jobs = Store.open(tmp_path / "s", create=True), jobs_of(2)
    manifest = tmp_path / "array-0.json"
    assert [task.starts(manifest, 0, jobs, store) for _ in range(3)] == [1, 2, 3]
    store.write_record(sealed({**frame(jobs[0].runs[0], jobs[0].options), "status": "done"}))
    assert [task.starts(manifest, 0, jobs, store) for _ in range(2)] == [1, 2]  # it had got somewhere
    task.give_up(jobs, store)
    ended = store.record(jobs[1].runs[0].id)
    assert ended is not None and ended["cause"]["kind"] == "node_failure" and "5 times" in ended["cause"]["message"]
    done = store.record(jobs[0].runs[0].id)
    assert done is not None and done["status"] == "done"


def submitted(store: Store) -> None:
    """A submission of three cells with labels that are patterns, as `submit` writes it."""
    text = "seeds: 0\ndatasets: [{dataset: two_moon, methods: [{method: sd, label: 'sd [ours]'}, "
    text += "{method: erm, label: 'erm*'}, {method: erm, label: 'erm?', training: {lr: 0.02}}]}]"
    (store.root / "g.yaml").write_text(text)
    planned = [(run, cell["label"]) for run, cell in runs(expand(load_grid(str(store.root / "g.yaml")), {}))]
    jobs = gather(planned, {run.id for run, _ in planned}, lambda run, seeds: 1, Options())
    folder = store.root / "slurm" / "20260101-000000-abc"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text('{"arrays": ["7"]}')
    content = {"tasks": [[job.to_dict()] for job in jobs]}
    (folder / "array-0.json").write_text(json.dumps(content))


def test_tasks_are_named_by_what_they_are_called(tmp_path: Path) -> None:
    """A whole name is no pattern, and a name that there is not is never nothing to do."""
    store = Store.open(tmp_path / "s", create=True)
    submitted(store)

    def labels(*patterns: str) -> list[str]:
        return [task.jobs[0].label for task in named(store, patterns)]

    assert labels("sd [ours]") == ["sd [ours]"] and labels("erm?") == ["erm?"] and labels("two_moon/erm*") == ["erm*"]
    assert labels("7_0", "*?") == labels() == ["sd [ours]", "erm*", "erm?"]
    with pytest.raises(UserError, match="no submitted task or cell 'emr'; did you mean erm?"):
        named(store, ["sd", "emr"])


@pytest.mark.parametrize("words", [("cancel",), ("logs",), ("retry", "--node-local")])
def test_a_mistyped_task_ends_with_the_nearest_name(
    words: tuple[str, ...], command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "s", create=True)
    submitted(store)
    (tmp_path / "bin").mkdir()
    pretend(tmp_path / "bin", monkeypatch, sbatch="", squeue="", scancel="")
    said = command(*words, store.root, "sd [our]", code=2).stderr
    assert "did you mean sd [ours]?" in said and said.count("\n") == 1


def test_a_manifest_that_is_gone_is_one_line(command: Any, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s", create=True)
    folder = store.root / "slurm" / "20260101-000000-abc"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text('{"arrays": ["7"]}')
    said = command("status", store.root).stderr  # what else is known is shown
    assert "array-0.json is gone" in said and len(said.strip().splitlines()) == 1
    done = subprocess.run([sys.executable, "-m", "spurbench.slurm.task", folder / "array-0.json"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "was the store moved or deleted" in done.stdout


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


def notes(spurbench: Any, store: Path) -> str:
    return " ".join(row["note"] for row in json.loads(spurbench("status", store, "--json").stdout))


@pytest.mark.slurm
def test_a_grid_gives_the_records_of_a_local_run(spurbench: Any, tmp_path: Path, cluster: None) -> None:
    """40 cells as 40 tasks of four arrays, bit for bit, though slurmctld is restarted and a node goes down on the way.

    What is in the queue is not submitted again.
    """
    grid, store = grid_file(tmp_path, 3000), tmp_path / "s"
    rates = ", ".join(f"{i / 1000:g}" for i in range(1, 21))
    text = grid.read_text().replace("0.01, 0.02, 0.03, 0.04, 0.05, 0.06", rates).replace("resources: {mem: 3G}, ", "")
    grid.write_text(text.replace("seeds: 0-1", "seeds: 3"))
    assert "submitted 40 runs as 40 tasks of 4 arrays" in spurbench("submit", grid, "--store", store, *SEND).stdout
    again = spurbench("submit", grid, "--store", store, *SEND).stdout
    assert "submitted 0 runs" in again and "40 runs are in the queue already" in again
    assert sum(tally(spurbench, store).values()) == 40
    wait_for(lambda: 5 < len(list(store.glob("records/*/*.json"))))
    slurm("scontrol", "update", "NodeName=n1", "State=down", "Reason=test")
    subprocess.run(["scontrol", "shutdown", "slurmctld"], check=True)
    time.sleep(3)
    slurm("slurmctld")
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


BAD = """\
import time
from dataclasses import dataclass
from spurbench.bench.method import Batch, Method


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
    """A task that hangs is ended at its limit, an exception is the run's own; `retry` tells them apart."""
    grid, store, plugins = tmp_path / "two.yaml", tmp_path / "s", []
    faults = {"hangs": "time.sleep(1000)", "raises": "raise RuntimeError('boom')"}
    for name, fault in faults.items():
        (tmp_path / f"{name}.py").write_text(BAD.replace("NAME", name.title()).replace("FAULT", fault))
        plugins += ["--plugin", tmp_path / f"{name}.py"]
    grid.write_text(
        "name: two\nseeds: 0\ndatasets:\n  - dataset: two_moon\n    options: {examples: 60}\n"
        "    training: {steps: 10000, width: 200}\n    methods: [hangs, erm, raises]\n"
    )
    said = spurbench("submit", grid, "--store", store, *plugins, *SEND, "--srun").stdout
    array = said.splitlines()[0].split()[-1]
    wait_for(lambda: running(store) >= {f"{array}_0", f"{array}_1"})
    slurm("scontrol", "update", f"JobId={array}_0", "TimeLimit=1")
    slurm("scancel", "--signal=USR2", f"{array}_1")  # with srun the step gets it
    wait_for(lambda: queue().get(f"{array}_1") == "PENDING")
    wait_for(lambda: release() == 0 and not queue(), 400)
    assert "time_limit" in notes(spurbench, store) and "exception: RuntimeError: boom" in notes(spurbench, store)
    assert tally(spurbench, store) == {"done": 1, "running": 0, "queued": 0, "failed": 2, "waiting": 0}
    assert "1 runs had ended without a record: 1 time_limit" in spurbench("collect", store).stdout

    for name, fault in faults.items():
        file = tmp_path / f"{name}.py"
        file.write_text(file.read_text().replace(fault, "pass"))
    said = spurbench("retry", store, "--node-local", "--time", "x2").stdout
    assert "submitted 1 runs" in said and "1 runs failed by themselves" in said
    assert "#SBATCH --time=480" in max(store.glob("slurm/*/array-0.sh")).read_text()
    assert "submitted 1 runs" in spurbench("retry", store, "raises", "--failed", "--node-local").stdout
    wait_for(lambda: not queue())
    assert tally(spurbench, store)["done"] == 3
    spurbench("run", grid, "--store", tmp_path / "local", "--jobs", "1", "--threads", "1", *plugins)
    assert science(store) == science(tmp_path / "local")


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
    wait_for(lambda: release() == 0 and running(store) >= {f"{array}_0", f"{array}_1"} and told(store) == 4)

    spurbench("cancel", store, f"{array}_5")
    os.kill(pid_of(array, 0), signal.SIGKILL)
    subprocess.run(["scancel", "--signal=USR2", "--batch", f"{array}_1"], check=False)  # it may complain, and does it
    wait_for(lambda: queue().get(f"{array}_1") == "PENDING" and f"{array}_0" not in queue())
    states = tally(spurbench, store)
    assert states["failed"] == 4 and sum(states.values()) == 24
    assert "cancelled: by `spurbench cancel`" in notes(spurbench, store)
    assert "killed: by signal 9" in notes(spurbench, store)

    gate.unlink()
    assert "submitted 4 runs as 2 tasks" in spurbench("retry", store, "--node-local").stdout
    wait_for(lambda: release() == 0 and not queue(), 500)
    assert tally(spurbench, store)["done"] == 12
    records = Store.open(store).records()[0]
    assert sum(record["cost"]["resumed"] > 0 for record in records) >= 8
    assert all(record["provenance"]["snapshot"] for record in records)
    cells = ("--only", "paced training.lr=0.0[123]")  # killed, warned and only preempted
    spurbench("run", grid, "--store", tmp_path / "local", "--jobs", "1", "--threads", "1", "--plugin", plugin, *cells)
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
        if mine and b"spurbench.slurm.task" in words and not words.startswith(b"srun"):
            return int(folder.name)
    raise AssertionError(f"no process of {array}_{index}")


@pytest.mark.slurm
def test_what_sbatch_refuses_leaves_nothing(spurbench: Any, tmp_path: Path, cluster: None) -> None:
    arguments = ("submit", grid_file(tmp_path, 5), "--store", tmp_path / "s", *SEND, "--partition", "nope")
    said = spurbench(*arguments, code=2).stderr
    assert "invalid partition specified: nope" in said and "nothing is submitted" in said
    assert not list(tmp_path.glob("s/slurm/*"))
