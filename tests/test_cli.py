"""The command line: a user's mistakes are one line and exit code 2, listing is quick."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spurbench.bench.cli.main import main
from spurbench.bench.core.machine import cores
from spurbench.bench.evaluation.monitor import Monitor
from spurbench.bench.launch import estimate
from spurbench.bench.training.engine import Engine

TINY = ["--dataset", "two_moon", "--method", "erm", "--seeds", "0", "--set", "training.steps=3"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "quik"], "no grid 'quik'; did you mean quick?"),
        (["run", "--dataset", "two_mon", "--method", "erm"], "did you mean two_moon?"),
        (["run", "--dataset", "two_moon", "--method", "emr"], "did you mean erm?"),
        (["run", *TINY, "--set", "training.stepz=3"], "did you mean steps?"),
        (["run", *TINY, "--set", "training.steps=three"], "steps"),
        (["run", *TINY, "--seeds", "1,2,1"], "twice"),
        (["run", *TINY, "--device", "tpu"], "no device 'tpu'"),
        (["run", *TINY, "--checkpoint-seconds", "nan"], "nan: expected a number of seconds"),
        (["run", *TINY, "--set", "training.lr=1e300"], "lr"),
        (["run"], "name a grid"),
        (["run", "quick", "--method", "erm"], "either a grid or"),
        (["run", "quick", "--precision", "half"], "no precision 'half'"),
        (["plan", "no/such.yaml"], "no/such.yaml"),
        (["leaderboard", "no-such-store"], "no store at no-such-store"),
        (["status", "no-such-store"], "no store at no-such-store"),
        (["list", "method"], "did you mean methods?"),
        (["data", "verify", "mnist"], "no dataset 'mnist'"),
        (["check-method", "no_such"], "no method 'no_such'"),
        (["new-method", "Not A Name"], "Not A Name"),
        (["new-method", "selectors"], "a module of Python or of an installed package"),
        (["leaderboard", "no-such-store", "--out", "."], "'.' is a folder: name the file to write"),
        (["pack", "no-such-store", ".."], "'..' is a folder"),
        (["plan", "/dev/zero"], "too large for a file of settings"),
        (["run", "--plugin", "missing.py", *TINY], "missing.py"),
    ],
)
def test_mistakes_are_one_line(command: Any, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = command(*arguments, code=2, cwd=tmp_path)
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.rglob("*.json"))


def test_a_grid_of_which_nothing_could_begin_leaves_no_row(command: Any, tmp_path: Path) -> None:
    """An option that only the dataset itself can judge is refused in the worker."""
    done = command("run", *TINY, "--set", "two_moon.examples=1", "--store", "s", code=2, cwd=tmp_path)
    assert "each class needs one" in done.stderr
    assert not list(tmp_path.rglob("plans/*.json"))
    command("run", *TINY, "--store", "s", cwd=tmp_path)
    command("run", *TINY, "--set", "two_moon.examples=1", "--store", "s", code=2, cwd=tmp_path)
    assert len(list(tmp_path.rglob("plans/*.json"))) == 1


def test_a_grid_file_error_names_file_line_and_key(command: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "datasets:\n  - dataset: two_moon\n    methods:\n      - method: erm\n        sedes: 3\n"
    )
    assert re.search(r"mine.yaml:5: .*sedes", command("run", "mine.yaml", code=2, cwd=tmp_path).stderr)


@pytest.mark.parametrize(
    ("text", "words"), [("def broken(:\n", "syntax error"), ("import no_such_package_here\n", "no_such_package_here")]
)
def test_a_broken_plugin_is_listed_with_its_reason(command: Any, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    assert words in command("run", "--plugin", "mine.py", *TINY, "--method", "mine", code=2, cwd=tmp_path).stderr


def test_damaged_records_are_named_and_set_aside(command: Any, tmp_path: Path) -> None:
    arguments = ["run", "--dataset", "two_moon", "--method", "erm", "--seeds", "0-2", "--set", "training.steps=3"]
    command(*arguments, "--store", tmp_path / "s")
    cut, edited, good = sorted((tmp_path / "s").glob("records/*/*.json"))
    cut.write_text(cut.read_text()[:100])
    edited.write_text(edited.read_text().replace('"status":"done"', '"status":"fine"'))
    said = command("leaderboard", tmp_path / "s").stdout
    assert cut.stem in said and edited.stem in said
    rows = json.loads(command("leaderboard", tmp_path / "s", "--format", "json").stdout)
    assert {(row["n"], row["n_planned"]) for row in rows} == {(1, 3)}
    said = command(*arguments, "--store", tmp_path / "s").stderr
    assert "set aside" in said and len(list((tmp_path / "s" / "set-aside").iterdir())) == 2
    rows = json.loads(command("leaderboard", tmp_path / "s", "--format", "json").stdout)
    assert {(row["n"], row["n_planned"]) for row in rows} == {(3, 3)} and good.exists()


def test_a_newer_store_is_refused(command: Any, tmp_path: Path) -> None:
    (tmp_path / "spurbench-store.json").write_text('{"schema": 99}')
    assert "newer spurbench" in command("leaderboard", tmp_path, code=2).stderr
    assert "newer spurbench" in command("run", *TINY, "--store", tmp_path, code=2).stderr


def test_a_checkpoint_of_another_version_is_refused(command: Any, tmp_path: Path) -> None:
    from spurbench.bench.grid.ad_hoc import adhoc_grid
    from spurbench.bench.grid.expand import expand
    from spurbench.bench.store.checkpoints import LAYOUT

    ((run, _),) = expand(adhoc_grid("two_moon", ["erm"], "0", ["training.steps=3"]), {}).runs()
    checkpoint = tmp_path / "s" / "checkpoints" / f"{run.id}.pt"
    command("run", *TINY, "--seeds", "1", "--store", tmp_path / "s")
    checkpoint.parent.mkdir(exist_ok=True)
    torch.save({"version": 0}, checkpoint)
    said = command("run", *TINY, "--store", tmp_path / "s", code=2).stderr
    assert f"has layout 0, this spurbench reads {LAYOUT}" in said and "done in" not in said and checkpoint.exists()
    torch.save({"version": LAYOUT}, checkpoint)
    assert "cannot read the checkpoint" in command("run", *TINY, "--store", tmp_path / "s", code=2).stderr
    checkpoint.write_bytes(b"not a checkpoint")
    assert "cannot read the checkpoint" in command("run", *TINY, "--store", tmp_path / "s", code=2).stderr


def test_a_full_disk_is_one_line(command: Any, tmp_path: Path) -> None:
    said = command("run", *TINY, "--store", "/dev/full/store", code=2).stderr
    assert "/dev/full" in said and "Traceback" not in said


def test_a_file_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["spurbench", *arguments])
        with pytest.raises(SystemExit, match="2"):
            main()
        said = capsys.readouterr().err
        assert said.startswith("spurbench: cannot write") and said.count("\n") == 1
        return said

    packed = str(Path(__file__).parent.parent / "results" / "paper" / "records.jsonl.gz")
    assert "/proc/x" in refused("leaderboard", packed, "--out", "/proc/x/y")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = refused("leaderboard", packed, "--out", str(tmp_path / "board.txt"))
    assert "board.txt: No space left" in said and not list(tmp_path.iterdir())


def test_help_and_list_import_nothing_heavy() -> None:
    program = "import sys; from spurbench.bench.api import catalogue; catalogue.list_rows(''); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "spurbench.bench.plugins.registry" in loaded, done.stderr
    assert not loaded & {"torch", "scipy", "sklearn", "pandas", "numpy"}


def test_new_method_passes_its_check_runs_and_is_probed(command: Any, tmp_path: Path) -> None:
    command("new-method", "mine", cwd=tmp_path)
    assert "FAIL" not in command("check-method", "mine.py", cwd=tmp_path).stdout
    command("run", "--plugin", "mine.py", *TINY, "--method", "mine", "--store", "s", cwd=tmp_path)
    rows = json.loads(command("leaderboard", "s", "--format", "json", cwd=tmp_path).stdout)
    assert {row["method"] for row in rows} == {"erm", "mine"}
    probe = ("probe", "s", "--cell", "mine", "--features", 2, "--points", 2)
    assert "--plugin FILE" in command(*probe, code=2, cwd=tmp_path).stderr
    assert "two_moon × mine" in command(*probe, "--plugin", "mine.py", cwd=tmp_path).stdout


def test_not_applicable_cells_are_shown(command: Any, tmp_path: Path) -> None:
    command("run", *TINY, "--method", "irm", "--store", tmp_path / "s")
    assert "n/a: needs environments" in command("status", tmp_path / "s").stdout
    assert "n/a: needs environments" in command("leaderboard", tmp_path / "s").stdout


def test_finished_grid_is_left_alone_and_packs(command: Any, tmp_path: Path) -> None:
    command("run", *TINY, "--store", tmp_path / "s")
    (record,) = (tmp_path / "s").glob("records/*/*.json")
    before = record.stat().st_mtime_ns
    command("run", *TINY, "--store", tmp_path / "s")
    assert record.stat().st_mtime_ns == before
    command("pack", tmp_path / "s", tmp_path / "s.jsonl.gz")
    one, other = (command("leaderboard", tmp_path / name, "--format", "csv").stdout for name in ("s", "s.jsonl.gz"))
    assert one == other


def test_doctor_finds_this_machine_in_order(command: Any, tmp_path: Path) -> None:
    said = json.loads(command("doctor", "--json", cwd=tmp_path).stdout)
    assert all(row["ok"] for row in said) and {"bf16", "plug-ins", "data"} <= {row["what"] for row in said}


def test_estimate_projects_from_a_few_steps(command: Any, tmp_path: Path) -> None:
    cell = ["--dataset", "colored_mnist", "--method", "erm", "--method", "random"]
    sets = ["--set", "training.steps=5000", "--set", "colored_mnist.train_size=2000"]
    found = command("estimate", *cell, *sets, "--json", cwd=tmp_path)
    erm, chance = json.loads(found.stdout)
    assert (erm["rows"], erm["steps"], erm["runs"], erm["parameters"]) == (2000, 5000, 10, 208_501)
    assert 0 < erm["seconds_per_step"] < 5 and erm["total_seconds"] == pytest.approx(10 * erm["seconds"])
    assert "seconds_per_step" not in chance and "2: colored_mnist × random" in found.stderr
    assert not list(tmp_path.iterdir())


def test_estimate_counts_looks_and_seeds_that_train_together(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a step takes one second, a look at the held-out splits ten, a point of the curve a half."""
    clock = [0.0]

    def takes(seconds: float, action: Any) -> Any:
        def timed(*given: Any) -> Any:
            clock[0] += seconds
            return action(*given)

        return timed

    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    for owner, name, seconds in (
        (Engine, "update", 1.0),
        (Monitor, "evaluate", 10.0),
        (Monitor, "extend_history", 0.5),
    ):
        monkeypatch.setattr(owner, name, takes(seconds, getattr(owner, name)))
    (tmp_path / "g.yaml").write_text(
        "seeds: 0-9\ndatasets:\n  - {dataset: two_moon, methods: [erm]}\n  - dataset: two_shortcuts\n"
        "    training: {steps: 1000, evaluate: 500}\n"
        "    methods: [erm, {method: erm, label: ten looks, training: {evaluate: 100}}]\n"
    )
    small, twice, ten_times = json.loads(command("estimate", "g.yaml", "--json", cwd=tmp_path).stdout)
    assert small["together"] == min(5, -(-10 // cores()))
    assert small["seconds"] == (10_000 + 20 * 0.5) / small["together"]
    assert (twice["seconds"], ten_times["seconds"]) == (1000 + 20 * 0.5 + 2 * 10, 1000 + 20 * 0.5 + 10 * 10)


def test_estimate_tells_a_search_from_the_runs_it_decides(command: Any, tmp_path: Path) -> None:
    """Each has a protocol of its own: what was measured of one is not multiplied by the updates of the other."""
    search = "{draws: 2, rule: test_accuracy, seeds: 0, options: {train_size: 500}, training: {steps: 10}}"
    (tmp_path / "g.yaml").write_text(
        "seeds: 0-3\ndatasets: [{dataset: colored_mnist, options: {train_size: 1000}, training: {steps: 100}, "
        f"methods: [{{method: sd, search: {search}}}]}}]\n"
    )
    (row,) = json.loads(command("estimate", "g.yaml", "--json", cwd=tmp_path).stdout)
    assert (row["rows"], row["steps"], row["runs"]) == (1000, 100, 6)
    assert row["seconds"] == pytest.approx(100 * row["seconds_per_step"]) and row["total_seconds"] > 4 * row["seconds"]
