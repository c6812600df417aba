"""Reading pictures: ours, prepared, against the wilds package's loader over the same JPEG files, pictures a second.

python tests/perf/reading.py, or with the rest by `make perf`. Both give shuffled batches of 128 of the training split
of a CelebA twin with pictures of 178 × 218, one epoch each, in turn; all files are in the system's cache. Theirs are
float32, as its own scripts make them for CelebA (middle square, scaled, normalised; in the second row also resized to
224), ours uint8, which the device scales. wilds reads in the main process, and in a worker a core.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from turns import in_turn

from spurbench.bench.api import dataset_files
from spurbench.bench.core import machine
from spurbench.bench.plugins import registry
from spurbench.bench.training.batching import select_rows
from spurbench.datasets.data import twins

BATCH, PICTURES = 128, 6500  # in all; 5,222 of them in training
SIZES = {178: None, 224: 224}  # side of the pictures → what wilds resizes them to


def loader(folder: Path, size: int | None, workers: int) -> Iterable[tuple[Tensor, ...]]:
    """The wilds package's training loader with the transform of its scripts."""
    from torchvision import transforms
    from wilds import get_dataset
    from wilds.common.data_loaders import get_train_loader

    scale = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    resize = [transforms.Resize((size, size))] if size else []
    steps = transforms.Compose([transforms.CenterCrop(178), *resize, transforms.ToTensor(), scale])
    subset = get_dataset("celebA", root_dir=str(folder)).get_subset("train", transform=steps)
    made: Iterable[tuple[Tensor, ...]] = get_train_loader("standard", subset, batch_size=BATCH, num_workers=workers)
    return made


def theirs(batches: Iterable[tuple[Tensor, ...]]) -> float:
    """Pictures a second of one epoch, from the first batch on: starting worker processes does not count."""
    found = iter(batches)
    next(found)
    begun, seen = time.perf_counter(), 0
    for x, *_ in found:
        seen += len(x)
    return seen / (time.perf_counter() - begun)


def ours(size: int) -> float:
    """Pictures a second of one epoch of prepared pictures, rows as the engine takes them."""
    x = registry.load_dataset("celeba")(origin="twin", size=size).split("train").x  # type: ignore[attr-defined, call-arg]
    order, seen = torch.randperm(len(x)), 0
    begun = time.perf_counter()
    for rows in order.split(BATCH):
        seen += len(select_rows(x, rows))
    return seen / (time.perf_counter() - begun)


def measure() -> dict[str, dict[str, float]]:
    """Pictures a second by the size of the pictures: of each way to read them, and of preparing them once."""
    with tempfile.TemporaryDirectory() as name, patch.dict("os.environ", SPURBENCH_DATA=f"{name}/prepared"):
        folder, cores = Path(name), machine.cores()
        twins.celeba(folder, PICTURES, 178, seed=0)
        prepared = {}
        for size in SIZES:
            begun = time.perf_counter()
            dataset_files.prepare("celeba", folder, ["celeba.origin=twin", f"celeba.size={size}"])
            prepared[size] = PICTURES / (time.perf_counter() - begun)
        found = {}
        for size, resize in SIZES.items():
            ways: dict[str, Callable[[], float]] = {
                "wilds in the main process": partial(theirs, loader(folder, resize, 0)),
                f"wilds in {cores} worker{'s' if cores > 1 else ''}": partial(theirs, loader(folder, resize, cores)),
                "ours": partial(ours, size),
            }
            found[f"{size} × {size}"] = in_turn(ways) | {"prepared, once": prepared[size]}
    return found


def rows(found: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    """What was measured and found, in words."""
    told = []
    for size, rates in found.items():
        others = {way: rate for way, rate in rates.items() if way.startswith("wilds")}
        shown = ", ".join(f"{way} {rate:,.0f}" for way, rate in others.items())
        ratio = rates["ours"] / max(others.values())
        told += [
            (f"reading prepared pictures of {size} against the wilds loader",
             f"{rates['ours']:,.0f} pictures/s ({shown}), {ratio:.1f} ×"),
            (f"preparing pictures of {size}, once", f"{rates['prepared, once']:,.0f} pictures/s"),
        ]  # fmt: skip
    return told


if __name__ == "__main__":
    for what, value in rows(measure()):
        print(f"{what}: {value}")
