"""Processes killed, stopped and hindered while a small grid is run, again and again; then everything is compared.

`python tests/chaos.py --kills 200` does it for real: random SIGKILLs of launcher, worker and the whole group, a SIGKILL
before each operation on the store's files in turn, a stop longer than a claim lives, a full disk, a clock 20 minutes
ahead. What must hold in the end: no run failed, none was lost, none done twice, every record and prediction equals that
of a store which nothing disturbed, and nothing is left over. tests/test_chaos.py does a few of each.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spurbench.bench.records.record import OUTSIDE
from spurbench.bench.store.store import Store

GRID = """
name: chaos
seeds: 0-{last}
datasets:
  - dataset: points
    training: {{steps: 600, width: 60}}
    methods: [erm, sd, lff, {{method: erm, label: dropped out, training: {{dropout: 0.5}}}}]
"""
POINTS = Path(__file__).with_name("points.py")
LINE = [sys.executable, "-c", "from spurbench.bench.cli.main import main; main()"]
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.utime", "os.truncate"}  # of Python's audit, on files
LOOSE = ("digest", "cost", "provenance")  # of a record: what may differ between two runs of the same thing

# Put on the path of every process that is disturbed. CHAOS_LOG gets a line for each record that is in place; with
# CHAOS_CLOCK the clock is so many seconds ahead; while the file CHAOS_FULL is there, the disk of the store is full.
CUSTOM = """
import errno, os, sys, time
log, clock, full = (os.environ.get(name) for name in ("CHAOS_LOG", "CHAOS_CLOCK", "CHAOS_FULL"))
if clock:
    now = time.time
    time.time = lambda: now() + float(clock)
if log:
    replace = os.replace
    def put(source, target, **more):
        replace(source, target, **more)
        if "/records/" in str(target) and b'"status":"done"' in open(target, "rb").read():
            with open(log, "a") as file:
                file.write(os.path.basename(str(target)) + "\\n")
    os.replace = put
if full:
    def hear(event, arguments):
        writes = event == "open" and "w" in str(arguments[1] or "") and "/store/" in str(arguments[0])
        if writes and os.path.exists(full):
            raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))
    sys.addaudithook(hear)
