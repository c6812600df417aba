"""What is submitted, what becomes of it, and what the store knows of that, with a SLURM that only keeps a queue."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from fake_slurm import FakeSlurm

from spurbench.bench.cluster import submissions, submit, task, task_states
from spurbench.bench.cluster.arrays import Array
from spurbench.bench.cluster.launcher import Answers, TaskIdentity
from spurbench.bench.cluster.submissions import arrays_of, named, tasks, write_ends
from spurbench.bench.cluster.task_states import describe_runs
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import ROOT
from spurbench.bench.grid.ad_hoc import adhoc_grid
from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid
from spurbench.bench.jobs.job import Job, gather
from spurbench.bench.jobs.recording import begin_record, fail
from spurbench.bench.provenance import edits
from spurbench.bench.store.store import Store
from spurbench.bench.training.execution import Options
from spurbench.slurm import limits, program
from spurbench.slurm.answers import ask, assign_reports, explain, parse_job_id, parse_squeue
from spurbench.slurm.sbatch import Slurm
from spurbench.slurm.sbatch_options import SbatchOptions

GRID = """\
name: g
seeds: 0-1
datasets:
  - dataset: two_moon
    training: {steps: 20}
    methods: [erm, sd, {method: erm, label: slow λ, training: {lr: 0.001}, resources: {mem: 3G}}]
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    fake = FakeSlurm(tmp_path / "fake")
    monkeypatch.setenv("PATH", f"{fake.bin}:/usr/bin:/bin")
    program.configuration.cache_clear()
    yield fake
    program.configuration.cache_clear()


@pytest.fixture
def send(command: Any, slurm: FakeSlurm, tmp_path: Path) -> Callable[..., Any]:
    """`submit` of the small grid: three tasks in two arrays."""
    (tmp_path / "g.yaml").write_text(GRID)
    line = ("submit", tmp_path / "g.yaml", "--store", tmp_path / "s", "--node-local", "--no-snapshot")
    return lambda *more, code=0: command(*line, *more, code=code)


