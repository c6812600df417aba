"""What this machine has: cores granted, threads allowed, processor, GPUs."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import suppress
from functools import cache
from math import ceil, inf
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables


def cores() -> int:
    """Cores this process may use: those it is bound to, but no more than its control groups grant."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, ceil(min(bound, granted_cores())))


def granted_cores(of: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """How many cores' time the control groups grant this process, which is how containers are limited."""
    found = inf
    with suppress(OSError, ValueError):
        for entry in of.read_text(encoding="utf-8", errors="replace").splitlines():
            kinds, path = entry.split(":", 2)[1:]
            if kinds and "cpu" not in kinds.split(","):
                continue
            group = root / (kinds if kinds else ".") / path.lstrip("/")
            found = min(found, *(group_quota(each) for each in (group, *group.parents) if each.is_relative_to(root)))
    return found


def group_quota(group: Path) -> float:
    """Cores' worth of time that one control group grants, in the format of cgroup version 2 or 1."""
    with suppress(OSError, ValueError):
        most, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return inf if most == "max" else int(most) / int(period)
    with suppress(OSError, ValueError):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        most, period = ((group / name).read_text(encoding="ascii") for name in names)
        return inf if int(most) <= 0 else int(most) / int(period)
    return inf


def most_threads() -> float:
    """The most threads a process may have, by OMP_NUM_THREADS or MKL_NUM_THREADS in the user's environment."""
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


@cache
def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def has_bf16() -> bool:
    """Whether this processor has bf16 instructions; without them bf16 is slower than float32."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text or " bf16" in text


def hardware(device: str) -> dict[str, Any]:
    """The processor, the cores granted and, for a CUDA device, the GPU."""
    import torch

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {"cpu": cpu(), "bf16": has_bf16(), "cores": cores(), "gpu": gpu}
