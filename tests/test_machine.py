"""The machine is not as one expects: encodings, closed streams, no home folder, a read-only store, git that refuses."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.api import running
from spurbench.bench.core import machine, processes, terminal
from spurbench.bench.core.errors import MESSAGE, UserError, reason
from spurbench.bench.core.files import at_home, data_folder, home
from spurbench.bench.grid.load import load_grid
from spurbench.bench.launch import placement
from spurbench.bench.launch.pools import find_pool
from spurbench.bench.plugin_files import entry_points
from spurbench.bench.provenance import commit

ROOT = Path(__file__).parent.parent
MAIN = "from spurbench.bench.cli.main import main; main()"
GRID = """\
seeds: 0
datasets:
  - dataset: two_moon
    options: {examples: 20}
    training: {steps: 2}
    methods: [{method: erm, label: "erm λ ± [red]x[/red]"}, {method: sd, label: "sd \\e[31m"}, irm]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid and its store; the labels hold what a terminal may take for something else."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "g.yaml").write_text(GRID, encoding="utf-8")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        assert running.run(load_grid("g.yaml"), Path("s"), running.Settings(jobs=0)) == 0
    return folder


def told(folder: Path, *arguments: str, before: str = "", **changes: str | None) -> subprocess.CompletedProcess[bytes]:
    """The command in a changed environment, its streams as they are; `before` is done in its shell."""
    environment = {key: value for key, value in (os.environ | changes).items() if value is not None}
    line = f'{before}\nexec "$@"'
    return subprocess.run(
        ["bash", "-c", line, "-", sys.executable, "-c", MAIN, *arguments], cwd=folder, capture_output=True, timeout=120,
        env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip


# ---- what is read on a screen ---------------------------------------------------------------------------------------

POOR = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize(
    ("command", "poor"), list(zip(["status s", "leaderboard s --format markdown", "plan g.yaml"], POOR, strict=True))
)
def test_an_encoding_without_our_signs_is_no_error(made: Path, command: str, poor: dict[str, str]) -> None:
    done = told(made, *command.split(), **poor)
    assert done.returncode == 0, done.stderr.decode()
    assert rb"erm \u03bb" in done.stdout  # names stay apart


def test_a_poor_encoding_keeps_the_minus_of_a_number() -> None:
    out = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    terminal.codecs.register_error("spurbench", terminal.replace_unencodable)
    out.reconfigure(errors="spurbench")
    out.write("[−0.055, 0.065] ± 3 × λ")
    out.flush()
    assert out.buffer.getvalue() == rb"[-0.055, 0.065] ~ 3 x \u03bb"  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["status", "leaderboard", "watch"])
def test_text_of_a_record_is_neither_markup_nor_a_control_code(made: Path, command: str) -> None:
    done = told(made, command, "s")
    assert b"[red]x[/red]" in done.stdout and b"\x1b" not in done.stdout and rb"sd \x1b[31m" in done.stdout


def test_control_characters_are_shown() -> None:
    assert terminal.plain("a\x1b]0;t\x07b\r\u202ec\x9b1m\n") == "a\\x1b]0;t\\x07b\\r\\u202ec\\x9b1m\n"
    assert terminal.line("a\n b\r\nc\x85d") == "a b c d"
    assert len(terminal.line("x" * 10**6, 100)) < 140


def test_a_narrow_terminal_gets_every_value(made: Path) -> None:
    rows = [{"label": "erm", "done": 0, "note": None}, {"label": "sd " * 9, "done": 3, "note": "fine"}]
    found = str(terminal.table(rows, {"label": "method", "done": "done", "note": "note"}, "all", 20))
    assert found.split("\n\n") == ["all", "method: erm\ndone: 0", f"method: {'sd ' * 8}sd\ndone: 3\nnote: fine"]


