"""Reading pictures: ours, prepared, against the wilds package's loader over the same JPEG files, pictures a second.

python tests/perf/reading.py. Both give shuffled batches of 128 of the training split of a CelebA twin with pictures of
178 × 218, one epoch each, in turn; all files are in the system's cache. Theirs are float32, as its own scripts make
them for CelebA (middle square, scaled, normalised; in the second row also resized to 224), ours uint8, which the device
scales. wilds reads in the main process, and in a worker a core.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from spurbench.bench import catalogue, layout, registry
from spurbench.bench.inputs import taken
from spurbench.datasets.data import twins

BATCH, ROUNDS, PICTURES = 128, 3, 6500  # in all; 5,222 of them in training


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
        seen += len(taken(x, rows))
    return seen / (time.perf_counter() - begun)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SPURBENCH_DATA"] = str(folder / "prepared")
        twins.celeba(folder, PICTURES, 178, seed=0)
        for size in (178, 224):
            begun = time.perf_counter()
            catalogue.prepare("celeba", folder, ["celeba.origin=twin", f"celeba.size={size}"])
            print(
                f"prepared at {size} × {size}: {PICTURES / (time.perf_counter() - begun):,.0f} pictures a second, once"
            )
        cores = layout.cores()
        for size, resize in ((178, None), (224, 224)):
            ways: dict[str, Callable[[], float]] = {
                "wilds, main process": partial(theirs, loader(folder, resize, 0)),
                f"wilds, {cores} workers": partial(theirs, loader(folder, resize, cores)),
                "ours": partial(ours, size),
            }
            found: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(ROUNDS):
                for way, read in ways.items():
                    found[way].append(read())
            rates = {way: statistics.median(values) for way, values in found.items()}
            best = max(rate for way, rate in rates.items() if way != "ours")
            shown = ", ".join(f"{way} {rate:,.0f}" for way, rate in rates.items())
            print(f"{size} × {size}: {shown} pictures a second: {rates['ours'] / best:.1f} × the better of theirs")


if __name__ == "__main__":
    main()