@pytest.fixture
def tally(command: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def count(store: Path = tmp_path / "s") -> dict[str, Any]:
        task_states.forget_answers()  # what a command of its own would begin with
        program.configuration.cache_clear()
        rows = json.loads(command("status", store, "--json").stdout)
        states = ("queued", "running", "failed", "waiting")
        found: dict[str, Any] = {name: n for name in states if (n := sum(row[name] for row in rows))}
        return found | {"note": " ".join(row["note"] for row in rows)}

    return count


def jobs_of(count: int) -> list[Job]:
    planned = [(run, cell.label) for run, cell in expand(adhoc_grid("two_moon", ["erm"], f"0-{count - 1}"), {}).runs()]
    return gather(planned, {run.id for run, _ in planned}, lambda run, seeds: 1, Options())


def test_runs_that_others_start_from_are_sent_first(slurm: FakeSlurm, command: Any, tmp_path: Path) -> None:
    """The dependent array waits for theirs, also when a run of a row is a base at the same time."""
    (tmp_path / "g.yaml").write_text(
        "seeds: 0-1\ndatasets:\n  - dataset: two_moon\n    training: {steps: 20}\n"
        "    methods: [afr, sd, {method: afr, label: from sd, base: {method: sd}}]\n"
    )
    line = ("submit", tmp_path / "g.yaml", "--store", tmp_path / "s", "--node-local", "--no-snapshot")
    assert "submitted 8 runs as 4 tasks of 2 arrays: 101, 102" in command(*line).stdout
    waiting = [word for words in slurm.calls("sbatch") for word in words if word.startswith("--dependency")]
    assert waiting == ["--dependency=afterany:101"]
    methods = [
        {run.method for job in task.jobs for run in job.runs} for task in submissions.tasks(Store.open(tmp_path / "s"))
    ]
    assert sorted(map(sorted, methods)) == [["afr"], ["afr"], ["erm"], ["sd"]]
    assert "submitted 0 runs" in command(*line).stdout


# ---- what other programs say is not believed unchecked --------------------------------------------------------------


@pytest.mark.parametrize("banner", ["kerberos ticket renewed\n", "sbatch: lua: quota 12 of 100\n   \n"])
@pytest.mark.parametrize("cluster", ["", ";far-away"])
def test_lines_beside_the_job_id(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path, banner: str, cluster: str
) -> None:
    slurm.set(banner=banner, cluster=cluster)
    assert "submitted 6 runs as 3 tasks of 2 arrays: 101, 102" in send().stdout
    assert tally() == {"queued": 6, "note": "waits: Priority waits: Priority waits: Priority"}
    assert "submitted 0 runs" in send().stdout and len(slurm.tasks()) == 3
    assert "cancelled 3 tasks" in command("cancel", tmp_path / "s").stdout
    assert set(slurm.tasks().values()) == {"CANCELLED"}
    calls = slurm.calls("scancel") + [words for words in slurm.calls("squeue") if any("--jobs" in w for w in words)]
    assert all(("--clusters=far-away" in words) == bool(cluster) for words in calls)


@pytest.mark.parametrize("banner", ["77\n", "Submitted batch job ", "see job "])
def test_an_id_among_other_numbers_and_words(slurm: FakeSlurm, send: Any, tally: Any, banner: str) -> None:
    """The queue tells which number it is; where none can be read it knows the array by its name."""
    slurm.set(banner=banner)
    assert "of 2 arrays: 101, 102" in send().stdout and tally()["queued"] == 6


@pytest.mark.parametrize("error", ["Socket timed out on send/recv operation", "a site's own hook went wrong"])
def test_an_answer_that_is_lost_on_the_way(slurm: FakeSlurm, send: Any, tally: Any, error: str) -> None:
    """The controller took the array, and the client fails: it is found, and not sent again."""
    slurm.set(swallow=error)
    assert "of 2 arrays: 101, 102" in send().stdout
    assert tally()["queued"] == 6 and "submitted 0 runs" in send().stdout and len(slurm.tasks()) == 3


def test_a_number_that_is_no_job_of_ours(slurm: FakeSlurm, send: Any, command: Any, tmp_path: Path) -> None:
    slurm.set(lie="77")
    assert "of 2 arrays: 101, 102" in send().stdout
    assert "cancelled 3 tasks" in command("cancel", tmp_path / "s").stdout


def test_an_error_beside_an_answer(slurm: FakeSlurm, send: Any, tally: Any, tmp_path: Path) -> None:
    """An interrupted submission is not given up for it, nor a task taken for gone."""
    send()
    next(arrays_of(Store.open(tmp_path / "s"))).noted.unlink()
    slurm.set(mumble=True)
    assert tally()["queued"] == 6
    assert "that was interrupted are in the queue is not known" in send(code=2).stderr
    slurm.set(mumble=False)
    assert "submitted 0 runs" in send().stdout and len(slurm.tasks()) == 3


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xfe"])
def test_a_damaged_note_of_an_id(slurm: FakeSlurm, send: Any, tally: Any, tmp_path: Path, content: bytes) -> None:
    """An empty one is found again, any other named; nothing is sent twice."""
    send()
    next(arrays_of(Store.open(tmp_path / "s"))).noted.write_bytes(content)
    said = send(code=0 if not content else 2)
    assert "submitted 0 runs" in said.stdout or "array-0.job holds no job id" in said.stderr
    assert len(slurm.tasks()) == 3


def test_tasks_that_are_listed_as_ranges() -> None:
    array = Array(Path("/s/slurm/x"), 0, given="7")
    found = assign_reports(parse_squeue("7_[0-2,5%2]|PENDING|Priority|"), [array])
    assert set(found) == {(array.token, index) for index in (0, 1, 2, 5)}
    lines = parse_squeue("7_1|RUNNING||\n7|CANCELLED||")
    answers = Answers(tasks=assign_reports(lines, [array]))
    said = [answers.of((array.token, index)) for index in range(2)]
    assert [one and one.state for one in said] == ["over", "running"]
    assert parse_job_id("7_[0,2,4,...]") == parse_job_id("7") == ("7", (None,)) and parse_job_id("7_0.batch") is None


@pytest.mark.parametrize("variable", ["SQUEUE_STATES", "SQUEUE_PARTITION", "SLURM_CLUSTERS", "SQUEUE_FORMAT"])
def test_the_shell_does_not_alter_what_the_queue_says(
    slurm: FakeSlurm, send: Any, tally: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    send()
    slurm.become("RUNNING")
    monkeypatch.setenv(variable, "PENDING")
    assert tally()["running"] == 6 and "submitted 0 runs" in send().stdout
    assert not list(slurm.folder.parent.glob("s/slurm/*/ends.json"))


def test_a_colleague_looks(slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path) -> None:
    """Who may not see the jobs says of none that it is over, and writes nothing; who may, sees them."""
    send()
    slurm.become("RUNNING")
    for file in tmp_path.glob("s/slurm/*/submission.json"):
        file.write_text(file.read_text().replace(f'"user":{os.getuid()}', '"user":12345'))
    assert tally()["running"] == 6
    slurm.set(private=True, user=999)
    assert tally()["queued"] == 6 and "whose jobs SLURM does not show you" in tally()["note"]
    assert "possibly in the queue, left out: was submitted by another" in send(code=2).stdout
    assert len(slurm.tasks()) == 3
    said = command("collect", tmp_path / "s", code=2).stderr
    assert "0 runs recorded; the state of others is not known" in said
    assert not list(tmp_path.glob("s/slurm/*/ends.json")) and not list(tmp_path.glob("s/records/*/*"))


def test_another_cluster_is_not_asked_for_these_numbers(slurm: FakeSlurm, send: Any, tally: Any) -> None:
    send()
    slurm.set(called="other", jobs={})
    assert "was submitted on the cluster fake, and this is other" in tally()["note"]


def test_two_clusters_that_count_alike(slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path) -> None:
    """They share a store, and give one number to two of its arrays: neither is taken for the other."""
    send("--only", "two_moon/sd")
    slurm.set(called="other", jobs={}, next=100)
    program.configuration.cache_clear()
    send("--only", "two_moon/erm")
    assert [array.id for array in arrays_of(Store.open(tmp_path / "s"))] == ["101", "101", "102"]
    assert tally()["queued"] == 6 and "on the cluster fake, and this is other" in tally()["note"]
    said = command("cancel", tmp_path / "s", code=2).stderr
    assert "cancelled 2 tasks; whether others are queued is not known" in said
    assert "4 runs recorded; the state of others is not known" in command("collect", tmp_path / "s", code=2).stderr
    assert tally()["failed"] == 4 and tally()["queued"] == 2


@pytest.mark.parametrize("lives", [True, False])
def test_a_queue_that_counts_anew(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path, lives: bool
) -> None:
    """What the new array of a number is at is not said of the old one, nor how it ended."""
    send("--only", "two_moon/sd")
    slurm.set(jobs={}, next=100)
    assert "submitted 4 runs as 2 tasks of 2 arrays: 101, 102" in send("--only", "two_moon/erm").stdout
    slurm.become("RUNNING" if lives else "OUT_OF_MEMORY")
    assert tally()["failed"] == (2 if lives else 6) and "SLURM does not remember why" in tally()["note"]
    assert f"{2 if lives else 6} runs had ended" in command("collect", tmp_path / "s").stdout


def test_two_arrays_of_a_submission_with_one_number(slurm: FakeSlurm, send: Any, tmp_path: Path) -> None:
    """Each went to a cluster of its own; the end of the one is not noted for the other."""
    send()
    for array in arrays_of(Store.open(tmp_path / "s")):
        array.noted.write_text(f"101;{'ab'[array.number]}\n")
    every = list(tasks(Store.open(tmp_path / "s")))
    write_ends([replace(every[0], end=("killed", "here"))])
    assert [task.end for task in tasks(Store.open(tmp_path / "s"))] == [("killed", "here"), None, None]


STRANGE = {"name": "a | stranger's", "comment": "(null)", "script": "/home/x/run.sh"}


def become_jobs(slurm: FakeSlurm, **fields: Any) -> None:
    """What tells whose they are of all jobs."""
    state = slurm.load()
    for job in state["jobs"].values():
        job |= fields
    slurm.save(state)


def test_a_number_that_another_job_has_by_now(slurm: FakeSlurm, send: Any, tally: Any) -> None:
    """After SLURM has begun to count anew: another user's, or one of another store."""
    send()
    become_jobs(slurm, **STRANGE, user=1)
    assert tally()["failed"] == 6
    become_jobs(slurm, name="g.20260101-000000-000000-abcd.0", user=os.getuid())
    assert tally()["failed"] == 6 and "submitted 6 runs" in send().stdout


@pytest.mark.parametrize("kept", STRANGE)
def test_a_job_that_was_renamed(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path, kept: str
) -> None:
    """By hand, or by the site: any one of name, comment and script tells whose it is."""
    send()
    become_jobs(slurm, **{field: text for field, text in STRANGE.items() if field != kept})
    assert tally()["queued"] == 6 and "submitted 0 runs" in send().stdout
    for array in arrays_of(Store.open(tmp_path / "s")):
        array.noted.unlink()
    assert "submitted 0 runs" in send().stdout and len(slurm.tasks()) == 3
    assert "cancelled 3 tasks" in command("cancel", tmp_path / "s").stdout
    assert set(slurm.tasks().values()) == {"CANCELLED"} and tally()["failed"] == 6


def test_a_job_that_nothing_tells_of(slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path) -> None:
    """One of the same user and number is perhaps ours: nothing is sent twice for it, and nothing concluded."""
    send()
    become_jobs(slurm, **STRANGE)
    assert tally()["queued"] == 6 and "is in the queue as a" in tally()["note"]
    assert "perhaps renamed" in send(code=2).stdout and len(slurm.tasks()) == 3
    assert "whether others are queued is not known" in command("cancel", tmp_path / "s", code=2).stderr
    assert "0 runs recorded" in command("collect", tmp_path / "s", code=2).stderr
    slurm.become("CANCELLED")
    assert tally()["failed"] == 6 and "submitted 6 runs" in send().stdout


def test_a_site_that_names_jobs(slurm: FakeSlurm, send: Any, tally: Any) -> None:
    slurm.set(rename="batch")
    assert "of 2 arrays: 101, 102" in send().stdout and tally()["queued"] == 6
    slurm.set(banner="see job ")
    slurm.become("FAILED")
    assert "of 2 arrays: 103, 104" in send().stdout and "submitted 0 runs" in send().stdout


@pytest.mark.parametrize("down", [True, "squeue"])
def test_where_squeue_does_not_answer_nothing_is_claimed(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path, down: Any
) -> None:
    send()
    slurm.set(down=down)
    assert tally()["queued"] == 6 and "squeue does not answer here" in tally()["note"]
    for words in (("collect",), ("cancel",)):
        assert "squeue does not answer here" in command(*words, tmp_path / "s", code=2).stderr
    said = send(code=2)
    assert "nothing is sent: it is not known what is in the queue" in said.stderr and len(slurm.tasks()) == 3
    slurm.set(down=False)
    assert tally() == {"queued": 6, "note": "waits: Priority waits: Priority waits: Priority"}


# ---- what will never be known ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["SBATCH_CLUSTERS", "SLURM_CLUSTERS"])
def test_a_cluster_that_there_is_not(
    slurm: FakeSlurm, send: Any, tally: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Nothing was sent, and the next `submit` sends all."""
    slurm.set(clusters=["fake"])
    monkeypatch.setenv(variable, "fkae")
    said = send(code=2).stderr
    assert "sbatch refuses: 'fkae' can't be reached now" in said and "nothing is submitted" in said
    assert not list(tmp_path.glob("s/slurm/2*")) and tally()["waiting"] == 6
    monkeypatch.delenv(variable)
    assert "submitted 6 runs" in send().stdout


def test_a_submission_that_no_one_will_ever_tell_of(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster that it went to is no more: the message says what to do, and that does no harm."""
    monkeypatch.setenv("SBATCH_CLUSTERS", "gone")
    slurm.set(down="sbatch")
    send(code=2)
    monkeypatch.delenv("SBATCH_CLUSTERS")
    slurm.set(down=False, clusters=["fake"])
    assert "`spurbench cancel --forget" in send(code=2).stderr and tally()["queued"] == 4
    assert "name no cell" in command("cancel", tmp_path / "s", "x", "--forget", code=2).stderr
    assert "forgot 1 array" in command("cancel", tmp_path / "s", "--forget").stdout
    assert tally()["waiting"] == 6 and "submitted 6 runs" in send().stdout
    assert "counts as not sent" in started(next(arrays_of(Store.open(tmp_path / "s"))), 99).stdout


def test_only_what_is_not_known_is_forgotten(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path
) -> None:
    send()
    assert "forgot 0 arrays" in command("cancel", tmp_path / "s", "--forget").stdout
    slurm.set(down=True)
    tally()
    assert "SLURM does not answer here" in command("cancel", tmp_path / "s", "--forget", code=2).stderr
    slurm.set(down=False)
    state = slurm.load()
    state["jobs"]["101"] |= STRANGE
    slurm.save(state)
    tally()
    assert "`spurbench cancel --forget" in command("cancel", tmp_path / "s", code=2).stderr
    assert "forgot 1 array" in command("cancel", tmp_path / "s", "--forget").stdout
    assert "counts as not sent" in started(next(arrays_of(Store.open(tmp_path / "s"))), 101).stdout
    assert "submitted 6 runs" in send().stdout


# ---- between sbatch and our note of it ------------------------------------------------------------------------------


class Killed(BaseException):
    """What a SIGKILL leaves undone is left undone by an exception that nothing catches, too."""


@pytest.mark.parametrize("moment", range(6))
def test_a_submission_that_is_killed(
    slurm: FakeSlurm, send: Any, tally: Any, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Before or after each write and each sbatch: the next `submit` sends what is lacking, and nothing twice."""
    left, real = [moment], {"call": program.call, "write_atomically": submissions.write_atomically}

    def counted(name: str) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            before = left[0]
            done = real[name](*arguments, **more) if before != 0 else None
            if name == "write_atomically" or arguments[0] == "sbatch":
                left[0] -= 1
                if before == 0 or (left[0] == 0 and name == "call"):  # in the middle, or when it has answered
                    raise Killed
            return done if before != 0 else real[name](*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(program, "call", counted("call"))
        patch.setattr(submissions, "write_atomically", counted("write_atomically"))
        with pytest.raises(Killed):
            send()
    assert sum(tally()[name] for name in ("queued", "waiting") if name in tally()) in (0, 6)
    send()
    assert tally() == {"queued": 6, "note": "waits: Priority waits: Priority waits: Priority"}
    assert len(slurm.tasks()) == 3, slurm.load()["jobs"]


def test_an_array_that_comes_late_is_void(slurm: FakeSlurm, send: Any, tally: Any, tmp_path: Path) -> None:
    """sbatch was under way when it was looked for, and its runs were sent again: its tasks do nothing."""
    slurm.set(down="sbatch")
    assert "the next `status` or `submit` finds out whether it was accepted" in send(code=2).stderr
    assert tally()["waiting"] == 6
    slurm.set(down=False)
    assert "submitted 6 runs" in send().stdout
    (late, *_), sent = arrays_of(Store.open(tmp_path / "s")), len(slurm.tasks())
    assert late.job == "void" and sent == 3
    done = started(late, 99)
    assert done.returncode == 0 and "counts as not sent" in done.stdout


def started(array: Array, number: int) -> subprocess.CompletedProcess[str]:
    """A task of an array, as SLURM would start it under a number."""
    line = [sys.executable, "-m", "spurbench.bench.cluster.task", str(array.manifest)]
    own = {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": str(number)}
    return subprocess.run(line, env=os.environ | own, capture_output=True, text=True)


def test_a_task_tells_the_number_that_no_one_noted(slurm: FakeSlurm, send: Any, tmp_path: Path) -> None:
    send("--device", "cpu")
    array = next(arrays_of(Store.open(tmp_path / "s")))
    array.noted.unlink()
    assert "ended" in started(Array(array.folder, 0), 101).stdout
    assert next(arrays_of(Store.open(tmp_path / "s"))).id == "101"


def test_the_controller_goes_between_two_arrays(slurm: FakeSlurm, send: Any, tally: Any) -> None:
    """What was sent stays known, and the next `submit` sends the rest."""
    state, real = slurm.load(), program.call

    def call(*words: str, **more: Any) -> Any:
        if words[0] == "sbatch" and slurm.load()["jobs"]:
            slurm.set(down=True)
        return real(*words, **more)

    program.call = call  # type: ignore[assignment]
    try:
        said = send(code=2).stderr
    finally:
        program.call = real
    assert "1 of 2 arrays in the queue: 101" in said and "the next `status` or `submit` finds out" in said
    slurm.set(down=False)
    assert tally()["queued"] == 4 and tally()["waiting"] == 2
    assert "submitted 2 runs as 1 task" in send().stdout and len(slurm.tasks()) == 3
    assert state["jobs"] == {}


def test_what_is_refused_is_said_and_leaves_nothing(slurm: FakeSlurm, send: Any, tally: Any, tmp_path: Path) -> None:
    slurm.set(refuse=["nope"])
    said = send("--partition", "nope", code=2).stderr
    assert "sbatch refuses: Batch job submission failed: Invalid partition name specified; nothing is submitted" in said
    assert not list(tmp_path.glob("s/slurm/2*")) and tally()["waiting"] == 6


def test_two_submissions_at_once(slurm: FakeSlurm, send: Any, spurbench: Any, tmp_path: Path) -> None:
    """One waits for the other, and finds its runs in the queue; their folders have names of their own."""
    line = ("submit", tmp_path / "g.yaml", "--store", tmp_path / "s", "--node-local", "--no-snapshot")
    both = [spurbench.start(*line) for _ in range(2)]
    said = sorted(running.communicate()[0].splitlines()[0] for running in both)
    assert [running.returncode for running in both] == [0, 0] and len(slurm.tasks()) == 3
    assert said == ["submitted 0 runs as 0 tasks of 0 arrays", "submitted 6 runs as 3 tasks of 2 arrays: 101, 102"]


@pytest.mark.parametrize("moment", ["sbatch", "intent"])
def test_a_submission_that_is_stopped_for_long(
    slurm: FakeSlurm,
    send: Any,
    tally: Any,
    spurbench: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """Another takes its place and sends the same runs: what it sends when it wakes up is void and cancelled at once."""
    line = ("submit", tmp_path / "g.yaml", "--store", tmp_path / "s", "--node-local", "--no-snapshot")
    real, call, told = submissions.write_intent, program.call, list[str]()

    def other() -> None:
        if not told:
            shutil.rmtree(tmp_path / "s" / "submitting")
            told.append(spurbench(*line).stdout)

    def intent(*arguments: Any) -> Any:
        meant = real(*arguments)
        if moment == "intent":
            other()
        return meant

    def sbatch(*words: str, **more: Any) -> Any:
        if words[0] == moment:
            other()
        return call(*words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(program, "call", sbatch)
        patch.setattr(submissions, "write_intent", intent)
        assert "another took over" in (said := send(code=2).stderr) and said.count("\n") == 1
    assert "submitted 6 runs as 3 tasks of 2 arrays: 101, 102" in told[0]
    living = [id for id, state in slurm.tasks().items() if state == "PENDING"]
    assert len(living) == 3 and {id.partition("_")[0] for id in living} == {"101", "102"}
    assert len(slurm.tasks()) == (5 if moment == "sbatch" else 3)
    assert tally()["queued"] == 6 and "submitted 0 runs" in send().stdout


def test_what_is_void_stays_so(tmp_path: Path) -> None:
    array = Array(tmp_path, 0)
    array.note("void")
    array.note_instead("7")
    assert array.note("8") == "void" and array.id is None


# ---- how tasks end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accounting", [True, False])
def test_how_tasks_ended(slurm: FakeSlurm, send: Any, tmp_path: Path, accounting: bool) -> None:
    send()
    array = next(arrays_of(Store.open(tmp_path / "s")))
    ends = {"0": ("OUT_OF_MEMORY", "0:125"), "1": ("FAILED", "0:9")}
    for i, (state, code) in ends.items():
        slurm.become(state, f"101_{i}", code=code)
    if accounting:
        slurm.set(sacct="".join(f"101_{i}|{state}|{code}|x.{array.token}\n" for i, (state, code) in ends.items()))
    found = ask([array]).tasks | explain([array])
    assert found[array.token, 0].end == ("out_of_memory", "as SLURM says, OUT_OF_MEMORY")
    assert found[array.token, 1].end == ("killed", "by signal 9")


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [("CANCELLED", "0:0", "cancelled: as SLURM says, CANCELLED"), ("NODE_FAIL", "0:0", "node_failure"),
     ("TIMEOUT", "0:0", "time_limit"), ("FAILED", "1:0", "exit code 1"), ("COMPLETED", "0:0", "exit code 0"),
     ("PREEMPTED", "0:0", "preempted")],
)  # fmt: skip
def test_ends_that_are_told(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path, state: str, code: str, expected: str
) -> None:
    """Also of tasks that never began; the records say the same when SLURM has forgotten them."""
    send()
    slurm.become(state, code=code)
    assert tally()["failed"] == 6 and expected in tally()["note"]
    slurm.set(jobs={})
    assert expected in tally()["note"]
    assert "6 runs had ended without a record" in command("collect", tmp_path / "s").stdout
    causes = [record.cause for record in Store.open(tmp_path / "s").records()[0] if record.cause]
    assert len(causes) == 6 and all(expected in f"{cause.kind}: {cause.message}" for cause in causes)
    assert "submitted 6 runs" in send().stdout


def test_states_that_are_no_ends(slurm: FakeSlurm, send: Any, tally: Any) -> None:
    """Accounting lags behind, and SLURM has states that this program does not know."""
    send()
    slurm.become("COMPLETING")
    assert tally()["running"] == 6
    slurm.become("STAGE_IN_THE_CLOUD", *slurm.tasks())
    assert tally()["queued"] == 6 and "submitted 0 runs" in send().stdout


def test_an_end_is_taken_back(slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path) -> None:
    """A task that was put back into the queue by hand runs again."""
    send()
    slurm.become("FAILED", code="1:0")
    assert tally()["failed"] == 6
    slurm.become("RUNNING", *slurm.tasks())
    assert tally()["running"] == 6 and "submitted 0 runs" in send().stdout
    slurm.become("TIMEOUT")
    assert tally()["failed"] == 6 and "time_limit" in tally()["note"]


def test_a_noted_end_is_none_while_slurm_does_not_answer(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path
) -> None:
    """Someone may have put the tasks back into the queue since."""
    send()
    slurm.become("TIMEOUT")
    assert tally()["failed"] == 6
    slurm.become("RUNNING", *slurm.tasks())
    slurm.set(down="squeue")
    assert tally()["queued"] == 6 and "squeue does not answer here" in tally()["note"]
    assert "nothing is sent" in send(code=2).stderr and len(slurm.tasks()) == 3
    assert "0 runs recorded" in command("collect", tmp_path / "s", code=2).stderr
    slurm.set(down=False)
    assert tally()["running"] == 6


def test_forgotten_tasks_are_sent_again_and_nothing_is_written_of_them(
    slurm: FakeSlurm, send: Any, tally: Any, tmp_path: Path
) -> None:
    send()
    slurm.set(jobs={})
    assert tally()["failed"] == 6 and "SLURM does not remember why" in tally()["note"]
    assert not list(tmp_path.glob("s/slurm/*/ends.json"))
    assert "submitted 6 runs" in send().stdout


def test_a_sign_of_life_counts_more_than_a_queue_that_lists_nothing(
    slurm: FakeSlurm, send: Any, tally: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send("--only", "two_moon/sd")
    store = Store.open(tmp_path / "s")
    (one, other) = next(tasks(store)).runs
    monkeypatch.setenv("SPURBENCH_TASK", "1010")
    assert store.claims.take(one) and store.claims.take(other)
    slurm.set(jobs={})
    assert tally()["running"] == 2 and "gave a sign of life" in send("--only", "two_moon/sd", code=2).stdout


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [(1, "scancel: the site's hook says no\n", "the site's hook says no"), (-9, "", "ended by signal 9"),
     (1, "", "exit code 1"), (1, "scancel: error: Kill job error on job id 101_0: Access denied\n", "Access denied"),
     (1, "scancel: error: Kill job error on job id 101_0: Job/step already completing or completed\n", None)],
)  # fmt: skip
def test_a_scancel_that_does_not(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path, code: int, text: str, words: str | None
) -> None:
    """Whatever it says; only that tasks have ended already is no trouble."""
    send()
    slurm.set(stubborn=[code, text])
    said = command("cancel", tmp_path / "s", code=2 if words else 0)
    assert "cancelled 3 tasks" in said.stdout if words is None else "cancelled" not in said.stdout
    assert words is None or ("scancel fails: " in said.stderr and words in said.stderr and said.stderr.count("\n") == 1)
    assert tally()["queued"] == 6 and ("is to end" in tally()["note"]) == (words is None or code < 0)


def test_an_array_that_is_cancelled_as_a_whole(slurm: FakeSlurm, send: Any, tally: Any) -> None:
    """SLURM lists no task of it, but one job."""
    send()
    slurm.become("CANCELLED")
    slurm.set(bare=True)
    assert tally()["failed"] == 6 and "cancelled: as SLURM says, CANCELLED" in tally()["note"]
    slurm.set(jobs={})
    assert "cancelled: as SLURM says, CANCELLED" in tally()["note"]


def test_a_cancellation_that_cannot_be_written_down(
    slurm: FakeSlurm, send: Any, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send()

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(submissions, "write_atomically", full)
    said = command("cancel", tmp_path / "s", code=2).stderr
    assert "cancelled 3 tasks, but that cannot be written down" in said
    assert "ends.json: No space left on device" in said and said.count("\n") == 1
    assert set(slurm.tasks().values()) == {"CANCELLED"}


def test_cancelled_tasks_are_told_and_stay_in_the_queue_until_they_end(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path
) -> None:
    send()
    slurm.become("RUNNING")
    slurm.set(down="scancel")
    assert "scancel fails: scancel: error: Unable" in command("cancel", tmp_path / "s", "101_0", code=2).stderr
    assert tally() == {"running": 6, "note": "  "}
    slurm.set(down=False)
    assert "cancelled 1 task" in command("cancel", tmp_path / "s", "101_0").stdout
    slurm.become("COMPLETING", "101_0")
    assert tally()["running"] == 6 and "is to end" in tally()["note"]
    said = command("retry", tmp_path / "s", "101_0", "--node-local").stdout
    assert "2 runs of cancelled tasks that have not ended yet" in said and "submitted 0 runs" in said
    slurm.become("CANCELLED", "101_0")
    assert tally()["failed"] == 2 and "cancelled: by `spurbench cancel`" in tally()["note"]
    assert "submitted 2 runs as 1 task" in command("retry", tmp_path / "s", "--node-local").stdout


def test_a_cancellation_that_was_only_meant_is_no_end(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path
) -> None:
    """Nor does it hide how a task ended otherwise."""
    send()
    every = list(tasks(Store.open(tmp_path / "s")))
    write_ends(replace(task, end=task_states.CANCELLED) for task in every)
    slurm.set(down="squeue")
    assert tally()["queued"] == 6 and "nothing is sent" in send(code=2).stderr
    slurm.set(down=False)
    slurm.become("OUT_OF_MEMORY", code="0:125")
    assert tally()["failed"] == 6 and "out_of_memory" in tally()["note"]


# ---- another try ----------------------------------------------------------------------------------------------------


def failures(store: Store, kind: str = "exception") -> None:
    """Every submitted run has failed, for a reason of its own."""
    for job in [job for sent in tasks(store) for job in sent.jobs]:
        for run in job.runs:
            store.write_record(fail(begin_record(run, job.options, hardware=False), kind, "a test says so"))


@pytest.mark.parametrize("words", [("submit",), ("retry", "--failed")])
def test_failed_runs_are_sent_again_once(
    slurm: FakeSlurm, send: Any, command: Any, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """While a task is to do them again, they are in the queue, though their records say that they failed."""
    send()
    slurm.become("FAILED", code="1:0")
    store = Store.open(tmp_path / "s")
    failures(store)

    def again() -> str:
        line = (*words, tmp_path / "s", "--node-local", "--no-snapshot")
        return str((send("--retry") if words == ("submit",) else command(*line)).stdout)

    assert "submitted 6 runs" in again() and len(slurm.tasks()) == 6
    said = again()
    assert "submitted 0 runs" in said and "6 runs already in the queue" in said and len(slurm.tasks()) == 6
    assert {state for state, _ in describe_runs(store).values()} == {"queued"} and len(describe_runs(store)) == 6
    slurm.become("RUNNING")
    task_states.forget_answers()
    assert {state for state, _ in describe_runs(store).values()} == {"running"} and "submitted 0 runs" in again()
    slurm.become("FAILED", code="1:0")
    assert "submitted 6 runs" in again()


def test_more_memory_is_asked_for_once(slurm: FakeSlurm, send: Any, command: Any, tmp_path: Path) -> None:
    """Until the try with twice the memory has ended, another command does not double it again."""
    send("--only", "two_moon/sd")
    line = ("retry", tmp_path / "s", "--mem", "x2", "--node-local", "--no-snapshot")
    for mem in ("16G", "32G"):
        slurm.become("OUT_OF_MEMORY")
        assert "2 out_of_memory" in command("collect", tmp_path / "s").stdout or mem == "32G"
        assert "submitted 2 runs" in command(*line).stdout
        said = command(*line).stdout
        assert "submitted 0 runs" in said and "2 runs already in the queue" in said
        assert f"--mem={mem}" in max(tmp_path.glob("s/slurm/2*/array-0.sh")).read_text()
    assert len(slurm.tasks()) == 3


def test_failed_tasks_that_were_put_back_by_hand(slurm: FakeSlurm, send: Any, command: Any, tmp_path: Path) -> None:
    send()
    slurm.become("OUT_OF_MEMORY")
    command("collect", tmp_path / "s")
    slurm.become("PENDING", *slurm.tasks())
    for said in (command("retry", tmp_path / "s", "--node-local").stdout, send("--retry").stdout):
        assert "submitted 0 runs" in said and "6 runs already in the queue" in said
    assert len(slurm.tasks()) == 3


def test_a_failure_of_a_task_that_goes_on(slurm: FakeSlurm, send: Any, tmp_path: Path) -> None:
    """It does not do it again: to be sent again, the run need not wait for the others of its task."""
    send()
    failures(Store.open(tmp_path / "s"))
    slurm.become("RUNNING")
    assert describe_runs(Store.open(tmp_path / "s")) == {} and "submitted 6 runs" in send("--retry").stdout


# ---- a store that is moved or copied --------------------------------------------------------------------------------


def test_a_moved_store(slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path) -> None:
    """Its tasks look for it where it was; they are said to be lost, may be cancelled, and the runs are sent again."""
    send()
    (tmp_path / "s").rename(tmp_path / "t")
    assert (
        tally(tmp_path / "t")["failed"] == 6 and f"for the store at {tmp_path / 's'}" in tally(tmp_path / "t")["note"]
    )
    send_there = ("submit", tmp_path / "g.yaml", "--store", tmp_path / "t", "--node-local", "--no-snapshot")
    assert "submitted 6 runs" in command(*send_there).stdout and "submitted 0 runs" in command(*send_there).stdout
    assert "cancelled 3 tasks" in command("cancel", tmp_path / "t", "101_*", "102_0").stdout
    assert tally(tmp_path / "t")["queued"] == 6


def test_a_moved_store_and_a_new_one_in_its_place(
    slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path
) -> None:
    """The tasks are those of the moved one still, and there they may be cancelled."""
    send()
    (tmp_path / "s").rename(tmp_path / "t")
    assert "submitted 6 runs as 3 tasks of 2 arrays: 103, 104" in send().stdout
    assert tally()["queued"] == 6 and tally(tmp_path / "t")["failed"] == 6
    assert f"looks for the store at {tmp_path / 's'}" in tally(tmp_path / "t")["note"]
    assert "cancelled 3 tasks" in command("cancel", tmp_path / "t").stdout
    assert tally()["queued"] == 6 and slurm.tasks()["101_0"] == "CANCELLED"


def test_a_task_leaves_a_store_alone_that_is_not_its_own(
    slurm: FakeSlurm, send: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Its own is moved after its first job, and another made in its place: it claims nothing there."""
    send("--jobs-per-task", "3", "--device", "cpu")
    array = next(arrays_of(Store.open(tmp_path / "s")))
    for name, value in {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "101", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPURBENCH_TASK", "")  # is set by it, and to be forgotten
    from spurbench.bench.jobs import worker

    done: list[Job] = []

    def run_job(job: Job, store: Store, *more: Any) -> None:
        done.append(job)
        store.root.rename(tmp_path / "t")
        Store.open(tmp_path / "s", create=True)

    monkeypatch.setattr(worker, "run_job", run_job)
    monkeypatch.setattr(task.time, "sleep", lambda seconds: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1)}
    try:
        assert task.main(str(array.manifest)) == 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert len(done) == 1 and "is no longer the store this array was submitted for" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "s").iterdir()] == ["spurbench-store.json"]


def test_a_store_under_another_path_whose_tasks_live(
    slurm: FakeSlurm, send: Any, tally: Any, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine may have mounted it elsewhere: who gives signs of life here is not lost."""
    send("--only", "two_moon/sd")
    store = Store.open(tmp_path / "s")
    monkeypatch.setenv("SPURBENCH_TASK", "1010")
    assert all([store.claims.take(id) for id in next(tasks(store)).runs])
    store.root.rename(tmp_path / "t")
    line = ("submit", tmp_path / "g.yaml", "--store", tmp_path / "t", "--node-local", "--only", "two_moon/sd")
    monkeypatch.setattr(submit, "SILENT_SECONDS", 0.1)  # how long it looks for a further sign
    assert tally(tmp_path / "t")["running"] == 2 and "gives signs of life here" in command(*line, code=2).stdout
    assert len(list((tmp_path / "t").glob("claims/*/*.json"))) == 2
    for claim in (tmp_path / "t").glob("claims/*/*.json"):
        os.utime(claim, (claim.stat().st_mtime - 100,) * 2)
    assert "submitted 2 runs" in command(*line).stdout and not list((tmp_path / "t").glob("claims/*/*.json"))


def test_a_copied_store_has_no_tasks(slurm: FakeSlurm, send: Any, command: Any, tally: Any, tmp_path: Path) -> None:
    send()
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    assert tally(tmp_path / "t") == {"waiting": 6, "note": "  "}
    assert "cancelled 0 tasks" in command("cancel", tmp_path / "t").stdout and "PENDING" in slurm.tasks().values()


def test_a_path_that_is_a_link_is_no_move(slurm: FakeSlurm, send: Any, tally: Any, tmp_path: Path) -> None:
    send()
    (tmp_path / "link").symlink_to(tmp_path / "s")
    assert tally(tmp_path / "link")["queued"] == 6


# ---- limits, and what is asked of the cluster -----------------------------------------------------------------------


def test_no_more_is_submitted_than_the_cluster_lets_one_queue(slurm: FakeSlurm, send: Any, tmp_path: Path) -> None:
    """The limits of account and QOS, less what is in the queue."""
    jobs, small, large = jobs_of(9), SbatchOptions(mem="1G"), SbatchOptions(mem="9G", qos="long")
    assert limits.fitting({small: jobs}, 1) == {small: jobs}
    slurm.set(sacctmgr="\n7\n5\n")
    assert limits.fitting({small: jobs[:4], large: jobs[4:]}, 2) == {small: jobs[:4], large: jobs[4:]}
    assert limits.fitting({small: jobs[:4], large: jobs[4:]}, 1) == {small: jobs[:4], large: jobs[4:5]}
    send("--only", "two_moon/sd")
    assert limits.free_slots("account", "") == 4
    slurm.set(sacctmgr="0\n")
    assert limits.fitting({small: jobs}, 1) == {}
    assert any("qos" in words and "long" in words for words in slurm.calls("sacctmgr"))


def test_what_the_shell_says_of_every_job(
    slurm: FakeSlurm, send: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is below the command line, and what would undo an array is left out."""
    for name in ("SBATCH_PARTITION", "SBATCH_ACCOUNT", "SBATCH_WCKEY", "SBATCH_ARRAY_INX", "SLURM_CPU_BIND"):
        monkeypatch.setenv(name, "mine")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "2:00:00")
    send("--account", "other")
    script = min(tmp_path.glob("s/slurm/*/array-0.sh")).read_text()
    assert all(f"--{words}\n" in script for words in ("partition=mine", "account=other", "time=120"))
    assert slurm.load()["environment"] == {"SBATCH_WCKEY": "mine"}
    monkeypatch.setenv("SBATCH_TIMELIMIT", "5")
    assert "at least 15 minutes" in send(code=2).stderr


def test_memory(send: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later layer's over an earlier one's, of the task or of its cores, or none at all."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "spurbench").mkdir()
    file = tmp_path / "spurbench" / "clusters.yaml"
    for profile, more, expected in (
        ("{mem: null}", [], set()), ("{mem: 2G}", ["--mem", "none"], set()), ("{}", [], {"--mem=8G"}),
        ("{mem: 2G}", ["--mem-per-cpu", "1.5G"], {"--mem-per-cpu=1536M"}),
        ("{mem_per_cpu: 2G}", ["--mem", "1G"], {"--mem=1G"}), ("{mem_per_cpu: 2G}", [], {"--mem-per-cpu=2G"}),
    ):  # fmt: skip
        file.write_text(f"default: {profile}")
        said = send("--dry-run", "--only", "two_moon/sd", *more).stdout
        assert {line.split()[1] for line in said.splitlines() if "--mem" in line} == expected, (profile, more)
    file.write_text("default: {mem: 2G, mem_per_cpu: 1G}")
    assert "not both" in send("--dry-run", code=2).stderr


def test_a_dry_run_asks_slurm(slurm: FakeSlurm, send: Any, tmp_path: Path) -> None:
    assert "SLURM would accept it: Job 1 to start at once" in send("--dry-run").stdout
    slurm.set(down=True)
    assert "SLURM cannot be asked" in send("--dry-run").stdout
    assert not slurm.tasks() and not (tmp_path / "s").exists()


def test_a_grid_beside_another_of_its_name(send: Any, command: Any, tmp_path: Path) -> None:
    assert "kept beside" not in send().stdout
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "g.yaml"
    other.write_text(GRID.replace("seeds: 0-1", "seeds: 0-2"))
    said = command("submit", other, "--store", tmp_path / "s", "--node-local", "--no-snapshot").stdout
    assert "has another grid called g: this one is kept beside it as g-2" in said and "submitted 3 runs" in said


def test_runs_of_a_plugin_that_was_edited_are_told_of(slurm: FakeSlurm, command: Any, tmp_path: Path) -> None:
    """They are kept, as `run` keeps them."""
    mine, grid, store = tmp_path / "mine.py", tmp_path / "g.yaml", tmp_path / "s"
    mine.write_text((ROOT / "methods" / "sd.py").read_text().replace("SD", "Mine"))
    grid.write_text(GRID.replace("[erm, sd, ", "[mine, "))
    command("run", grid, "--only", "two_moon/mine", "--plugin", mine, "--store", store)
    line = ("submit", grid, "--plugin", mine, "--store", store, "--node-local", "--no-snapshot", "--dry-run")
    assert "was edited" not in command(*line).stdout
    mine.write_text(mine.read_text().replace("logits.square()", "50 * logits.square()"))
    edits.clear_caches()
    said = command(*line).stdout
    assert "2 runs were made before mine.py was edited and kept unchanged: `spurbench run --fresh`" in said
    assert f"`spurbench accept {store} mine.py`" in said and "would submit 2 runs" in said
    edits.clear_caches()


# ---- tasks ----------------------------------------------------------------------------------------------------------


def test_a_term_without_an_end(
    slurm: FakeSlurm, send: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The task saves its state, waits for the KILL that does not come, and goes on."""
    send("--only", "two_moon/sd", "--device", "cpu")
    (array,) = arrays_of(Store.open(tmp_path / "s"))
    monkeypatch.setattr(task, "GRACE", 0.3)
    for name, value in {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "101", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    from spurbench.bench.jobs import session, worker

    real, told = worker.run_job, []

    def run_job(*arguments: Any, **more: Any) -> None:
        if not told:
            told.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert arguments[3]()  # it is asked to stop
            raise session.Stopped
        real(*arguments, **more)

    monkeypatch.setattr(worker, "run_job", run_job)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        assert task.main(str(array.manifest)) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.environ.pop("SPURBENCH_TASK", None)
    said = capsys.readouterr().out
    assert "asked to stop: the state is saved" in said and "continuing from the saved state" in said
    assert [record.status for record in Store.open(tmp_path / "s").records()[0]] == ["done", "done"]


def test_a_task_for_a_gpu_where_there_is_none(slurm: FakeSlurm, send: Any, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    send()
    done = started(next(arrays_of(Store.open(tmp_path / "s"))), 101)
    assert done.returncode == 2 and "no GPU that torch can use" in done.stdout and not done.stderr
    assert not list(tmp_path.glob("s/records/*/*"))


@pytest.mark.parametrize("index", ["99", "-1", "x"])
def test_a_task_that_its_manifest_has_not(slurm: FakeSlurm, send: Any, tmp_path: Path, index: str) -> None:
    send()
    array = next(arrays_of(Store.open(tmp_path / "s")))
    own = {"SLURM_ARRAY_JOB_ID": "101", "SLURM_ARRAY_TASK_ID": index}
    line = [sys.executable, "-m", "spurbench.bench.cluster.task", str(array.manifest)]
    done = subprocess.run(line, env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot read the manifest" in done.stdout and not done.stderr


@pytest.mark.parametrize(("options", "words"), [
    (("--device", "tpu"), "no device 'tpu'"), (("--device", "cuda", "--gpus", "0"), "the tasks request no GPU"),
    (("--mem-per-cpu", "abc"), "--mem-per-cpu abc: expected"), (("--mem", ""), "--mem : expected"),
    (("--mem", "9" * 400 + "G"), "expected an amount"), (("--gpus", "9" * 5000), "expected a number"),
])  # fmt: skip
def test_wrong_values_are_one_line(send: Any, options: tuple[str, ...], words: str) -> None:
    said = send(*options, code=2).stderr
    assert words in said and said.count("\n") == 1


def test_memory_of_cores_can_be_retried(slurm: FakeSlurm, send: Any, command: Any, tmp_path: Path) -> None:
    send("--mem-per-cpu", "1G", "--only", "two_moon/sd")
    slurm.become("OUT_OF_MEMORY")
    assert "submitted 2 runs" in command("retry", tmp_path / "s", "--mem", "x2", "--node-local").stdout
    assert "--mem-per-cpu=2G" in max(tmp_path.glob("s/slurm/2*/array-0.sh")).read_text()


def test_a_requeue_is_tried_until_the_controller_answers(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    slurm.set(down=True)
    monkeypatch.setattr(task, "GRACE", -1)
    assert (
        task.requeue(Slurm(), TaskIdentity("7", 0, "7")) == 4
        and "`spurbench submit` sends it again" in capsys.readouterr().out
    )


# ---- names ----------------------------------------------------------------------------------------------------------


def submitted(store: Store) -> None:
    """A submission of three cells with labels that are patterns, as the first versions wrote it."""
    text = "seeds: 0\ndatasets: [{dataset: two_moon, methods: [{method: sd, label: 'sd [ours]'}, "
    text += "{method: erm, label: 'erm*'}, {method: erm, label: 'erm?', training: {lr: 0.02}}]}]"
    (store.root / "g.yaml").write_text(text)
    planned = [(run, cell.label) for run, cell in expand(load_grid(str(store.root / "g.yaml")), {}).runs()]
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
        return [task.jobs[0].label for task in named(list(tasks(store)), patterns)]

    assert labels("sd [ours]") == ["sd [ours]"] and labels("erm?") == ["erm?"] and labels("two_moon/erm*") == ["erm*"]
    assert labels("7_0", "*?") == labels() == ["sd [ours]", "erm*", "erm?"]
    with pytest.raises(UserError, match="no submitted task or cell 'emr'; did you mean erm?"):
        named(list(tasks(store)), ["sd", "emr"])


@pytest.mark.parametrize("words", [("cancel",), ("logs",), ("retry", "--node-local")])
def test_a_mistyped_task_ends_with_the_nearest_name(
    words: tuple[str, ...], command: Any, tmp_path: Path, slurm: FakeSlurm
) -> None:
    store = Store.open(tmp_path / "s", create=True)
    submitted(store)
    said = command(*words, store.root, "sd [our]", code=2).stderr
    assert "did you mean sd [ours]?" in said and said.count("\n") == 1


def test_a_manifest_that_is_gone_is_one_line(slurm: FakeSlurm, command: Any, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s", create=True)
    folder = store.root / "slurm" / "20260101-000000-abc"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text('{"arrays": ["7"]}')
    said = command("status", store.root).stderr  # what else is known is shown
    assert "array-0.json is gone" in said and len(said.strip().splitlines()) == 1
    (tmp_path / "queue.py").write_text("raise RuntimeError('a file of the user')")
    line = [sys.executable, "-m", "spurbench.bench.cluster.task", folder / "array-0.json"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "was the store moved or deleted" in done.stdout


def test_a_damaged_manifest_hides_no_other_array(slurm: FakeSlurm, send: Any, command: Any, tmp_path: Path) -> None:
    """`status` tells what it can; `submit` does not know what it would send twice, and sends nothing."""
    send()
    next(arrays_of(Store.open(tmp_path / "s"))).manifest.write_text("{")
    said = command("status", tmp_path / "s", "--json")
    assert sum(row["queued"] for row in json.loads(said.stdout)) == 2 and "array-0.json is damaged" in said.stderr
    assert "array-0.json is damaged" in send(code=2).stderr


def test_one_answer_serves_who_looks_again_and_again(slurm: FakeSlurm, send: Any, tmp_path: Path) -> None:
    """`watch` asks SLURM once a minute."""
    send()
    store = Store.open(tmp_path / "s")
    before = len(slurm.calls("squeue"))
    for _ in range(5):
        assert len(describe_runs(store)) == 6
    assert len(slurm.calls("squeue")) - before <= 1
