"""The launcher: kills, failures, two at once, and a record that does not depend on any of it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.core.errors import UserError
from spurbench.bench.grid.ad_hoc import adhoc_grid
from spurbench.bench.launch import dispatch
from spurbench.bench.launch.local import Local
from spurbench.bench.launch.placement import Layout
from spurbench.bench.launch.pool import Ended, Pool, Process, Terms, do_job
from spurbench.bench.launch.runner import Settings, run_grid
from spurbench.bench.plugins import registry
from spurbench.bench.store.claims import Claims, encode, holder
from spurbench.bench.store.store import Store

POINTS = ["--plugin", Path(__file__).with_name("points.py"), "--dataset", "points", "--seeds", "0"]
TWO_MOON = ["--dataset", "two_moon", "--seeds", "0", "--set", "two_moon.examples=100"]


def science(store: Path) -> list[dict[str, Any]]:
    """The records without what may differ between two runs of the same thing."""
    found = []
    for record in Store.open(store).whole_records():
        loose = ("digest", "cost", "provenance")
        found.append({key: value for key, value in record.to_dict().items() if key not in loose})
    return found


def predictions(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("predictions/*/*.npz")}


SLOW = '''"""LFF, slowly while there is a file. Source: none. Needs: nothing. Differs: nothing."""
import time
from dataclasses import dataclass
from pathlib import Path
from spurbench.methods.lff import LfF

@dataclass(frozen=True)
class Slow(LfF):
    def loss(self, logits, batch, state, step):
        time.sleep(0.02 * Path(__file__).with_name("wait").exists())
        return super().loss(logits, batch, state, step)
'''


@pytest.fixture
def slow(tmp_path: Path) -> list[Any]:
    """How 200 steps are run that take 4 seconds while there is a file `wait`."""
    (tmp_path / "slow.py").write_text(SLOW)
    return ["run", "--plugin", tmp_path / "slow.py", *POINTS, "--method", "slow", "--set", "training.steps=200",
            "--checkpoint-seconds", "0.05"]  # fmt: skip


@pytest.mark.parametrize("saves", [1, 5])
def test_killed_and_resumed_is_bit_identical(
    started: Any, command: Any, until: Any, tmp_path: Path, slow: list[Any], saves: int
) -> None:
    """SIGKILL to launcher and worker after so many checkpoints; then the same command again."""
    unbroken, broken, wait = (tmp_path / name for name in ("unbroken", "broken", "wait"))
    command(*slow, "--store", unbroken)
    wait.touch()
    running = started(*slow, "--store", broken)
    seen = set[int]()

    def often_enough() -> bool:
        seen.update(file.stat().st_mtime_ns for file in broken.glob("checkpoints/*.pt"))
        return len(seen) >= saves

    until(often_enough)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    assert not list(broken.glob("records/*/*.json"))
    wait.unlink()
    command(*slow, "--store", broken)
    assert science(broken) == science(unbroken)
    assert predictions(broken) == predictions(unbroken)
    assert Store.open(broken).records()[0][0].cost.resumed == 1
    assert not list(broken.glob("checkpoints/*.pt")) and not list(broken.glob("claims/*/*.json"))


def test_ctrl_c_saves_and_says_how_to_go_on(spurbench: Any, until: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ["run", *POINTS, "--method", "erm", "--set", "training.steps=1000000", "--store", store]
    running = spurbench.start(*arguments, "--checkpoint-seconds", "0.05")
    until(lambda: list(store.glob("checkpoints/*.pt")))
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "run the same command again" in said
    assert list(store.glob("checkpoints/*.pt")) and not list(store.glob("records/*/*.json"))


@pytest.mark.parametrize(("kills", "status"), [(1, "done"), (3, "failed")])
def test_a_killed_workers_job_goes_on_in_another(
    started: Any, command: Any, until: Any, tmp_path: Path, slow: list[Any], kills: int, status: str
) -> None:
    """Three times; then its runs are recorded as killed, and done again by the next command."""
    store, killed, wait = tmp_path / "store", set[int](), tmp_path / "wait"
    wait.touch()
    running = started(*slow, "--store", store)
    until(lambda: list(store.glob("checkpoints/*.pt")))

    def kill_one() -> bool:
        for claim in Store.open(store).claims.living().values():
            if claim["pid"] not in killed:
                killed.add(claim["pid"])
                os.kill(claim["pid"], signal.SIGKILL)
        return len(killed) == kills

    until(kill_one)
    wait.unlink()
    _, said = running.communicate(timeout=60)
    (record,) = Store.open(store).records()[0]
    assert record.status == status and running.returncode == (0 if status == "done" else 2), said
    if status == "failed":
        assert record.cause and record.cause.kind == "killed" and "SIGKILL, 3 times" in said
        command(*slow, "--store", store)
    (record,) = Store.open(store).records()[0]
    assert record.status == "done" and record.cost.resumed


def test_two_launchers_do_each_run_once(started: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ["run", *POINTS, "--seeds", "0-3", "--method", "erm", "--jobs", "1", "--store", store]
    both = [started(*arguments) for _ in range(2)]
    for running in both:
        _, said = running.communicate(timeout=120)
        assert running.returncode == 0, said
    records, unusable = Store.open(store).records()
    assert len(records) == 4 and not unusable
    assert not list(store.glob("claims/*/*"))


PLUGIN = '''"""A method that goes wrong.

