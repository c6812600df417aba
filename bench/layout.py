"""How runs are laid out on a machine: stack height, processes, threads. `make perf` measures what the rule rests on.

On a CPU one-thread processes side by side beat torch's threads: the steps of Two-Moon are too small to share between
threads, those of Colored MNIST fill a core by themselves. A few seeds in one process share what a small step spends
outside the network; large steps gain nothing from that. Threads are used only when there are fewer jobs than cores
and the step is large. On a GPU small kernels are bound by their launch, so all seeds of a cell are stacked in one job.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path
from typing import Any

from spurbench.bench.errors import UserError

INPUTS = 100  # of a network, about
BIG_STEP = 1e9  # floating-point operations; below, handing work to a second thread costs more than it gains
SMALL_HEIGHT = 5  # seeds in one process when steps are small; more gain little and wait for each other
GPU_HEIGHT = 16
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables


@dataclass(frozen=True)
class Layout:
    """What each process computes on, and how many runs it trains together."""

    devices: tuple[str, ...]  # one entry a process
    height: int  # runs in one job when steps are small, or on a GPU
    threads: int  # for large steps
    inside: bool = False  # no processes: the jobs are done by the one that asks, one after the other

    @property
    def micro_batch(self) -> int:
        """Rows of a micro-batch: on a CPU what keeps activations in cache, on a GPU what keeps it busy."""
        return 1000 if self.devices[0] == "cpu" else 50_000

    def __str__(self) -> str:
        kinds = ", ".join(sorted(set(self.devices)))
        several = "threads" if self.threads > 1 else "thread"
        processes = "this process" if self.inside else f"{len(self.devices)} processes"
        return f"{processes} on {kinds}, {self.threads} {several} each, up to {self.height} seeds a job"

    def job_threads(self, flops: float) -> int:
        """Threads of a job each of whose steps costs so much."""
        return self.threads if flops > BIG_STEP else 1

    def job_height(self, flops: float, seeds: int) -> int:
        """Seeds in one job of a cell that has so many, each step costing so much."""
        if self.devices[0] != "cpu":
            return self.height
        return 1 if flops > BIG_STEP else min(self.height, -(-seeds // len(self.devices)))


def cores() -> int:
    """Cores this process may use: those it is bound to, and no more than its control groups grant the time of."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, ceil(min(bound, granted())))


def granted(of: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """How many cores' time the control groups of this process grant it, which is how containers are limited."""
    found = inf
    with suppress(OSError, ValueError):
        for entry in of.read_text(encoding="utf-8", errors="replace").splitlines():
            kinds, path = entry.split(":", 2)[1:]
            if kinds and "cpu" not in kinds.split(","):
                continue
            group = root / (kinds if kinds else ".") / path.lstrip("/")
            found = min(found, *(quota(each) for each in (group, *group.parents) if each.is_relative_to(root)))
    return found


def quota(group: Path) -> float:
    """Cores' worth of time of one control group, in the words of the second version or the first."""
    with suppress(OSError, ValueError):
        most, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return inf if most == "max" else int(most) / int(period)
    with suppress(OSError, ValueError):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        most, period = ((group / name).read_text(encoding="ascii") for name in names)
        return inf if int(most) <= 0 else int(most) / int(period)
    return inf


def most_threads() -> float:
    """The threads a process may have at most, as the user's environment says in OMP_NUM_THREADS or MKL_NUM_THREADS."""
    first = (os.environ.get(name, "").split(",")[0].strip() for name in THREADS)
    return min((int(text) for text in first if text.isdecimal() and int(text)), default=inf)


def gpus() -> int:
    """GPUs torch can use; torch is imported only where the driver's tool is present."""
    if shutil.which("nvidia-smi") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def find_devices(device: str) -> list[str]:
    """The devices an option names: `auto`, `cpu`, `cuda` (all GPUs) or a list such as `cuda:0,cuda:2`."""
    if device == "cpu":
        return ["cpu"]
    count = gpus()
    if device == "auto":
        return [f"cuda:{i}" for i in range(count)] or ["cpu"]
    there = [f"cuda:{i}" for i in range(count)]
    wanted = there if device == "cuda" else device.split(",")
    if not wanted or not set(wanted) <= {*there, "cpu"}:
        raise UserError(f"no device '{device}' here; there are: {', '.join(['auto', 'cpu', *there])}")
    return wanted


def choose(device: str, jobs: int | None, threads: int | None, runs: int) -> Layout:
    """The layout for so many runs; `jobs` and `threads` are the user's, who asks for no processes with 0 jobs."""
    devices = find_devices(device)
    if jobs == 0:
        height = SMALL_HEIGHT if devices[0] == "cpu" else GPU_HEIGHT
        return Layout((devices[0],), height, threads or share(1), inside=True)
    if devices[0].startswith("cuda"):
        slots = [d for d in devices for _ in range(max(1, (jobs or len(devices)) // len(devices)))]
        return Layout(tuple(slots), GPU_HEIGHT, threads or share(len(slots)))
    processes = max(1, min(jobs or cores(), runs))
    return Layout(("cpu",) * processes, SMALL_HEIGHT, threads or share(processes))


def share(processes: int) -> int:
    """The threads of each of so many processes where the user has not said: their cores, or fewer if the environment
    asks for that."""
    return max(1, int(min(cores() // processes, most_threads())))


def step_flops(training: Mapping[str, Any], rows: int) -> float:
    """Operations of one step on so many examples, forward and backward; the order of magnitude of an MLP's is used.

    Networks for pictures count as large: a job trains one seed, and processes side by side fill the cores.
    """
    if training.get("network") != "mlp":
        return inf if training else 0.0  # without settings nothing is trained
    width, layers = int(training.get("width", 1)), int(training["hidden_layers"])
    return 6.0 * rows * width * (1 + width * max(0, layers - 1) + INPUTS)
