"""Where a number comes from: code, versions, hardware."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BESIDE = "spurbench-code.json"  # in the folder that holds a copy of the package: where the copy comes from
PACKAGES = ("spurbench", "torch", "numpy", "scikit-learn")


@cache
def code() -> dict[str, str | None]:
    """Commit of the checkout the package runs from, and a hash of what differs from it (None if nothing does).

    A copy of the package says so itself, and what it is called.
    """
    root = Path(__file__).parents[1]
    beside = root.parent / BESIDE
    if beside.exists():
        found: dict[str, str | None] = json.loads(beside.read_bytes())
        return found
    if not (root / ".git").exists():
        return {"commit": None, "diff": None}
    rooms = ("--", "bench", "methods", "datasets")
    commit = git(root, "rev-parse", "HEAD").strip()
    new = git(root, "ls-files", "--others", "--exclude-standard", *rooms).splitlines()
    diff = git(root, "diff", "HEAD", *rooms) + "".join(f"{name} {content(root / name)}\n" for name in new)
    return {"commit": commit or None, "diff": hashlib.sha256(diff.encode()).hexdigest() if diff else None}


def content(path: Path | None) -> str | None:
    """SHA-256 of a plug-in's file; None if it is not there."""
    with suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else None
    return None


def git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages a number depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def has_bf16() -> bool:
    """Whether this processor has bf16 instructions; without them bf16 is slower than float32."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text or " bf16" in text


def hardware(device: str) -> dict[str, Any]:
    """The processor, the cores granted and, for a CUDA device, the GPU."""
    import torch

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {"cpu": cpu(), "bf16": has_bf16(), "cores": len(os.sched_getaffinity(0)), "gpu": gpu}
