"""Twins of the datasets whose labels are in the names of folders and files, see `twins`.

The background's colour is the attribute, the colour of a disc the class; both vary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from spurbench.datasets.bar import ACTIONS, BAR
from spurbench.datasets.metashift import ARCHIVE
from spurbench.datasets.metashift import PLACES as ROOMS
from spurbench.datasets.nicopp import CONTEXTS, HELD_OUT, KINDS
from spurbench.datasets.spawrious import BREEDS, PLACES
from spurbench.datasets.urbancars import CONTENTS, SPLITS, folder_name, share

Make = Callable[[Path, int, int, int], None]
"""Makes a twin of about `n` images of this width in a folder, with a seed."""


def draw(file: Path, y: int, a: int, width: int, random: np.random.Generator) -> None:
    """Write an image of class `y` with attribute `a`."""
    down, across = np.mgrid[0:width, 0:width] / width - 0.5
    pixels = np.zeros((width, width, 3)) + tint(a, 0.35) + random.normal(0, 8, 3)
    pixels[(down + random.normal(0, 0.05)) ** 2 + across**2 < 0.06] = tint(y, 0.8) + random.normal(0, 25, 3)
    file.parent.mkdir(parents=True, exist_ok=True)
    noisy = (pixels + random.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(file, quality=92)


def tint(number: int, strength: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The colour with this number; the golden angle between successive hues keeps any few of them apart."""
    angles = 2 * np.pi * (0.618 * number + np.arange(3) / 3)
    return 128 + 127 * strength * np.cos(angles)


def bffhq(folder: Path, n: int, width: int, seed: int) -> None:
    """`bffhq/`: 0.5 % of the training images in conflict/, valid/ and test/ with half."""
    random, home = np.random.default_rng(seed), folder / "bffhq"
    held_out = max(2, n // 20)
    conflicts = max(1, round(0.0025 * (n - 2 * held_out)))  # of each class
    for y in (0, 1):
        for room, a, count in (("align", y, 199 * conflicts), ("conflict", 1 - y, conflicts)):
            for i in range(count):
                draw(home / "0.5pct" / room / str(y) / f"{i}_{y}_{a}.png", y, a, width, random)
        for room in ("valid", "test"):
            for i in range(held_out):
                draw(home / room / f"{2 * i + y}_{y}_{i % 2}.png", y, i % 2, width, random)


def bar(folder: Path, n: int, width: int, seed: int) -> None:
    """`BAR/train/` and `test/`: in training each action has its own background, in the test that of the next."""
    random = np.random.default_rng(seed)
    total = sum(map(sum, BAR.published.values()))
    for room, counts in BAR.published.items():
        for y, (action, count) in enumerate(zip(ACTIONS, counts, strict=True)):
            for i in range(max(1, round(count * n / total))):
                background = y if room == "train" else (y + 1) % len(ACTIONS)
                draw(folder / "BAR" / room / f"{action}_{i}.jpg", y, background, width, random)


def metashift(folder: Path, n: int, width: int, seed: int) -> None:
    """`MetaShift-Cat-Dog-indoor-outdoor/`, with two or three images of a pet where it usually is to one elsewhere."""
    random = np.random.default_rng(seed)
    for (place, (y, a)), part in zip(ROOMS.items(), (0.35, 0.35, 0.12, 0.18), strict=True):
        for i in range(max(1, round(n * part))):
            draw(folder / ARCHIVE / place / f"{i:04}.jpg", y, a, width, random)


def nicopp(folder: Path, n: int, width: int, seed: int) -> None:
    """`dg_label_id_mapping.json` and `public_dg_0416/train/`, with three kinds; there is no crab in autumn."""
    random = np.random.default_rng(seed)
    kinds = {"bear": 0, "bus": 1, "crab": 2}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KINDS).write_text(json.dumps(kinds))
    for a, context in enumerate(CONTEXTS):
        for kind, y in kinds.items():
            for i in range(0 if (kind, context) == ("crab", "autumn") else max(HELD_OUT + 2, n // 17)):
                draw(folder / "public_dg_0416" / "train" / context / kind / f"{i}.jpg", y, a, width, random)


def spawrious(folder: Path, n: int, width: int, seed: int) -> None:
    """`spawrious224/` with all places of all breeds, as the archive of all settings has it."""
    random = np.random.default_rng(seed)
    for top in ("0", "1"):
        for a, place in enumerate(PLACES):
            for y, breed in enumerate(BREEDS):
                for i in range(max(1, n // 48)):
                    draw(folder / "spawrious224" / top / place / breed / f"{i}.png", y, a, width, random)


def urbancars(folder: Path, n: int, width: int, seed: int) -> None:
    """`urbancars/` with the shares of its groups; there is a mask of the object beside each image."""
    random = np.random.default_rng(seed)
    for split, (home, _, images) in SPLITS.items():
        for contents in CONTENTS:
            y, background, other = contents
            place = folder / "urbancars" / home / folder_name(contents)
            for i in range(max(1, round(n / 10_000 * images * share(contents, split)))):
                draw(place / f"{i:03}.jpg", y, 2 * background + other, width, random)
                Image.new("L", (width, width)).save(place / f"{i:03}_mask.png")


MAKERS: dict[str, Make] = {made.__name__: made for made in (bffhq, bar, metashift, nicopp, spawrious, urbancars)}
