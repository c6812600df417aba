"""Checks of this machine: whether it can run a grid, and how."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spurbench.bench.api import dataset_files
from spurbench.bench.core import machine
from spurbench.bench.core.errors import reason
from spurbench.bench.launch import placement
from spurbench.bench.plugin_files import entry_points
from spurbench.bench.plugins import registry
from spurbench.bench.provenance import commit

Row = dict[str, Any]


def examine() -> list[dict[str, Any]]:
    """Rows of what was checked, what was found and whether it is in order."""
    return [
        *examine_one("versions", lambda: ", ".join(f"{name} {version}" for name, version in commit.versions().items())),
        *examine_one("code", describe_code_version),
        *examine_one("processor", lambda: f"{machine.cpu()}, {machine.cores()} cores"),
        *examine_one("bf16", lambda: "in hardware" if machine.has_bf16() else "emulated: use --precision float32"),
        *examine_one("GPUs", describe_gpus),
        *examine_one("how ten runs would be placed", lambda: str(placement.choose("auto", None, None, 10))),
        *examine_one("speed-up from threads", measure_threads),
        *examine_one("this folder", lambda: check_writable(Path())),
        *examine_one("entry points", lambda: summarize_problems("entry points", entry_points.problems(), "all usable")),
        *examine_one("plug-ins", check_plugins),
        *examine_one(
            "data",
            lambda: [row("data", f"{name}: {found}", ok) for name, ok, found in dataset_files.verify(thorough=False)],
        ),
    ]


def examine_one(what: str, look: Callable[[], str | Row | list[Row]]) -> list[Row]:
    """The result of one check, as rows; if it fails, the others still run."""
    try:
        found = look()
    except Exception as error:
        return [row(what, reason(error), False)]
    if isinstance(found, str):
        return [row(what, found)]
    return found if isinstance(found, list) else [found]


def describe_gpus() -> str:
    import torch

    return ", ".join(torch.cuda.get_device_name(i) for i in range(machine.gpus())) or "none: runs use the CPU"


def check_plugins() -> Row:
    every = [info for kind in registry.FOLDERS for info in registry.plugins(kind).values()]
    return summarize_problems(
        "plug-ins", [f"{info.name} {info.problem}" for info in every if info.problem], f"{len(every)} usable"
    )


def summarize_problems(what: str, broken: list[str], fine: str) -> Row:
    return row(what, "; ".join(broken) or fine, not broken)


def row(what: str, found: str, ok: bool = True) -> Row:
    return {"what": what, "found": found, "ok": ok}


def describe_code_version() -> Row:
    """The code version that records will name."""
    found = commit.code()
    if found["commit"] is None and found["diff"] is None:
        return row("code", f"no checkout: records name version {commit.versions()['spurbench']}")
    known = not str(found["diff"]).startswith(commit.UNKNOWN)
    return row("code", commit.describe_code(found["commit"], found["diff"]), known)


def check_writable(folder: Path) -> Row:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return row("this folder", "can be written")
    except OSError as error:
        return row("this folder", f"cannot be written ({error.strerror}): name another with --store", False)


def measure_threads() -> str:
    """How much threads speed up a small and a large matrix product, on which the placement rule is based."""
    import torch

    before, found = torch.get_num_threads(), []
    for name, rows in (("Two-Moon", 300), ("Colored MNIST", 25_000)):
        a, b = torch.rand(rows, 300), torch.rand(300, 300)
        torch.set_num_threads(1)
        alone = time_action(lambda a=a, b=b: a @ b)
        torch.set_num_threads(machine.cores())
        found.append(f"{alone / time_action(lambda a=a, b=b: a @ b):.1f} × at {name}'s size")
    torch.set_num_threads(before)
    return f"{', '.join(found)}, with {machine.cores()} threads"


def time_action(action: Any, times: int = 15) -> float:
    """Median time of an action, in milliseconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        taken.append((time.perf_counter() - begun) * 1e3)
    return sorted(taken)[times // 2]
