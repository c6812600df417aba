"""Make a synthetic twin of a dataset of images, in the true dataset's layout on disk.

python -m spurbench.datasets.data.twins NAME FOLDER [--n N] [--width W] [--seed S], where NAME is celeba, waterbirds,
cifar10, cifar100, mnist, or one of `folder_twins`: bffhq, bar, metashift, nicopp, spawrious, urbancars. Twins are for
trying things out and for tests: prepare one with `--from FOLDER --set NAME.origin=twin`, so that nothing made from it
passes for the real one. Splits and groups have the true shares, where they are known.

In CelebA's and Waterbirds' twins the attribute is the colour of the background, plain to see. The class is the colour
of a patch above the face, in the light of the image, and the classes overlap: SEPARATION standard deviations lie
between their means. Given the groups' shares, it is best on average to doubt a patch that does not match its
background: with CelebA's shares that is 94.7 % right, but 42 % for blond men, where doubting none gives 90 % for all.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spurbench.datasets.data.folder_twins import MAKERS

Array = np.ndarray[Any, Any]
SEPARATION = 2.6
CELEBA = ((71_629, 66_874, 22_880, 1_387), (8_535, 8_276, 2_874, 182), (9_767, 7_535, 2_480, 180))
WATERBIRDS = ((3_498, 184, 56, 1_057), (467, 466, 133, 133), (2_255, 2_255, 642, 642))
ATTRIBUTES = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair
    Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup
    High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose
    Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat
    Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young""".split()
DARK, LIGHT, SKIN = np.array([60, 45, 35.0]), np.array([215, 190, 120.0]), np.array([205, 160, 135.0])
BACKGROUNDS = np.array([[175, 110, 105], [90, 120, 175.0]])


def shares(table: Sequence[Sequence[int]], n: int) -> list[list[int]]:
    """Counts in proportion to a table's that sum to about `n`, none of them zero."""
    total = sum(map(sum, table))
    return [[max(1, round(count * n / total)) for count in row] for row in table]


def labelled(table: Sequence[Sequence[int]], n: int, random: np.random.Generator) -> tuple[Array, Array, Array]:
    """Split, y and a of each image, shuffled within each split; the splits follow each other."""
    found = []
    for split, counts in enumerate(shares(table, n)):
        group = np.repeat(np.arange(4), counts)
        found.append(np.stack([np.full(len(group), split), *divmod(random.permutation(group), 2)]))
    split, y, a = np.concatenate(found, 1)
    return split, y, a


def scene(y: int, a: int, width: int, height: int, random: np.random.Generator) -> Image.Image:
    """An image: background by `a`, a face, and above it a patch by `y`, under light that varies."""
    down, across = np.mgrid[0:height, 0:width]
    down, across = down / height - 0.55 + random.normal(0, 0.02), across / width - 0.5 + random.normal(0, 0.02)
    pixels = np.zeros((height, width, 3)) + BACKGROUNDS[a] + random.normal(0, 12, 3)
    shift = ((2 * y - 1) * SEPARATION / 2 + random.normal()) / 8 + 0.5  # where between dark and light the patch lies
    pixels[(down + 0.06) ** 2 / 0.09 + across**2 / 0.07 < 1] = DARK + (LIGHT - DARK) * np.clip(shift, 0, 1)
    pixels[(down - 0.05) ** 2 / 0.06 + across**2 / 0.045 < 1] = SKIN + random.normal(0, 12, 3)
    pixels *= random.normal(1, 0.08)
    return Image.fromarray((pixels + random.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8))


