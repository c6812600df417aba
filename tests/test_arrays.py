"""How jobs become arrays: what tasks ask for, in SLURM's words; how many there are; what they run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.cluster import sending, submit, task
from spurbench.bench.cluster.arrays import Array
from spurbench.bench.cluster.resources import combine, minutes, multiplied
from spurbench.bench.cluster.sending import ArrayOfJobs, make_script, pack_jobs
from spurbench.bench.core.errors import UserError
from spurbench.bench.grid.ad_hoc import adhoc_grid
from spurbench.bench.grid.expand import expand
from spurbench.bench.jobs.job import Job, gather
from spurbench.bench.jobs.recording import begin_record
from spurbench.bench.launch import runner, snapshot
from spurbench.bench.store.store import Store
from spurbench.bench.training.execution import Options
from spurbench.slurm.sbatch import Slurm
from spurbench.slurm.sbatch_options import SbatchOptions

GRID = "seeds: 0\ndatasets: [{dataset: two_moon, methods: [erm, {method: sd, resources: {mem: 3G}}]}]\n"


def jobs_of(count: int) -> list[Job]:
    planned = [(run, cell.label) for run, cell in expand(adhoc_grid("two_moon", ["erm"], f"0-{count - 1}"), {}).runs()]
    return gather(planned, {run.id for run, _ in planned}, lambda run, seeds: 1, Options())


SMALL, LARGE = SbatchOptions(mem="1G"), SbatchOptions(mem="9G")


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
    arrays = pack_jobs(groups, per_task, largest, parallel)
    assert [(len(array.tasks), array.parallel) for array in arrays] == expected
    assert [job for array in arrays for one in array.tasks for job in one] == jobs
    assert all(job in groups[array.resources] for array in arrays for one in array.tasks for job in one)


def test_more_arrays_than_tasks_at_once_is_a_mistake() -> None:
    with pytest.raises(UserError, match="40 tasks make 4 arrays .*, of at most 10.*, but only 3 may run"):
        pack_jobs({SMALL: jobs_of(40)}, 1, 10, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90m", 90), ("4h", 240), ("2d", 2880), ("30:00", 30), ("90:01", 91), ("4:00:00", 240), ("2-12", 3600),
     ("2-12:30", 3630), ("2-12:00:30", 3601)],
)  # fmt: skip
def test_time_limits(text: str, expected: int) -> None:
    """As sbatch reads them, beside 90m, 4h and 2d."""
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("soon", "expected minutes"),
        ("5", "at least 15"),
        ("4:0", "expected"),
        ("4:00", "hours are 4h or 4:00:00"),
        ("4294967297", "at most 3650 days"),
        ("9" * 5000, "expected minutes"),
        ("9999-0", "at most 3650 days"),
    ],
)
def test_wrong_time_limits_are_named(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        minutes(text)


def test_more_memory_and_time_for_another_try() -> None:
    was = SbatchOptions(mem="8G", time="4h", partition="gpu")
    assert was.changed("x2", "×1.5") == SbatchOptions(mem="16G", time="360", partition="gpu")
    assert was.changed("100G", None) == SbatchOptions(mem="100G", time="4h", partition="gpu")
    assert was.changed("none", None).mem is None
    of_cores = SbatchOptions(mem=None, mem_per_cpu="1G").changed("x2", None)
    assert (of_cores.mem, of_cores.mem_per_cpu) == (None, "2G")
    with pytest.raises(UserError, match="asked for no amount of memory"):
        SbatchOptions(mem=None).changed("x2", None)
    with pytest.raises(UserError, match="--mem lots: expected an amount"):
        was.changed("lots", None)
    with pytest.raises(UserError, match="expected minutes"):
        was.changed(None, "twice")
    with pytest.raises(UserError, match="--time 10512000: at most 3650 days"):
        SbatchOptions(time="3650d").changed(None, "x2")


@pytest.mark.parametrize(
    ("value", "by", "expected"),
    [("1G", "x1.5", "1536M"), ("3G", "x1.5", "4608M"), ("1T", "x1.5", "1536G"), ("1.5G", "x2", "3G"),
     ("8G", "2x", "16G"), ("8G", "x1.1", "9012M"), ("500", "x2", "1000"), ("8G", "12G", "12G"), ("8G", "16", "16")],
)  # fmt: skip
def test_factors(value: str, by: str, expected: str) -> None:
    assert multiplied(value, by) == expected


@pytest.mark.parametrize(
    ("gpus", "line"),
    [(2, "--gpus-per-node=2"), ("a100:2", "--gpus-per-node=a100:2"), ("gpu:a100:1", "--gres=gpu:a100:1"), (0, None)],
)
def test_gpus_by_type(gpus: int | str, line: str | None) -> None:
    text = make_script(Slurm(), ArrayOfJobs([jobs_of(1)], SbatchOptions(gpus=gpus), 1), MEANT, "g", None)
    assert f"#SBATCH {line}" in text if line else "gpu" not in text.replace(str(MEANT.folder), "")
    assert submit.choose_device(runner.Settings(), SbatchOptions(gpus=gpus)) == ("cuda" if gpus else "cpu")


def test_gpus_that_are_none_are_named() -> None:
    with pytest.raises(UserError, match="--gpus a100: expected a number, or a type and a number as a100:2"):
        SbatchOptions(gpus="a100").check()


MEANT = Array(Path("/shared/s/slurm/20260101-000000-abcdef"), 0)
GOLDEN = """\
#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-2%2
#SBATCH --comment=20260101-000000-abcdef.0
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=1
#SBATCH --job-name=paper_.20260101-000000-abcdef.0
#SBATCH --mem=16G
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/s/slurm/20260101-000000-abcdef/logs/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --time=240

