"""Trouble between a store and a real SLURM: `python tests/chaos_slurm.py` starts one on this machine (as root).

`submit` is killed at random moments; slurmctld stops at random moments of `submit`, `status`, `cancel` and `collect`;
someone looks who may see less; the store is renamed while its tasks run. After each, one `status` and one `submit` must
do: the queue then holds every run once, and in the end the records are those of a local run, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spurbench.bench.cluster.submissions import tasks
from spurbench.bench.records.record import Record, agree
from spurbench.bench.store.store import Store

CLUSTER = Path(__file__).parents[1] / "slurm" / "local_cluster.sh"
LINE = [sys.executable, "-P", "-c", "from spurbench.bench.cli.main import main; main()"]
SEND = ("--node-local", "--gpus", "0", "--cpus", "1", "--mem", "500M", "--no-snapshot")
GRID = """\
name: trouble
seeds: 0
datasets:
  - dataset: two_moon
    options: {examples: 40}
    training: {steps: STEPS, width: 20}
    methods: [{method: erm, training: {lr: [0.01, 0.02]}}, {method: sd, label: sd λ, resources: {mem: 400M}}]
"""
RUNS = 3


@dataclass
class Trouble:
    """A store, and the commands that work on it."""

    folder: Path
    steps: int = 30

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.grid, self.store = self.folder / "g.yaml", self.folder / "a%j store"
        self.grid.write_text(GRID.replace("STEPS", str(self.steps)))
        (self.folder / "queue.py").write_text("raise RuntimeError('a file of the user')")  # is no module of ours

    def start(self, *words: Any, **environment: str) -> subprocess.Popen[str]:
        line = [*LINE, *map(str, words)]
        own = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"} | environment
        pipe = subprocess.PIPE
        return subprocess.Popen(line, cwd=self.folder, env=own, stdout=pipe, stderr=pipe, text=True, errors="replace")

    def say(self, *words: Any, **environment: str) -> str:
        """What a command prints, whatever its exit code."""
        return "".join(self.start(*words, **environment).communicate())

    def submit(self) -> str:
        return self.say("submit", self.grid, "--store", self.store, *SEND)

    def status(self, **environment: str) -> Counter[str]:
        rows = json.loads(self.say("status", self.store, "--json", **environment).partition("]\n")[0] + "]")
        return Counter(
            {name: sum(row[name] for row in rows) for name in ("queued", "running", "failed", "waiting", "done")}
        )

    def in_queue(self) -> Counter[str]:
        """How many tasks in the queue that are not void have each run to do."""
        living = set(slurm("squeue", "--noheader", "--array", "--format=%i").split())
        return Counter(id for task in tasks(Store.open(self.store)) if task.id in living for id in task.runs)


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def wait_for(happened: Callable[[], Any], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.2)


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    subprocess.run([CLUSTER, "start", folder], check=True, stdout=subprocess.PIPE)
    os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
    try:
        yield
    finally:
        subprocess.run([CLUSTER, "stop", folder], check=True)


def hold(state: str) -> None:
    """Let tasks wait (DOWN) or begin (UP)."""
    slurm("scontrol", "update", "PartitionName=gpu", f"State={state}")


def controller(up: bool) -> None:
    """Stop slurmctld, or start it, and wait until that is so."""
    if up:
        slurm("slurmctld")
    else:
        slurm("scontrol", "shutdown", "slurmctld")
    answers = ["scontrol", "ping"]
    wait_for(lambda: ("is UP" in slurm(*answers)) == up)


# ---- trouble --------------------------------------------------------------------------------------------------------


def killed(one: Trouble, moment: float) -> None:
    """`submit` gets a SIGKILL so many seconds after its start."""
    running = one.start("submit", one.grid, "--store", one.store, *SEND)
    try:
        running.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGKILL)
        running.communicate()


def without_controller(one: Trouble, moment: float, command: str) -> None:
    """slurmctld stops so many seconds after the start of a command, and is there again when that has ended."""
    if command != "submit":
        one.submit()
    words = ("submit", one.grid, "--store", one.store, *SEND) if command == "submit" else (command, one.store)
    running = one.start(*words)
    time.sleep(moment)
    controller(up=False)
    running.communicate()
    controller(up=True)
    hold("DOWN")  # what partitions are told does not outlive the controller


def onlooker(one: Trouble) -> None:
    """Someone looks whose shell, or whose rights, let the queue list less."""
    one.submit()
    found = one.status(SQUEUE_USERS="nobody", SQUEUE_PARTITION="high", SLURM_CLUSTERS="none")
    assert found["queued"] + found["running"] == RUNS, found


def settled(one: Trouble) -> dict[str, int]:
    """What is wrong once there was trouble, then one `status` and one `submit`."""
    if one.store.exists():
        one.status()
    one.submit()
    held, records = one.in_queue(), Store.open(one.store).records()[0]
    return {
        "failed": sum(record.status == "failed" for record in records),
        "lost": RUNS - len(held.keys() | {record.id for record in records}),
        "twice": sum(count - 1 for count in held.values()),
    }


def report(what: str, found: dict[str, int]) -> bool:
    print(f"{what}: {', '.join(f'{name} {value}' for name, value in found.items())}", flush=True)
    return any(found.values())


def local(folder: Path, steps: int) -> list[Record]:
    """What the records of a run without SLURM say."""
    one = Trouble(folder, steps)
    one.say("run", one.grid, "--store", one.store, "--jobs", 1, "--threads", 1)
    records = list(Store.open(one.store).whole_records())
    assert len(records) == RUNS
    return records


def differing(one: Trouble, unbroken: list[Record]) -> int:
    records = list(Store.open(one.store).whole_records())
    gone = [record for record in unbroken if not any(agree(record, other) for other in records)]
    return len(gone) + abs(len(records) - len(unbroken))


def finish(stores: list[Trouble], folder: Path) -> bool:
    """Let every task run to its end; whether any record is another than that of a local run."""
    unbroken = local(folder / "local", stores[0].steps)
    hold("UP")
    wait_for(lambda: not slurm("squeue", "--noheader").strip(), 1200)
    return report(
        f"{len(stores)} stores, in the end", {"records that differ": sum(differing(s, unbroken) for s in stores)}
    )


def renamed(folder: Path, steps: int) -> bool:
    """The store moves while its tasks run; they notice it, and the next `submit` goes on from what they saved."""
    one = Trouble(folder / "renamed", steps)
    hold("UP")
    one.submit()
    wait_for(lambda: len(list(one.store.glob("claims/*/*.json"))) >= 2)
    new = one.store.with_name("another place")
    one.store.rename(new)
    one.store = new
    one.status()
    one.submit()
    wait_for(lambda: not slurm("squeue", "--noheader").strip(), 1200)
    unbroken = local(folder / "unmoved", steps)
    old = folder / "renamed" / "a%j store"
    return report(
        "renamed in mid-run", {"records that differ": differing(one, unbroken), "left behind": int(old.exists())}
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="of each kind of random trouble (10)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    generator = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with cluster(folder / "slurm"):
            return int(everything(folder, given.rounds, generator))


def everything(folder: Path, rounds: int, generator: random.Random, steps: int = 20_000) -> bool:
    """All of it, on a cluster that is up; whether anything was wrong. `steps`: of the runs whose store is renamed."""
    bad, stores = False, []
    hold("DOWN")
    for n in range(rounds):
        one, moment = Trouble(folder / f"killed-{n}"), generator.uniform(0.3, 3.0)
        killed(one, moment)
        bad |= report(f"submit killed after {moment:.2f} s", settled(one))
        stores.append(one)
    for n in range(rounds):
        command = ("submit", "status", "cancel", "collect")[n % 4]
        one, moment = Trouble(folder / f"controller-{n}"), generator.uniform(0.0, 1.5)
        without_controller(one, moment, command)
        bad |= report(f"slurmctld gone {moment:.2f} s after the start of {command}", settled(one))
        stores.append(one)
    one = Trouble(folder / "looked-at")
    onlooker(one)
    bad |= report("looked at by one who sees less", settled(one))
    bad |= finish([*stores, one], folder)
    return bool(bad | renamed(folder, steps))


if __name__ == "__main__":
    sys.exit(main())
