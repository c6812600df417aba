"""A launcher of no cluster: tasks are processes of this machine; what is known of them lies in the folder $SPOOL."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from spurbench.bench.cluster.arrays import Array
from spurbench.bench.cluster.launcher import (
    Answers,
    CancelFailure,
    Launcher,
    Receipt,
    Request,
    TaskIdentity,
    TaskReport,
)

TASK = "SPOOL_JOB={job} SPOOL_INDEX={index} sh {script} > {log} 2>&1; echo $? > {end}"


class Spool(Launcher):
    name, title = "spool", "the spool"

    def check(self, store: Path, dry_run: bool) -> None:
        pass

    def responds(self) -> bool:
        return "SPOOL" in os.environ

    def script(self, request: Request) -> str:
        lines = [f"# {request.tasks} tasks of {request.array.token}", *request.resources.setup]
        return "\n".join([*lines, f"export PYTHONPATH='{request.code}'" if request.code else "", request.command, ""])

    def send(self, array: Array, after: Sequence[str]) -> Receipt:
        job = len(list(spool().iterdir())) + 1
        folder = spool() / str(job)
        folder.mkdir()
        (folder / "token").write_text(array.token)
        for index in range(int(array.script.read_text().split()[1])):
            log, end = array.folder / "logs" / f"{array.number}.{index}.log", folder / f"{index}.end"
            line = TASK.format(job=job, index=index, script=array.script, log=log, end=end)
            none = subprocess.DEVNULL
            task = subprocess.Popen(["sh", "-c", line], start_new_session=True, stdin=none, stdout=none, stderr=none)
            (folder / f"{index}.pid").write_text(str(task.pid))
        return Receipt(str(job))

    def ask(self, arrays: Iterable[Array]) -> Answers:
        found = Answers({array.token: array for array in arrays})
        for array in found.arrays.values():
            for pid in (spool() / str(array.id)).glob("*.pid"):
                end = pid.with_suffix(".end")
                killed = ("killed", f"exit code {end.read_text().strip()}") if end.exists() else None
                found.tasks[array.token, int(pid.stem)] = TaskReport("over" if killed else "running", "", killed)
        return found

    def find(self, arrays: Iterable[Array]) -> dict[str, str]:
        known = {token.read_text(): token.parent.name for token in spool().glob("*/token")}
        return {array.token: known[array.token] for array in arrays if array.token in known}

    def cancel(self, ids: Sequence[str], cluster: str | None) -> CancelFailure | None:
        for id in ids:
            job, _, index = id.partition("_")
            for pid in (spool() / job).glob(f"{index or '*'}.pid"):  # a task, or a whole array
                with suppress(ProcessLookupError):
                    os.killpg(int(pid.read_text()), signal.SIGKILL)
                pid.with_suffix(".end").write_text("137")
        return None

    def here(self) -> TaskIdentity | None:
        job, index = os.environ.get("SPOOL_JOB"), os.environ.get("SPOOL_INDEX", "0")
        return TaskIdentity(job, int(index), f"{job}_{index}") if job else None


def spool() -> Path:
    return Path(os.environ["SPOOL"])