Source: none. Needs: nothing. Differs: nothing.
"""
from dataclasses import dataclass
from spurbench.bench.plugins.method import Method

@dataclass(frozen=True)
class Wrong(Method):
    def loss(self, logits, batch, state, step):
        {body}
'''


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("return logits.mean() * float('nan')", "diverged", "not finite at step 0"),
        ("return batch.losses(logits)", "exception", "must be a scalar"),
        ("return 1.0", "exception", "Wrong.loss gave 1.0; it must be a scalar tensor"),
        ("raise RuntimeError('no luck')", "exception", "RuntimeError: no luck"),
        ("open('/no/such/file')", "exception", "No such file"),
        ("import torch; return batch.losses(logits).mean() * torch.rand(())", "exception", "draws random numbers"),
        ("state['k'] = logits; return batch.losses(logits).mean()", "exception", "puts {'k': [100]} into its state"),
    ],
)
def test_failures_are_records_and_the_others_go_on(
    command: Any, tmp_path: Path, body: str, kind: str, words: str
) -> None:
    plugin = tmp_path / "wrong.py"
    plugin.write_text(PLUGIN.format(body=body))
    done = command("run", "--plugin", plugin, *TWO_MOON, "--method", "wrong", "--method", "erm", "--set",
                   "training.steps=20", "--store", tmp_path / "store", code=2)  # fmt: skip
    assert words in done.stderr and "Traceback" not in done.stderr
    by_method = {record.method: record for record in Store.open(tmp_path / "store").records()[0]}
    wrong = by_method["wrong"]
    assert by_method["erm"].done
    assert wrong.status == "failed" and wrong.cause and wrong.cause.kind == kind
    said = json.loads(command("leaderboard", tmp_path / "store", "--format", "json").stdout)
    assert {(row["method"], row["n"], row["n_planned"]) for row in said} >= {("erm", 1, 1), ("wrong", 0, 1)}


def test_a_checkpoint_of_another_run_is_refused(
    started: Any, command: Any, until: Any, tmp_path: Path, slow: list[Any]
) -> None:
    """Another method's, another seed's; the run is done once the file is gone."""
    store, wait = tmp_path / "store", tmp_path / "wait"
    line = [*slow, "--seeds", "0-1", "--store", store]
    wait.touch()
    running = started(*line, "--jobs", 1)  # both seeds as one job
    until(lambda: len(list(store.glob("checkpoints/*.pt"))) == 2)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    wait.unlink()
    one, other = store.glob("checkpoints/*.pt")
    one.write_bytes(other.read_bytes())
    said = command(*line, code=2).stderr
    assert f"{one.name} is of another run, {other.stem}" in said
    assert [record.id for record in Store.open(store).records()[0]] == [other.stem]
    one.unlink()
    command(*line)
    assert len(Store.open(store).records()[0]) == 2


def test_one_seed_that_fails_does_not_touch_the_others(command: Any, tmp_path: Path) -> None:
    """Its loss raises, its weights overflow; the others are as if alone, to the last bit."""
    plugin, store = tmp_path / "wrong.py", tmp_path / "store"
    plugin.write_text(PLUGIN.format(body="return batch.losses(logits).mean() / (0 if batch.y[0] else 1)"))
    line = ["run", "--plugin", plugin, "--dataset", "two_moon", "--seeds", "0-4", "--method", "wrong",
            "--set", "training.steps=9", "--set", "two_moon.examples=40"]  # fmt: skip
    command(*line, "--store", store, code=2)
    states = {record.seed: record.status for record in Store.open(store).records()[0]}
    assert len(states) == 5 and set(states.values()) == {"done", "failed"}
    good = next(seed for seed, status in states.items() if status == "done")
    command(*line, "--seeds", good, "--store", tmp_path / "alone")
    (alone,) = science(tmp_path / "alone")
    assert alone in science(store)


def test_runs_that_hang_are_ended_after_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, by the launcher: they do not look whether they should stop."""
    plugin = tmp_path / "wrong.py"
    plugin.write_text(PLUGIN.format(body="while True: pass"))
    registry.add_plugin(plugin)
    monkeypatch.setattr(dispatch, "HANGING", 0)
    store = Store.open(tmp_path / "store", create=True)
    grid = adhoc_grid("two_moon", ["wrong"], "0-1", ["training.steps=20", "training.dropout=0.5"])
    try:
        result = run_grid(grid, store, Settings(device="cpu", jobs=2, time_limit=0.2), lambda *_: Quiet(), Local())
    finally:
        registry.forget_plugins()
    assert result.failed == 2
    for record in store.records()[0]:
        assert record.cause and record.cause.kind == "time_limit"
        assert record.cause.message == "stopped after 0.2 s a run; nothing is saved"