# setup
module load cuda
export PYTHONPATH=/shared/s/code/c0de"${PYTHONPATH:+:$PYTHONPATH}"

# command
export SUBMITIT_EXECUTOR=slurm
exec PYTHON -P -m spurbench.bench.cluster.task /shared/s/slurm/20260101-000000-abcdef/array-0.json
"""


def test_the_text_for_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending.sys, "executable", "PYTHON")
    resources = SbatchOptions(partition="gpu", account="lab", cpus=4, mem="16G", setup=("module load cuda",))
    array = ArrayOfJobs([[job] for job in jobs_of(3)], resources, 2)
    text = make_script(Slurm(), array, MEANT, "paper λ", Path("/shared/s/code/c0de"))
    assert text.strip() == GOLDEN.strip()


def test_a_store_with_signs_that_sbatch_reads(command: Any, tmp_path: Path) -> None:
    send = ("submit", "quick", "--node-local", "--dry-run", "--store")
    said = command(*send, tmp_path / "a%j b's").stdout
    assert "/a%%j b'\"'\"'s/" in said and f"{tmp_path}/a%j b'\"'\"'s/slurm" in said  # the log; the manifest
    assert "backslash" in command(*send, tmp_path / "a\\x", code=2).stderr and not (tmp_path / "a\\x").exists()


def test_a_dry_run_leaves_nothing_behind(command: Any, tmp_path: Path) -> None:
    said = command("submit", "quick", "--store", tmp_path / "s", "--node-local", "--dry-run").stdout
    assert "#SBATCH --array=0-" in said and "would submit 47 runs" in said and not (tmp_path / "s").exists()


def test_what_a_task_asks_for(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line over the grid file over the user's profile; a mistake is named with its place."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file, send = tmp_path / "spurbench" / "clusters.yaml", ("submit", tmp_path / "g.yaml", "--node-local")
    (tmp_path / "g.yaml").write_text(GRID)
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
    file.write_text("default: {mem: lots}\n")
    said = command(*send, "--store", tmp_path / "s", code=2).stderr
    assert "clusters.yaml, default: --mem lots: expected an amount" in said
    said = command(*send, "--store", tmp_path / "s", "--time", "4:00", "--mem", "1G", code=2).stderr
    assert said.startswith("spurbench: --time 4:00 (4 minutes")
    with pytest.raises(UserError, match="^the grid: cpus: .*valid integer.*not 'many'"):
        combine(SbatchOptions, ("the grid", {"cpus": "many"}))


def test_a_folder_of_this_node_is_refused(command: Any) -> None:
    said = command("submit", "quick", "--store", "/tmp/never", "--dry-run", code=2).stderr
    assert "other nodes do not share" in said and len(said.strip().splitlines()) == 1


def test_without_slurm_one_line(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    said = command("submit", "quick", "--store", tmp_path / "s", "--node-local", code=2).stderr
    assert said.startswith("spurbench: no sbatch here") and not list(tmp_path.glob("s/slurm/*"))


def test_a_snapshot_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what was to be written, not what was read, and nothing half-made stays."""
    real, left = Path.write_bytes, [3]

    def write(self: Path, content: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            real(self, content[:1])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match="No space left") as full:
        snapshot.take(tmp_path, [])
    assert str(full.value.filename).startswith(f"{tmp_path}/code/") and "/." not in full.value.filename
    assert not list((tmp_path / "code").iterdir())


def test_a_snapshot_is_what_runs(tmp_path: Path) -> None:
    """The same code makes one copy; Python finds the copy first, and records say which it was."""
    plugin = tmp_path / "mine.py"
    plugin.write_text("# first\n")
    code, copies = snapshot.take(tmp_path, [str(plugin)])
    assert snapshot.take(tmp_path, [str(plugin)]) == (code, copies) and Path(copies[0]).read_text() == "# first\n"
    plugin.write_text("# second\n")
    assert snapshot.take(tmp_path, [str(plugin)])[0] != code and len(list((tmp_path / "code").iterdir())) == 2
    ask = "from spurbench.bench.plugins import registry; from spurbench.bench.provenance import commit; "
    ask += "import spurbench.bench.cluster.task as t; "
    ask += "print(t.__file__, commit.code()['snapshot'], len(registry.methods()))"
    done = subprocess.run([sys.executable, "-c", ask], env=os.environ | {"PYTHONPATH": str(code)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    file, name, count = done.stdout.split()
    assert Path(file).is_relative_to(code) and name == code.name and int(count) >= 9


def test_a_task_that_gets_nowhere_is_given_up(tmp_path: Path) -> None:
    store, jobs = Store.open(tmp_path / "s", create=True), jobs_of(2)
    manifest = tmp_path / "array-0.json"
    assert [task.count_starts(manifest, 0, jobs, store) for _ in range(3)] == [1, 2, 3]
    store.write_record(begin_record(jobs[0].runs[0], jobs[0].options).with_(status="done", cause=None))
    assert [task.count_starts(manifest, 0, jobs, store) for _ in range(2)] == [1, 2]  # it had got somewhere
    task.give_up(jobs, store)
    ended = store.record(jobs[1].runs[0].id)
    assert ended and ended.cause and ended.cause.kind == "node_failure" and "5 times" in ended.cause.message
    done = store.record(jobs[0].runs[0].id)
    assert done is not None and done.status == "done"
