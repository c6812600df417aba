"""How runs are laid out on a machine: stack height, processes, threads. `make perf` measures what the rule rests on.

On a CPU one-thread processes side by side beat both torch's threads and stacked seeds: the steps of Two-Moon are
too small to share between threads, those of Colored MNIST fill a core by themselves. Threads are used only when there
are fewer jobs than cores and the step is large. On a GPU small kernels are bound by their launch, so all seeds of a
cell are stacked in one job.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from spurbench.bench.errors import UserError

BIG_STEP = 1e8  # floating-point operations; below, handing work to a second thread costs more than it gains
GPU_HEIGHT = 16


@dataclass(frozen=True)
class Layout:
    """What each process computes on, and how many runs it trains together."""

    devices: tuple[str, ...]  # one entry a process
    height: int
    threads: int

    @property
    def micro_batch(self) -> int:
        """Rows of a micro-batch: on a CPU what keeps activations in cache, on a GPU what keeps it busy."""
        return 2500 if self.devices[0] == "cpu" else 50_000

    def __str__(self) -> str:
        kinds = ", ".join(sorted(set(self.devices)))
        stack = "one seed each" if self.height == 1 else f"up to {self.height} seeds stacked"
        return f"{len(self.devices)} processes on {kinds}, {self.threads} threads each, {stack}"


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def choose(device: str, jobs: int | None, threads: int | None, runs: int, step_flops: float) -> Layout:
    """The layout for so many runs of which the largest step costs `step_flops`; `jobs`, `threads` are the user's."""
    devices = find_devices(device)
    if devices[0].startswith("cuda"):
        slots = [d for d in devices for _ in range(max(1, (jobs or len(devices)) // len(devices)))]
        return Layout(tuple(slots), GPU_HEIGHT, threads or max(1, cores() // len(slots)))
    processes = max(1, min(jobs or cores(), runs))
    spare = cores() // processes if step_flops > BIG_STEP else 1
    return Layout(("cpu",) * processes, 1, threads or max(1, spare))


def step_flops(training: dict[str, object], rows: int = 50_000, inputs: int = 392) -> float:
    """Operations of one step of an MLP, forward and backward, at most; only its order of magnitude is used."""
    width, layers = int(str(training["width"])), int(str(training["hidden_layers"]))
    return 6.0 * rows * (inputs * width + (layers - 1) * width * width + width)
