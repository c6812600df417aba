"""Shared by all tests: the devices that are here, and the command as a user runs it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

sys.path.insert(0, str(Path(__file__).parent))
import warm

from spurbench.bench.cli.main import main
from spurbench.bench.plugin_files import discovery
from spurbench.bench.plugin_files.reader import PluginInfo, describe
from spurbench.bench.plugins import registry

torch.set_num_threads(
    1
)  # the tests' tensors are tiny; two threads waiting for each other take 20 × longer on a busy machine


@pytest.fixture(autouse=True)
def ordinary_numbers() -> Iterator[None]:
    """What a worker sets for its process is undone after a test that trains in this one."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def own_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is prepared, or remembered of files, is not written to the user's own data folder."""
    with pytest.MonkeyPatch.context() as here:
        here.setenv("SPURBENCH_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """What every command does first is done once for all commands of this process.

    Our own plug-in files are parsed, which no test alters, and the command line is put together; together they take
    longer than most commands here.
    """
    ours = cache(describe)

    def read(path: Path, name: str, kind: str | None = None, origin: str = "folder") -> PluginInfo:
        return (ours if path.parent in discovery.PACKAGES else describe)(path, name, kind, origin)

    with pytest.MonkeyPatch.context() as here:
        here.setattr(discovery, "describe", read)
        here.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn; CUDA is skipped visibly where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return str(request.param)


class Command:
    """`spurbench` in a process of its own."""

    line = (sys.executable, "-c", "from spurbench.bench.cli.main import main; main()")

    def __call__(self, *arguments: Any, code: int | None = 0, cwd: Any = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*self.line, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=240)
        assert code is None or done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: Any, cwd: Any = None) -> subprocess.Popen[str]:
        """The command in the background, in a process group of its own."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self.line, *map(str, arguments)], text=True, start_new_session=True, stdout=pipe, stderr=pipe, cwd=cwd
        )


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Waits until something has happened."""

    def wait(happened: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def spurbench() -> Command:
    return Command()


@pytest.fixture(scope="session")
def started(spurbench: Command) -> Callable[..., Any]:
    """`spurbench.start`, but torch is there already, which takes 6 seconds less with two workers.

    Where there is a GPU torch does not train in a forked process.
    """
    return spurbench.start if torch.cuda.is_available() else warm.start


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Any]]:
    """The same in this process, which has imported torch already; `run` does without workers, which had not."""

    def call(*arguments: Any, code: int | None = 0, cwd: Any = None) -> subprocess.CompletedProcess[str]:
        words = list(map(str, arguments))
        words += ["--jobs", "0"] if words[0] == "run" and "--jobs" not in words else []
        monkeypatch.setattr(sys, "argv", ["spurbench", *words])
        with monkeypatch.context() as here:
            if cwd is not None:
                here.chdir(cwd)
            with pytest.raises(SystemExit) as ended:
                main()
        said = capsys.readouterr()
        assert code is None or (ended.value.code or 0) == code, said
        registry.forget_plugins()
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), said.out, said.err)

    yield call
    registry.forget_plugins()