class Lost(Process):
    """A process of another machine, which goes down with it: no one there gives the claim back."""

    def __init__(self, claims: Claims) -> None:
        self.claims, self.news, self.gone = claims, list[Any](), False

    def give(self, job: Any) -> None:
        (run,) = job.runs
        self.claims.take(run.id)
        who = {**holder(), "host": "elsewhere", "machine": "elsewhere", "pid": 1}
        self.claims.path(run.id).write_bytes(encode({**who, "token": "another's"}))
        self.news.append(("begun", who))
        self.gone = True

    def hear(self) -> Any:
        if not self.news:
            raise Ended("its machine is gone", outside=True)
        return self.news.pop(0)

    def stop(self) -> None: ...
    def kill(self) -> None: ...


class Inside(Lost):
    """One that is this process."""

    def give(self, job: Any) -> None:
        self.gone = job is None
        if job:
            do_job(job.to_dict(), self.claims.root.parent, Terms(), lambda *news: self.news.append(news), lambda: False)


class Late(Inside):
    """One that does its job only when it is asked to stop."""

    def give(self, job: Any) -> None:
        self.job, self.gone, self.news = job, job is None, [("begun", {})] if job else []

    def stop(self) -> None:
        super().give(self.job)


class Deaf(Late):
    """One that does not end when it is asked to; the user is in a hurry."""

    def give(self, job: Any) -> None:
        super().give(job)
        signal.raise_signal(signal.SIGINT)

    def stop(self) -> None:
        signal.raise_signal(signal.SIGINT)

    def kill(self) -> None:
        self.gone = True


class Failing(Lost):
    """One that cannot be started."""

    def hear(self) -> Any:
        raise UserError("no torch there")


class Pretended(Pool):
    """A pool whose processes are these, one after the other."""

    def __init__(self, *kinds: type[Lost]) -> None:
        self.kinds, self.made, self.waits = iter(kinds), list[Any](), 0

    def lay_out(self, device: str, jobs: int | None, threads: int | None, runs: int) -> Layout:
        return Layout(("cpu",), 1, 1)

    def start(self, layout: Layout, store: Path, terms: Terms) -> Process:
        self.made.append(next(self.kinds)(Store.open(store).claims))
        return self.made[-1]

    def wait(self, processes: Any, seconds: float) -> Any:
        self.waits += 1
        assert self.waits < 100_000, "waited too long"
        return [process for process in processes if process.news or process.gone]


