"""How runs are laid out on machines: stack height, processes, threads. `make perf` measures what the rule rests on.

On a CPU one-thread processes side by side beat torch's threads: the steps of Two-Moon are too small to share between
threads, those of Colored MNIST fill a core by themselves. A few seeds in one process share what a small step spends
outside the network; large steps gain nothing from that. Threads are used only when there are fewer jobs than cores
and the step is large. On a GPU small kernels are bound by their launch, so all seeds of a cell are in one job, and
stacked in small steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.core.machine import cores, find_devices, most_threads
from spurbench.bench.core.terminal import plural
from spurbench.bench.training.execution import BIG_STEP

INPUTS = 100  # of a network, about
SMALL_HEIGHT = 5  # seeds in one process when steps are small; more gain little and wait for each other
GPU_HEIGHT = 16


@dataclass(frozen=True)
class Layout:
    """What each process computes on, and how many runs it trains together."""

    devices: tuple[str, ...]  # one entry a process
    height: int  # runs in one job when steps are small, or on a GPU
    threads: int  # for large steps
    inside: bool = False  # no processes: the jobs are done by the one that asks, one after the other
    place: str = ""  # where the processes are, if not on this machine

    @property
    def micro_batch(self) -> int:
        """Rows of a micro-batch: on a CPU what keeps activations in cache, on a GPU what keeps it busy."""
        return 1000 if self.devices[0] == "cpu" else 50_000

    def __str__(self) -> str:
        kinds = ", ".join(sorted(set(self.devices)))
        several = "threads" if self.threads > 1 else "thread"
        processes = "this process" if self.inside else f"{len(self.devices)} process{'es' * (len(self.devices) > 1)}"
        where = f"{self.place}: " if self.place else ""
        return f"{where}{processes} on {kinds}, {self.threads} {several} each, up to {self.height} seeds a job"

    def job_threads(self, flops: float) -> int:
        """Threads of a job each of whose steps costs so much."""
        return self.threads if flops > BIG_STEP else 1

    def job_height(self, flops: float, seeds: int) -> int:
        """Seeds in one job of a cell that has so many, each step costing so much."""
        if self.devices[0] != "cpu":
            return self.height
        return 1 if flops > BIG_STEP else min(self.height, -(-seeds // len(self.devices)))


def choose(device: str, jobs: int | None, threads: int | None, runs: int) -> Layout:
    """The layout for so many runs; `jobs` and `threads` are the user's, who asks for no processes with 0 jobs."""
    devices = find_devices(device)
    if jobs == 0:
        height = SMALL_HEIGHT if devices[0] == "cpu" else GPU_HEIGHT
        return Layout((devices[0],), height, threads or share(1, cores()), inside=True)
    return spread(devices, cores(), jobs, threads, runs)


def spread(devices: Sequence[str], cores: int, jobs: int | None, threads: int | None, runs: int) -> Layout:
    """The layout of so many runs over all devices, or over so many cores."""
    if devices[0].startswith("cuda"):
        slots = [d for d in devices for _ in range(max(1, (jobs or len(devices)) // len(devices)))]
        return Layout(tuple(slots), GPU_HEIGHT, threads or share(len(slots), cores))
    processes = max(1, min(jobs or cores, runs))
    return Layout(("cpu",) * processes, SMALL_HEIGHT, threads or share(processes, cores))


def choose_on_nodes(
    nodes: Sequence[tuple[int, int]], device: str, jobs: int | None, threads: int | None, runs: int
) -> Layout:
    """The same over several machines with so many cores and GPUs, for a pool that says which process gets which."""
    if jobs == 0:
        raise UserError("--jobs 0 starts no process anywhere: leave it or --launcher out")
    if device not in ("auto", "cpu", "cuda"):
        raise unknown("device", device, ("auto", "cpu", "cuda"))
    gpus = 0 if device == "cpu" else sum(gpus for _, gpus in nodes)
    if device == "cuda" and not gpus:
        raise UserError("--device cuda: no node has a GPU")
    used = [node for node in nodes if node[1 if gpus else 0]]
    room = [cores // (own if gpus else 1) for cores, own in used]  # cores that a process may have, by node
    most = max(room, default=0)
    if most < (threads or 1):
        on = " on each of its GPUs" if gpus else ""
        raise UserError(f"no node has {plural(threads or 1, 'core')} for a process{on}; the most is {most}")
    layout = spread(["cuda"] * gpus or ["cpu"], sum(cores for cores, _ in used), jobs, threads, runs)
    return replace(layout, threads=threads or max(1, min(layout.threads, *room)))


def share(processes: int, cores: int) -> int:
    """The threads of each of so many processes where the user has not said: their cores, or fewer if the environment
    asks for that."""
    return max(1, int(min(cores // processes, most_threads())))


def step_flops(training: Mapping[str, Any], rows: int) -> float:
    """Operations of one step on so many examples, forward and backward; the order of magnitude of an MLP's is used.

    Networks other than MLPs count as large until they are made: a job trains one seed, and processes side by side fill
    the cores. Where there are more cores than jobs, a job counts what its network does before it takes several threads.
    """
    if training.get("network") != "mlp":
        return inf if training else 0.0  # without settings nothing is trained
    width, layers = int(training.get("width", 1)), int(training["hidden_layers"])
    return 6.0 * rows * width * (1 + width * max(0, layers - 1) + INPUTS)