def celeba(folder: Path, n: int, width: int, seed: int) -> None:
    """`celeba/` as torchvision and the authors have it, beside it `celebA_v1.0/` as the wilds package has it."""
    random = np.random.default_rng(seed)
    split, y, a = labelled(CELEBA, n, random)
    home, wilds = folder / "celeba", folder / "celebA_v1.0"
    (home / "img_align_celeba").mkdir(parents=True)
    wilds.mkdir()
    names = [f"{i:06}.jpg" for i in range(1, len(y) + 1)]
    for name, label, attribute in zip(names, y, a, strict=True):
        picture = scene(label, attribute, width, round(width * 218 / 178), random)
        picture.save(home / "img_align_celeba" / name, quality=92)
    facts = np.where(random.random((len(y), 40)) < 0.3, 1, -1)
    facts[:, ATTRIBUTES.index("Blond_Hair")], facts[:, ATTRIBUTES.index("Male")] = 2 * y - 1, 2 * a - 1
    rows = [[name, *map(str, row)] for name, row in zip(names, facts, strict=True)]
    text = [str(len(y)), " ".join(ATTRIBUTES) + " "] + [" ".join(f"{cell:>2}" for cell in row) for row in rows]
    (home / "list_attr_celeba.txt").write_text("\n".join(text) + "\n")
    parts = [f"{name} {part}" for name, part in zip(names, split, strict=True)]
    (home / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    write_csv(wilds / "list_attr_celeba.csv", ["image_id", *ATTRIBUTES], rows)
    write_csv(wilds / "list_eval_partition.csv", ["image_id", "partition"], [part.split() for part in parts])
    (wilds / "RELEASE_v1.0.txt").write_text("A synthetic twin.\n")
    (wilds / "img_align_celeba").symlink_to(Path("..") / "celeba" / "img_align_celeba")


def waterbirds(folder: Path, n: int, width: int, seed: int) -> None:
    """`waterbirds_v1.0/` as the wilds package has it; the images have different sizes, `width` is the least."""
    random = np.random.default_rng(seed)
    split, y, a = labelled(WATERBIRDS, n, random)
    home = folder / "waterbirds_v1.0"
    rows = []
    for i, (part, label, place) in enumerate(zip(split, y, a, strict=True), 1):
        name = f"{1 + i % 200:03}.Twin/Twin_{i:04}.jpg"
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        across, down = random.integers(width, 2 * width, 2)
        scene(label, place, int(across), int(down), random).save(home / name, quality=92)
        rows.append([str(cell) for cell in (i, name, label, part, place, f"/twin/{place}/{i:08}.jpg")])
    write_csv(home / "metadata.csv", ["img_id", "img_filename", "y", "split", "place", "place_filename"], rows)
    (home / "RELEASE_v1.0.txt").write_text("A synthetic twin.\n")


def write_csv(file: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with open(file, "w", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])


def cifar(folder: Path, n: int, seed: int, classes: int) -> None:
    """`cifar-10-batches-py/` or `cifar-100-python/`, six pickled batches or two; each class has a colour."""
    random = np.random.default_rng(seed)
    colours = np.random.default_rng(classes).integers(40, 216, (classes, 3, 1))
    ten = classes == 10
    home = folder / ("cifar-10-batches-py" if ten else "cifar-100-python")
    home.mkdir(parents=True)
    batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if ten else ["train", "test"]
    for name in batches:
        size = max(classes, n // 6 if ten or name == "test" else n * 5 // 6)
        y = random.permutation(np.arange(size) % classes)
        data = (colours[y] + random.normal(0, 25, (size, 3, 1024))).clip(0, 255).astype(np.uint8).reshape(size, 3072)
        entry: dict[str, Any] = {"data": data, "filenames": [f"twin_s_{i:06}.png" for i in range(size)]}
        entry |= {"labels": y.tolist()} if ten else {"fine_labels": y.tolist(), "coarse_labels": (y // 5).tolist()}
        (home / name).write_bytes(pickle.dumps(entry | {"batch_label": name}, protocol=2))


def mnist(folder: Path, n: int, seed: int) -> None:
    """The four idx files, gzipped: a 0 is a ring, a 1 a line, further digits are noise."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    down, across = np.mgrid[0:28, 0:28] - 14
    shapes = [abs(np.hypot(down, across) - 8) < 2, (abs(across) < 2) & (abs(down) < 10)]
    for part, size in (("train", n), ("t10k", max(2, n // 6))):
        y = np.arange(size) % 10 if size >= 20 else np.arange(size) % 2
        pixels = random.integers(0, 40, (size, 28, 28))
        for digit in (0, 1):
            pixels[y == digit] += 200 * shapes[digit]
        for name, magic, content in (("images-idx3", 2051, pixels), ("labels-idx1", 2049, y)):
            header = np.array([magic, *content.shape], ">i4").tobytes()
            file = folder / f"{part}-{name}-ubyte.gz"
            file.write_bytes(gzip.compress(header + content.astype(np.uint8).tobytes(), mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("celeba", "waterbirds", "cifar10", "cifar100", "mnist", *MAKERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=6000, help="pictures in all, about")
    parser.add_argument("--width", type=int, default=178, help="of a picture, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        if given.name in MAKERS:
            MAKERS[given.name](given.folder, given.n, given.width, given.seed)
        elif given.name in ("celeba", "waterbirds"):
            make = celeba if given.name == "celeba" else waterbirds
            make(given.folder, given.n, given.width, given.seed)
        elif given.name == "mnist":
            mnist(given.folder, given.n, given.seed)
        else:
            cifar(given.folder, given.n, given.seed, 10 if given.name == "cifar10" else 100)
    except FileExistsError as error:
        parser.error(f"{error.filename} is there already: delete it, or name another folder")


if __name__ == "__main__":
    main()