"""


def start_anew(line: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A command of spurbench that knows what is done to it, in an environment of its own; what it says is kept."""
    path = os.pathsep.join([str(folder / "path"), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = os.environ | {"PYTHONPATH": path} | environment
    with open(folder / "said", "a") as said:
        return subprocess.Popen([*LINE, *line], env=own, stdout=said, stderr=said, text=True, start_new_session=True)


@dataclass
class Chaos:
    """A store that is disturbed, and how its launcher is started."""

    folder: Path
    seeds: int = 4
    jobs: int = 2
    random: random.Random = field(default_factory=lambda: random.Random(0))
    launch: Callable[[list[str], Path, dict[str, str]], Any] = start_anew

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "grid.yaml").write_text(GRID.format(last=self.seeds - 1))
        (self.folder / "path").mkdir(exist_ok=True)
        (self.folder / "path" / "sitecustomize.py").write_text(CUSTOM)
        self.store = self.folder / "store"

    def start(self, **environment: str) -> Any:
        """The launcher in the background, in a process group of its own."""
        own = {"CHAOS_LOG": str(self.folder / "log"), **environment}
        line = ["run", str(self.folder / "grid.yaml"), "--plugin", str(POINTS), "--store", str(self.store),
                "--jobs", str(self.jobs), "--checkpoint-seconds", "0.1"]  # fmt: skip
        return self.launch(line, self.folder, own)

    def finish(self, **environment: str) -> None:
        """Run to the end, undisturbed but for what the environment says."""
        running = self.start(**environment)
        assert running.wait(timeout=600) == 0, (self.folder / "said").read_text()[-3000:]

    # ---- what is done to it -----------------------------------------------------------------------------------------

    def kill(self, what: str, within: float, saved: bool = False) -> None:
        """Start, wait a random while, SIGKILL the launcher, one of its workers, or all; wait until none is left.

        With `saved` the while begins when a run has saved its state, which is later than all that comes before.
        """
        before = self.saved()
        running = self.start()
        if saved:
            wait_until(lambda: self.saved() - before)
        try:
            running.wait(timeout=self.random.uniform(0, within))
        except subprocess.TimeoutExpired:
            workers = children(running.pid)
            assert workers or not saved
            victim = self.random.choice(workers) if what == "worker" and workers else running.pid
            if what == "group":
                os.killpg(running.pid, signal.SIGKILL)
            else:
                os.kill(victim, signal.SIGKILL)
            if what == "worker":
                running.wait(timeout=600)  # it gives the job to another
        running.wait(timeout=600)
        wait_until(lambda: not group(running.pid))  # orphans save their state and end

    def stop_longer_than_a_claim(self) -> None:
        """Stop a worker until another launcher has taken its run over and done it; then let it go on."""
        short = {"SPURBENCH_CLAIM_SECONDS": "2"}
        running = self.start(**short)
        wait_until(lambda: self.saved() or running.poll() is not None)
        held = children(running.pid)
        for pid in (running.pid, *held):
            os.kill(pid, signal.SIGSTOP)
        self.finish(**short)
        for pid in (running.pid, *held):
            os.kill(pid, signal.SIGCONT)
        assert running.wait(timeout=600) == 0, (self.folder / "said").read_text()[-3000:]

    def fill_the_disk(self) -> None:
        """No file of the store can be written for a while; then there is room again."""
        full = self.folder / "full"
        running = self.start(CHAOS_FULL=str(full))
        wait_until(lambda: self.store.exists() and claims(self.store) or running.poll() is not None)
        full.touch()
        assert running.wait(timeout=600) in (0, 2), running.returncode
        full.unlink()

    def put_the_clock_ahead(self) -> None:
        """Two launchers at once, the clock of one 20 minutes ahead."""
        both = [self.start(), self.start(CHAOS_CLOCK="1200")]
        assert [running.wait(timeout=600) for running in both] == [0, 0]

    def saved(self) -> set[tuple[str, int]]:
        """The states of runs that there are, by file and time."""
        found = set()
        for path in self.store.glob("checkpoints/*.pt"):
            with suppress(FileNotFoundError):  # it is removed when the run is done
                found.add((path.name, path.stat().st_mtime_ns))
        return found

    # ---- what must hold ---------------------------------------------------------------------------------------------

    def failures(self) -> list[str]:
        """Runs that are said to have failed by themselves."""
        if not (self.store / "spurbench-store.json").exists():
            return []
        records, unusable = Store.open(self.store).records()
        assert not unusable, unusable
        causes = [record.cause.kind for record in records if record.cause]
        return [kind for kind in causes if kind not in OUTSIDE]

    def done_twice(self) -> list[str]:
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return sorted({name for name in lines if lines.count(name) > 1})


def science(store: Path) -> list[dict[str, Any]]:
    """The records without what may differ between two runs of the same thing."""
    records = [record.to_dict() for record in Store.open(store).whole_records()]
    return [{key: record[key] for key in record if key not in LOOSE} for record in records]


def predictions(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("predictions/*/*.npz")}


def leftovers(store: Path) -> list[str]:
    """Whatever is in a store beside its records, what is kept of them, and its plans."""
    kept = {"records", "predictions", "drawings", "plans"}
    return [
        str(path.relative_to(store))
        for path in store.rglob("*")
        if path.is_file() and path.name != "spurbench-store.json"
        and (path.relative_to(store).parts[0] not in kept or path.name.startswith("."))
    ]  # fmt: skip


def compare(disturbed: Path, unbroken: Path) -> dict[str, int]:
    """How many records there are, and how many differ from the store that nothing disturbed."""
    ours, theirs = ({record["id"]: record for record in science(store)} for store in (disturbed, unbroken))
    return {
        "records": len(ours),
        "lost": len(theirs.keys() - ours.keys()),
        "records that differ": sum(ours.get(id) != record for id, record in theirs.items()),
        "predictions that differ": sum(
            predictions(disturbed).get(name) != content for name, content in predictions(unbroken).items()
        ),
        "left over": len(leftovers(disturbed)),
    }


def claims(store: Path) -> dict[str, Any]:
    return Store(store).claims.living()


def children(pid: int) -> list[int]:
    """The worker processes of a launcher."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def group(leader: int) -> list[int]:
    """The living processes of a group; one that has ended but was not waited for does not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(number) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until(happened: Callable[[], Any], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


# ---- a SIGKILL before each operation in turn ------------------------------------------------------------------------


def killed_at(operation: int, work: Callable[[], Any], store: Path) -> bool:
    """Do the work in a process of its own and SIGKILL it before its n-th operation on a store's files.

    False if it came to its end before.
    """
    pid = os.fork()
    if pid == 0:
        left = [operation]

        def hear(event: str, arguments: tuple[Any, ...]) -> None:
            if event in EVENTS and str(arguments[0]).startswith(str(store)):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.addaudithook(hear)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, "it raised"
    return os.WIFSIGNALED(status)


def small_job(store: Path) -> Callable[[], Any]:
    """A worker's job of three runs, trained as one stack, that saves its state before every step."""
    from spurbench.bench.grid.ad_hoc import adhoc_grid
    from spurbench.bench.grid.expand import expand
    from spurbench.bench.jobs.job import Job
    from spurbench.bench.jobs.setup import set_up
    from spurbench.bench.jobs.worker import run_job
    from spurbench.bench.plugins import registry
    from spurbench.bench.training.execution import Options

    registry.add_plugin(POINTS)
    planned = [run for run, _ in expand(adhoc_grid("points", ["lff"], "0-2", ["training.steps=4"]), {}).runs()]
    job = Job(planned, "lff", Options(history=2, checkpoint_seconds=-1))
    set_up(job)  # imported here once, not in every process that is killed
    return lambda: run_job(job, Store.open(store, create=True), lambda step: None, lambda: False)


def kill_at_every_operation(folder: Path, every: int = 1) -> dict[str, int]:
    """The small job, killed before one of its operations on the store and then done, for each operation in turn.

    Every store, and one that all the kills hit, is compared with one that nothing disturbed; the sums of what is wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unbroken, often = folder / "unbroken", folder / "often"
    assert not killed_at(0, small_job(unbroken), unbroken)  # in this process torch's threads stay unused
    found, operation, killed = Counter[str](), 1, True
    while killed:
        once = folder / f"killed-{operation}"
        killed = killed_at(operation, small_job(once), once)
        assert not killed_at(0, small_job(once), once)
        found.update({"kills": killed + killed_at(operation, small_job(often), often), **checked(once, unbroken)})
        operation += every
    found.update(checked(often, unbroken))
    return dict(found)


def checked(store: Path, unbroken: Path) -> dict[str, int]:
    Store.open(store).tidy()
    return compare(store, unbroken)


# ---- all of it ------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="random SIGKILLs (default 200)")
    parser.add_argument("--within", type=float, default=8.0, help="seconds after the start in which they come")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-kills", action="store_true", help="the random SIGKILLs alone")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        bad = random_kills(folder, given.kills, given.within, given.seed)
        return int(bad if given.only_kills else bad | other_trouble(folder))


def unbroken(folder: Path) -> Path:
    """The store of a grid that nothing disturbs."""
    one = Chaos(folder / "unbroken")
    if not one.store.exists():
        one.finish()
    return one.store


def random_kills(folder: Path, kills: int, within: float, seed: int) -> bool:
    """SIGKILLs in rounds of twelve, each of launcher, worker and group in turn; whether anything was wrong after."""
    generator, bad = random.Random(seed), False
    for at in range(0, kills, 12):
        chaos, wrong, each = Chaos(folder / f"round-{at}", random=generator), list[str](), min(12, kills - at)
        for n in range(each):
            chaos.kill(("launcher", "worker", "group")[n % 3], within)
            wrong += chaos.failures()
        bad |= finished(chaos, f"{each} random SIGKILLs", wrong, unbroken(folder))
    return bad


def other_trouble(folder: Path) -> bool:
    """Everything else that is tried; whether anything was wrong after."""
    bad = report("a SIGKILL before each operation on the store", kill_at_every_operation(folder / "operations"))
    for what in ("stop_longer_than_a_claim", "fill_the_disk", "put_the_clock_ahead"):
        chaos = Chaos(folder / what)
        getattr(chaos, what)()
        bad |= finished(chaos, what.replace("_", " "), chaos.failures(), unbroken(folder))
    return bad


def finished(chaos: Chaos, what: str, wrong: list[str], unbroken: Path) -> bool:
    """Run a disturbed grid to its end and report what became of it."""
    chaos.finish()
    found = compare(chaos.store, unbroken)
    return report(what, found | {"failed": len(wrong), "done twice": len(chaos.done_twice())})


def report(what: str, found: dict[str, int]) -> bool:
    """Print a line; whether anything in it is wrong."""
    print(f"{what}: {', '.join(f'{name} {value}' for name, value in found.items())}", flush=True)
    return any(value for name, value in found.items() if name not in ("kills", "records"))


if __name__ == "__main__":
    sys.exit(main())
