"""A look at this machine: can it run a grid, and how would it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from spurbench.bench import catalogue, layout, provenance, registry


def examine() -> list[dict[str, Any]]:
    """Rows of what was looked at, what was found and whether it is in order."""
    import torch

    versions = provenance.versions()
    rows = [
        row("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        row("processor", f"{provenance.cpu()}, {layout.cores()} cores"),
        row("bf16", "in hardware" if provenance.has_bf16() else "emulated: use --precision float32"),
        row("GPUs", ", ".join(torch.cuda.get_device_name(i) for i in range(layout.gpus())) or "none, the CPU is used"),
        row("layout of ten runs", str(layout.choose("auto", None, None, 10))),
        row("one thread against all", threads()),
        writable(Path()),
    ]
    plugins = [*registry.methods().values(), *registry.datasets().values()]
    bad = [f"{info.name} {info.problem}" for info in plugins if info.problem]
    rows.append(row("plug-ins", "; ".join(bad) or f"{len(plugins)} usable", not bad))
    return rows + [row("data", f"{name}: {found}", ok) for name, ok, found in catalogue.verify(thorough=False)]


def row(what: str, found: str, ok: bool = True) -> dict[str, Any]:
    return {"what": what, "found": found, "ok": ok}


def writable(folder: Path) -> dict[str, Any]:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return row("this folder", "can be written")
    except OSError as error:
        return row("this folder", f"cannot be written ({error.strerror}): name another with --store", False)


def threads() -> str:
    """How a small and a large matrix product share their work between threads: what the layout rule rests on."""
    import torch

    before, found = torch.get_num_threads(), []
    for name, rows in (("Two-Moon", 300), ("Colored MNIST", 25_000)):
        a, b = torch.rand(rows, 300), torch.rand(300, 300)
        torch.set_num_threads(1)
        alone = milliseconds(lambda a=a, b=b: a @ b)
        torch.set_num_threads(layout.cores())
        found.append(f"{name}'s size {alone / milliseconds(lambda a=a, b=b: a @ b):.1f} × as fast")
    torch.set_num_threads(before)
    return f"{', '.join(found)} with {layout.cores()} threads"


def milliseconds(action: Any, times: int = 15) -> float:
    """Median time of an action."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        taken.append((time.perf_counter() - begun) * 1e3)
    return sorted(taken)[times // 2]