@pytest.mark.parametrize(
    ("kinds", "settings", "refused"),
    [
        ((Lost, Inside), {}, []),  # its run seems to be worked on for ten minutes, but is done at once
        ((Late,), {"time_limit": 0.01}, []),  # it ends although it was not stopped in the middle of a job
        ((Failing,), {}, [("", "no torch there")]),
    ],
)
def test_processes_elsewhere(kinds: Any, settings: dict[str, Any], refused: list[Any], tmp_path: Path) -> None:
    grid, store = adhoc_grid("two_moon", ["erm"], "0", ["training.steps=20"]), Store.open(tmp_path, create=True)
    result = run_grid(grid, store, Settings(**settings), lambda *_: Quiet(), Pretended(*kinds))
    assert result.refused == refused and not result.interrupted
    assert [record.status for record in store.records()[0]] == ([] if refused else ["done"])


def test_one_mistake_of_many_jobs_is_said_once(command: Any, tmp_path: Path) -> None:
    line = ["run", *TWO_MOON, "--method", "erm", "--method", "sd", "--set", "training.batch=999"]
    said = command(*line, "--store", tmp_path / "s", code=2).stderr
    assert said.count("a batch of 999 examples, but the training set has") == 1
    assert "spurbench: two_moon × erm, seed 0 and 1 other job: seed 0: a batch" in said


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    grid, store, pool = adhoc_grid("two_moon", ["erm"], "0", []), Store.open(tmp_path, create=True), Pretended(Deaf)
    result = run_grid(grid, store, Settings(), lambda *_: Quiet(), pool)
    assert result.interrupted and result.unsaved and pool.made[0].gone


def test_no_processes_for_a_debugger(command: Any, tmp_path: Path) -> None:
    """The records are those of workers; what needs a process is refused."""
    plugin = tmp_path / "wrong.py"
    body = "import os; assert os.getpid() == PID; return batch.losses(logits).mean()".replace("PID", str(os.getpid()))
    plugin.write_text(PLUGIN.format(body=body))
    line = ["run", "--plugin", plugin, *TWO_MOON, "--method", "wrong", "--set", "training.steps=5"]
    said = command(*line, "--jobs", 0, "--store", tmp_path / "here").stderr
    assert "this process on cpu" in said and science(tmp_path / "here")[0]["status"] == "done"
    said = command(*line, "--jobs", 0, "--time-limit", 5, "--store", tmp_path / "never", code=2).stderr
    assert "--time-limit ends a process" in said and not (tmp_path / "never").exists()


class Quiet:
    def started(self, job: Any) -> None: ...
    def progress(self, job: Any, step: int) -> None: ...
    def ended(self, job: Any, failures: Any, refused: bool = False) -> None: ...


def test_a_job_that_is_tried_again_has_one_bar() -> None:
    import io

    from rich.console import Console

    from spurbench.bench.api.progress import Bars
    from spurbench.bench.grid.ad_hoc import adhoc_grid
    from spurbench.bench.grid.expand import expand
    from spurbench.bench.jobs.job import gather
    from spurbench.bench.training.execution import Options

    pairs = [(run, cell.label) for run, cell in expand(adhoc_grid("two_moon", ["erm"], "0"), {}).runs()]
    (job,) = gather(pairs, {run.id for run, _ in pairs}, lambda run, seeds: 1, Options())
    bars = Bars(Console(file=io.StringIO()), [job], 1)
    bars.started(job)
    bars.progress(job, 7)
    bars.started(job)  # its process was killed: another one has it
    assert [(task.completed, task.description) for task in bars.bars.tasks[1:]] == [(0, job.title)]
    bars.ended(job, [])
    assert [task.completed for task in bars.bars.tasks] == [1]
    bars.close()