@pytest.mark.parametrize(
    ("command", "closed"),
    [("leaderboard s", "exec >&-"), ("status s", "exec <&- >&- 2>&-"), ("run g.yaml --store s", "exec <&- 2>&-")],
)
def test_closed_streams_are_no_error(made: Path, command: str, closed: str) -> None:
    assert told(made, *command.split(), before=closed).returncode == 0


def test_a_run_goes_on_when_no_one_reads_along(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID, encoding="utf-8")
    gone = "exec 2> >(true) >/dev/full; wait $!"
    done = told(tmp_path, "run", "g.yaml", "--only", "erm", "--store", "s", before=gone)
    assert done.returncode == 0 and len(list(tmp_path.glob("s/records/*/*.json"))) == 1


def test_a_terminal_without_colours_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", type("Terminal", (), {"isatty": lambda self: True})())
    for name, colours in (("xterm", True), ("dumb", False), ("", False)):
        monkeypatch.setenv("TERM", name)
        assert terminal.coloured() is colours


def test_long_messages_keep_their_beginning_and_their_end() -> None:
    text = str(UserError(f"g.yaml:3: unknown key '{'k' * 10**6}'; there are: erm, sd"))
    assert text.startswith("g.yaml:3: unknown key 'kkk") and text.endswith("there are: erm, sd")
    assert len(text) < MESSAGE + 60

    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert reason(Silent()) == "Silent: no message" and reason(ValueError("a\n b")) == "ValueError: a b"


# ---- who one is, and where ------------------------------------------------------------------------------------------


def nowhere(*_: object) -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_these_tests_have_a_data_folder_of_their_own() -> None:
    """So do the processes that they start: what was read is remembered there, not among the user's data."""
    where = "from spurbench.bench.core.files import data_folder; print(data_folder())"
    said = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(data_folder()) != str(Path.home() / ".cache" / "spurbench" / "data")


def test_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert at_home(Path("~/x")) == Path.home() / "x" and at_home(Path("a~/~")) == Path("a~/~")
    with pytest.raises(UserError, match="no home folder for ~nosuchuser/x: set HOME"):
        at_home(Path("~nosuchuser/x"))
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(Path, "expanduser", nowhere)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert home() is None
    from spurbench.bench.cluster.resources import profile

    assert profile(None)[1] == {}
    with pytest.raises(UserError, match="no cluster in .*'mine'"):
        profile("mine")


def test_a_tilde_in_a_path_is_the_home_folder(made: Path, tmp_path: Path) -> None:
    """Bash leaves it in `--store=~/s`; a folder called `~` is one that someone deletes with `rm -rf ~`."""
    (tmp_path / "g.yaml").write_text(GRID, encoding="utf-8")
    done = told(made, "run", "~/g.yaml", "--only", "irm", "--store=~/s", HOME=str(tmp_path))
    assert done.returncode == 0 and (tmp_path / "s" / "spurbench-store.json").exists() and not (made / "~").exists()
    assert told(made, "status", "~nosuchuser/s").stderr.startswith(b"spurbench: no home folder for ~nosuchuser/s")


def test_a_read_only_store_can_be_looked_at(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "x")
    subprocess.run(["chmod", "-R", "a-w", tmp_path / "x"], check=True)
    bound = []
    if os.geteuid() == 0:  # to whom nothing is read-only, unless a right is taken away
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv, or not to be root")
        bound = ["setpriv", "--bounding-set=-dac_override"]

    def looked(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*bound, sys.executable, "-c", MAIN, *arguments], cwd=tmp_path / "x",
                              capture_output=True, text=True, timeout=120)  # fmt: skip

    for command in (["status", "s"], ["leaderboard", "s"], ["plan", "g.yaml"]):
        done = looked(*command)
        assert done.returncode == 0, done.stderr
    assert looked("run", "g.yaml", "--store", "s").returncode == 0  # there is nothing left to do
    done = looked("run", "--dataset", "two_moon", "--method", "erm", "--seeds", "7", "--store", "s")
    assert done.returncode == 2 and "Permission denied" in done.stderr.splitlines()[-1]
    subprocess.run(["chmod", "-R", "u+w", tmp_path / "x"], check=True)


# ---- code that is not meant -----------------------------------------------------------------------------------------


def test_files_here_hide_no_module_from_the_workers(tmp_path: Path) -> None:
    """As the installed command starts: a script elsewhere, whose own folder is on the path and this one is not."""
    here = tmp_path / "here"
    for name in ("selectors.py", "queue.py", "spurbench/__init__.py", "torch/__init__.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("raise SystemExit('a file of the user is imported')")
    (here / "g.yaml").write_text(GRID, encoding="utf-8")
    (tmp_path / "command").write_text(f"if __name__ == '__main__':\n    {MAIN}")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run([sys.executable, tmp_path / "command", "run", "g.yaml", "--store", "s", "--jobs", "1"],
                          cwd=here, env=environment, capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_processes_side_by_side_see_no_files_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    (tmp_path / "selectors.py").write_text("raise SystemExit('a file of the user is imported')")
    assert dict(processes.run_in_processes(len, ["a", "bc"], 2)) == {"a": 1, "bc": 2}
    assert "PYTHONSAFEPATH" not in os.environ


def test_without_semaphores_one_process_is_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(processes, "ProcessPoolExecutor", refused)
    with pytest.raises(UserError, match="Read-only file system.*--jobs 1"):
        list(processes.run_in_processes(len, ["a"], 2))


def test_the_environment_of_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with processes.environment(threads=2):
        assert (os.environ["PYTHONSAFEPATH"], os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == (
            "1", "2", "2",
        )  # fmt: skip
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ
    assert processes.variables() == {"PYTHONSAFEPATH": "1"}


BROKEN = {
    "raises": "raise RuntimeError('first\\nsecond')",
    "ends": "import sys; sys.exit('bye')",
    "late": "def add(app):\n    app.command('later')(lambda: None)\n    raise KeyError('late')",
    "run": "def add(app):\n    app.command('run')(lambda: print('not the real one'))",
    "odd": "def add(app):\n    @app.command()\n    def odd(x: 'int | list[dict]'): ...",
    "number": "add = 3",
}
GOOD = "def add(app):\n    app.command('hello')(lambda: print('hello there'))\nclass Launcher: pass"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with a package whose entry points are broken, each in its way, but for one."""
    for name, text in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(text)
    (tmp_path / "working.py").write_text(GOOD)
    commands = [f"{name} = broken_{name}:add" for name in BROKEN] + ["gone = nosuch:add", "good = working:add"]
    kinds = [f"[spurbench.{kind}s]\nbad = !!!\ngone = nosuch\n{kind} = broken_raises" for kind in ("method", "dataset")]
    text = "\n".join(["[spurbench.commands]", *commands, "[spurbench.launchers]", "q = working:Launcher",
                      "r = broken_raises:q", "[spurbench.pools]", "q = working:Launcher", "e = broken_ends",
                      *kinds])  # fmt: skip
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(text)
    return tmp_path


def test_broken_entry_points_are_named_and_stop_no_others(made: Path, installed: Path) -> None:
    path = f"{installed}:{os.environ.get('PYTHONPATH', '')}"
    done = told(made, "hello", PYTHONPATH=path)
    said = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (0, b"hello there\n"), said
    assert len(said) == len(BROKEN) + 3 and all(line.startswith("spurbench: left out the entry point") for line in said)
    assert any("raises = broken_raises:add of broken: RuntimeError: first second" in line for line in said)
    assert any("there is already a command 'run'" in line for line in said)
    assert any("q = working:Launcher of broken: expected a class derived from" in line for line in said)
    done = told(made, "status", "s", PYTHONPATH=path)
    assert done.returncode == 0 and b"irm" in done.stdout
    done = told(made, "list", PYTHONPATH=path)
    assert done.returncode == 0 and b"entry point nosuch: no such module" in b" ".join(done.stdout.split())


@pytest.mark.parametrize(("name", "words"), [
    ("q", "spurbench.pools: q = working:Launcher of broken: expected a class derived from spurbench.bench.launch.pool"),
    ("e", "spurbench.pools: e = broken_ends of broken: SystemExit: bye"),
])  # fmt: skip
def test_a_pool_that_cannot_be_used(name: str, words: str, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))
    with pytest.raises(UserError) as error:
        find_pool(name)
    assert words in str(error.value)


def test_a_package_with_a_damaged_list_of_entry_points_is_named(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installed / "broken-1.0.dist-info" / "entry_points.txt").write_text("[spurbench.commands]\nno equals sign\n")
    monkeypatch.syspath_prepend(str(installed))
    assert "slurm" in {entry.name for entry in entry_points.find_entry_points("spurbench.launchers")}
    assert any(line.startswith("the entry points of broken cannot be read") for line in entry_points.problems())


# ---- git ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit of a package."""
    root = tmp_path / "spurbench"
    (root / "bench").mkdir(parents=True)
    (root / "bench" / "a.py").write_text("x = 1\n")
    (root / "methods").mkdir()
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        git(root, *command)
    return root


def git(root: Path, *arguments: str) -> None:
    name = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", "-C", str(root), *name, *arguments], check=True, env=own)


def test_what_differs_from_the_commit_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook
    before = commit.code_of(checkout)
    assert before["commit"] and len(before["commit"]) == 40 and before["diff"] is None
    (checkout / "methods" / "münchen.py").write_bytes(b"# \xe9\n")
    new = commit.code_of(checkout)["diff"]
    (checkout / "methods" / "münchen.py").write_bytes(b"# \xe8\n")
    assert new and len(new) == 64 and commit.code_of(checkout)["diff"] not in (None, new)


def test_git_that_does_not_answer_is_not_read_as_nothing_changed(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(checkout, "worktree", "add", "-q", str(tmp_path / "beside"))
    assert commit.code_of(tmp_path / "beside") == commit.code_of(checkout)
    (tmp_path / "beside" / ".git").write_text("gitdir: /nowhere\n")
    found = commit.code_of(tmp_path / "beside")
    assert found == {"commit": None, "diff": "unknown: git: not a git repository: /nowhere"}
    monkeypatch.setattr(commit.subprocess, "run", refusing(checkout))
    found = commit.code_of(checkout)
    assert found["diff"] == "unknown: git: detected dubious ownership in repository at 'the checkout'"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit.code_of(checkout)["diff"] == "unknown: git is not installed"
    assert commit.code_of(tmp_path) == {"commit": None, "diff": None}  # no checkout


def test_the_code_of_a_record_in_words() -> None:
    sha = "0123456789abcdef"
    for diff, words in (
        (None, ""),
        ("f" * 64, " + uncommitted changes"),
        ("unknown: git: no", ", changes unknown: git: no"),
    ):
        assert commit.describe_code(sha, diff) == f"0123456789{words}"
    assert commit.describe_code(None, "unknown: no git") == "no commit, changes unknown: no git"


def refusing(root: Path) -> Any:
    said = f"fatal: detected dubious ownership in repository at '{root}'\nTo add an exception ...".encode()
    return lambda words, **_: subprocess.CompletedProcess(words, 128, b"", said)


# ---- cores and threads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("3:cpu,cpuacct:/x\n0::/\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n",
                                      "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 2.0),
        ("3:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ("0::/../..\n", {"cpu.max": "garbage\n"}, float("inf")),
        ("no groups\n", {}, float("inf")),
    ],
)  # fmt: skip
def test_cores_that_control_groups_grant(tmp_path: Path, groups: str, files: dict[str, str], expected: float) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    assert machine.granted_cores(tmp_path / "cgroup", tmp_path / "fs") == expected


def test_threads_are_no_more_than_the_environment_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cores", lambda: 16)
    for name in machine.THREADS:
        monkeypatch.delenv(name, raising=False)
    assert placement.choose("cpu", 2, None, 10).threads == 8
    for value, threads in (("3", 3), ("2,4", 2), ("99", 8), ("0", 8), ("many", 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert placement.choose("cpu", 2, None, 10).threads == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    assert placement.choose("cpu", 2, None, 10).threads == 1 and placement.choose("cpu", 2, 5, 10).threads == 5


@pytest.mark.parametrize(
    ("nodes", "asked", "device", "processes", "threads"),
    [
        ([(8, 0), (4, 0)], ("auto", None, None, 100), "cpu", 12, 1),
        ([(8, 0), (4, 0), (0, 0)], ("cpu", None, None, 2), "cpu", 2, 4),  # 6 would leave the second node empty
        ([(8, 0), (4, 0)], ("cpu", 3, 8, 100), "cpu", 3, 8),
        ([(64, 0), (16, 4), (16, 4)], ("auto", None, None, 100), "cuda", 8, 4),
        ([(64, 0), (16, 4)], ("cuda", 8, None, 100), "cuda", 8, 2),
        ([(64, 0), (16, 4)], ("cpu", None, None, 100), "cpu", 80, 1),
    ],
)
def test_runs_are_laid_out_over_nodes(
    nodes: Any, asked: Any, device: str, processes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in machine.THREADS:
        monkeypatch.delenv(name, raising=False)
    found = placement.choose_on_nodes(nodes, *asked)
    assert (found.devices, found.threads) == ((device,) * processes, threads)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("auto", 0, None, 9), "--jobs 0 starts no process"),
        (("cuda", None, None, 9), "no node has a GPU"),
        (("cuda:1", None, None, 9), "no device 'cuda:1'; did you mean cuda?"),
        (("auto", None, 9, 9), "no node has 9 cores for a process; the most is 8"),
    ],
)
def test_what_nodes_do_not_have(asked: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        placement.choose_on_nodes([(8, 0)], *asked)
    assert words in str(error.value)


def test_what_a_file_is_written_to(command: Any, tmp_path: Path) -> None:
    """A link is followed; a pipe is written to, and stays one."""
    import threading

    results = str(Path(__file__).parent.parent / "results" / "paper" / "records.jsonl.gz")
    target, link, pipe = (tmp_path / name for name in ("target", "link", "pipe"))
    target.write_text("before")
    link.symlink_to(target)
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    for out in (link, pipe):
        command("leaderboard", results, "--format", "csv", "--out", out)
    reader.join(60)
    assert link.is_symlink() and pipe.is_fifo() and got[0] == target.read_bytes() and len(got[0]) > 1000


def test_a_small_step_takes_one_thread_whatever_network_it_is_of() -> None:
    """Counted with the network, which stays as it is; so does the random stream, and what is in the identity."""
    import torch
    from torch import nn

    from spurbench.bench.jobs.job import Job
    from spurbench.bench.jobs.setup import set_up
    from spurbench.bench.plugins.registry import load_dataset
    from spurbench.bench.records.run import Run
    from spurbench.bench.training.execution import Options, count_flops

    network = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20), nn.Dropout(0.5))
    network[1].eval()
    state = torch.get_rng_state()
    assert count_flops(network, torch.zeros(1, 10)) == 3 * 2 * 10 * 20
    assert [part.training for part in network] == [True, False, True] and network[1].num_batches_tracked == 0
    assert torch.get_rng_state().equal(state)
    for width, threads in ((4, 1), (10_000, 3)):
        training = load_dataset("two_moon").training.flat() | {"width": width, "hidden_layers": 2}
        run = Run("two_moon", {"examples": 40}, 1, "erm", {}, training, "float32", 0)
        setup = set_up(Job([run], "erm", Options(threads=3)))
        assert setup.threads(setup.draw(run)) == threads
