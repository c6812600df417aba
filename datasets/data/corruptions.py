"""The corruptions of CIFAR-10-C at its five levels, for images of 32 × 32 pixels. Imports no torch.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019, arXiv 1903.12261: formulas and constants of their code for CIFAR-10; frost is made of their photographs of
ice, which come with the package imagecorruptions.
Differs: edges and distances of water spatters are scikit-image's and SciPy's, not OpenCV's; blurs along a direction
keep fractions where ImageMagick rounds; random numbers are NumPy's of today.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from spurbench.bench.core.errors import UserError

SIDE = 32
Floats = Any  # an array of float64; arithmetic with constants of any type has no narrower one
Corrupt = Callable[[Floats, Any, np.random.Generator], Floats]
"""From an image [32, 32, 3] with values from 0 to 1, a level's constants and random numbers to the corrupted image."""


@dataclass(frozen=True)
class Corruptions:
    """Corrupts images, each by the one of `names` that its attribute stands for, with random numbers of its own."""

    names: tuple[str, ...]
    level: int  # 1 to 5
    seed: tuple[int, ...]  # of the random numbers of all images

    def __call__(self, pixels: Any, a: Any, start: int) -> Any:
        """Corrupted images [n, 3, 32, 32]; the first one is row `start` of its split."""
        found = np.empty_like(pixels)
        for row, (image, kind) in enumerate(zip(pixels, a, strict=True)):
            random = np.random.default_rng([*self.seed, start + row])
            changed = corrupt(image.transpose(1, 2, 0), self.names[kind], self.level, random)
            found[row] = changed.transpose(2, 0, 1)
        return found


def corrupt(image: Any, name: str, level: int, random: np.random.Generator) -> Any:
    """An image [32, 32, 3] of bytes, corrupted at a level from 1 to 5; fractions of bytes are cut off."""
    function, constants = KNOWN[name]
    corrupted = function(image / 255, constants[level - 1], random)
    return (255 * corrupted.clip(0, 1) + 1e-9).astype(np.uint8)


def check_installed(names: Sequence[str]) -> None:
    """Raise UserError if one of these corruptions needs a package that is not there."""
    for name, package in (("frost", "imagecorruptions"), ("spatter", "skimage")):
        if name in names and find_spec(package) is None:
            raise UserError(f'{name} needs the package {package}: pip install "spurbench[corruptions]"')


# ---- weather --------------------------------------------------------------------------------------------------------


def snow(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    loc, scale, zoom, threshold, radius, sigma, share = c
    layer = enlarge_middle(random.normal(loc, scale, (SIDE, SIDE)), zoom)
    layer = np.where(layer < threshold, 0, layer).clip(0, 1)
    layer = blur_along(layer[..., None], radius, sigma, random.uniform(-135, -45))
    whiter = np.maximum(x, 1.5 * grey(x) + 0.5)
    return share * x + (1 - share) * whiter + layer + np.rot90(layer, 2)


def frost(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    ice = textures()[random.integers(5)]
    down, across = (random.integers(0, size - SIDE) for size in ice.shape[:2])
    return c[0] * x + c[1] * ice[down : down + SIDE, across : across + SIDE]


@cache
def textures() -> tuple[Floats, ...]:
    """The photographs of ice [height, width, 3], every fifth pixel."""
    package = find_spec("imagecorruptions")  # whose files are all that is used: it imports beside old packages alone
    assert package is not None and package.submodule_search_locations is not None  # see `check_installed`
    folder = Path(package.submodule_search_locations[0], "frost")
    files = [folder / f"frost{i}.{'png' if i < 4 else 'jpg'}" for i in range(1, 6)]
    return tuple(np.asarray(Image.open(file).convert("RGB"))[2::5, 2::5] / 255 for file in files)


def fog(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    brightest = x.max()
    return (x + c[0] * plasma(c[1], random)[..., None]) * brightest / (brightest + c[0])


def plasma(decay: float, random: np.random.Generator) -> Floats:
    """A fractal on a torus, [32, 32] from 0 to 1, by midpoints of squares and diamonds that are displaced."""
    field, step, spread = np.zeros((SIDE, SIDE)), SIDE, 100.0

    def displaced(total: Floats) -> Floats:
        return total / 4 + spread * random.uniform(-spread, spread, total.shape)

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        edges = corners + np.roll(corners, -1, 0)
        middles = field[half::step, half::step] = displaced(edges + np.roll(edges, -1, 1))
        field[::step, half::step] = displaced(middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1))
        field[half::step, ::step] = displaced(middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0))
        step, spread = half, spread / decay
    field -= field.min()
    return field / field.max()


def spatter(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    loc, scale, sigma, threshold, strength, mud = c
    liquid = smooth(random.normal(loc, scale, (SIDE, SIDE)), sigma)
    if mud:
        drops = smooth(np.where(liquid > threshold, 1.0, 0.0), strength)[..., None]
        drops = np.where(drops < 0.8, 0, drops)
        return x * (1 - drops) + drops * np.array([63, 42, 20]) / 255
    drops = water(np.where(liquid < threshold, 0, liquid))[..., None]
    return x + strength * drops * np.array([175, 238, 238]) / 255


def water(liquid: Floats) -> Floats:
    """Drops with shaded rims, [32, 32] from 0 to 1."""
    from skimage.feature import canny

    levels = (255 * liquid).astype(np.uint8)
    edges = canny(levels, 0, 50, 150)  # type: ignore[no-untyped-call]
    distance = ndimage.distance_transform_edt(~edges).clip(0, 20) if edges.any() else np.full(liquid.shape, 20.0)
    shade = np.asarray(
        ImageOps.equalize(Image.fromarray(ndimage.uniform_filter(distance, 3, mode="mirror").astype(np.uint8)))
    )
    shade = ndimage.correlate(shade.astype(float), [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], mode="mirror").clip(0, 255)
    drops = levels * ndimage.uniform_filter(shade, 3, mode="mirror")
    return drops / (drops.max() or 1)


# ---- colour and compression -----------------------------------------------------------------------------------------


def brightness(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    """Adds to V of HSV."""
    value = x.max(2, keepdims=True)
    lighter = (value + c).clip(0, 1)
    return np.where(value > 0, x * lighter / np.maximum(value, 1e-12), lighter)


def saturate(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    """Scales and shifts S of HSV, in which grey has the hue of red."""
    value, least = x.max(2, keepdims=True), x.min(2, keepdims=True)
    before = (value - least) / np.maximum(value, 1e-12)
    after = (before * c[0] + c[1]).clip(0, 1)
    distance = np.where(before > 0, (value - x) / np.maximum(before, 1e-12), value * np.array([0.0, 1.0, 1.0]))
    return value - after * distance


def contrast(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * c + mean


def jpeg(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    packed = BytesIO()
    as_image(x).save(packed, "JPEG", quality=c)
    return np.asarray(Image.open(packed)) / 255


def pixelate(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    side = int(SIDE * c)
    small = as_image(x).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255


def elastic(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    """An affine map of three points that are moved, then a smooth field of displacements."""
    strength, sigma, reach = (SIDE * share for share in c)
    points = np.array([[26.0, 26, 1], [26, 6, 1], [6, 6, 1]])
    to = points + np.pad(random.uniform(-reach, reach, (3, 2)), ((0, 0), (0, 1)))
    down, across = np.mgrid[:SIDE, :SIDE].astype(float)
    columns, rows = (a * across + b * down + offset for a, b, offset in np.linalg.solve(to, points).T[:2])
    x = interpolate(x, rows, columns, "mirror")
    right, below = (strength * smooth(random.uniform(-1, 1, (SIDE, SIDE)), sigma, "reflect", 3) for _ in range(2))
    return interpolate(x, down + below, across + right, "reflect")


# ---- noise and blur -------------------------------------------------------------------------------------------------


def gaussian_noise(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    return x + random.normal(0, c, x.shape)


def shot_noise(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    return random.poisson(x * c) / c


def impulse_noise(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    """Salt and pepper."""
    return np.where(random.random(x.shape) < c, random.random(x.shape) < 0.5, x)


def speckle_noise(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    return x + x * random.normal(0, c, x.shape)


def gaussian_blur(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    return smooth(x, (c, c, 0))


def defocus_blur(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    radius, sigma = c
    across = np.arange(-8, 9) ** 2
    disk = (across[:, None] + across <= radius**2).astype(float)
    tap = np.exp(-1 / (2 * sigma**2))
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk / disk.sum(), np.array([tap, 1, tap]) / (1 + 2 * tap), axis, mode="constant")
    return ndimage.correlate(x, disk[..., None], mode="mirror")


def glass_blur(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    """Between two blurs each pixel takes the value of a neighbour (in the released code, which means to swap them)."""
    sigma, reach, times = c
    x = np.floor(255 * smooth(x, (sigma, sigma, 0))) / 255
    places = range(SIDE - reach, reach, -1)
    for moves in random.integers(-reach, reach, (times, len(places), len(places), 2)).tolist():
        for row, line in zip(places, moves, strict=True):
            for column, (across, down) in zip(places, line, strict=True):
                x[row, column] = x[row + down, column + across]
    return smooth(x, (sigma, sigma, 0))


def motion_blur(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    radius, sigma = c
    return blur_along(x, radius, sigma, random.uniform(-45, 45))


def zoom_blur(x: Floats, c: Any, random: np.random.Generator) -> Floats:
    zooms = np.arange(1, c, 0.01)
    return (x + sum(enlarge_middle(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


# ---- what they share ------------------------------------------------------------------------------------------------


def smooth(x: Floats, sigma: Any, mode: str = "nearest", truncate: float = 4) -> Floats:
    return ndimage.gaussian_filter(x, sigma, mode=mode, truncate=truncate)


def grey(x: Floats) -> Floats:
    """Luma [32, 32, 1] of ITU-R BT.601."""
    return (x @ np.array([0.299, 0.587, 0.114]))[..., None]


def as_image(x: Floats) -> Image.Image:
    return Image.fromarray(np.rint(255 * x).astype(np.uint8))


def interpolate(x: Floats, rows: Floats, columns: Floats, mode: str) -> Floats:
    """An image's values at places between its pixels, by linear interpolation."""
    return np.stack(
        [ndimage.map_coordinates(layer, [rows, columns], order=1, mode=mode) for layer in x.transpose(2, 0, 1)], 2
    )


def enlarge_middle(x: Floats, zoom: float) -> Floats:
    """The middle of an image [32, 32, ...], enlarged to its size."""
    side = int(np.ceil(SIDE / zoom))
    top = (SIDE - side) // 2
    large = ndimage.zoom(x[top : top + side, top : top + side], (zoom, zoom, 1)[: x.ndim], order=1)
    top = (len(large) - SIDE) // 2
    return large[top : top + SIDE, top : top + SIDE]


def blur_along(x: Floats, radius: int, sigma: float, angle: float) -> Floats:
    """ImageMagick's motion blur of an image [32, 32, ...]: a one-sided Gaussian along an angle in degrees."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    turned = np.deg2rad(angle)
    across, down = (np.ceil(steps * part - 0.5).astype(int) for part in (np.cos(turned), np.sin(turned)))
    places = np.arange(SIDE)
    rows, columns = ((places + shift[:, None]).clip(0, SIDE - 1) for shift in (down, across))
    return np.einsum("s,sij...->ij...", weights / weights.sum(), x[rows[:, :, None], columns[:, None, :]])


KNOWN: dict[str, tuple[Corrupt, list[Any]]] = {
    "snow": (snow, [(0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
                    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)]),
    "frost": (frost, [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)]),
    "fog": (fog, [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)]),
    "brightness": (brightness, [0.05, 0.1, 0.15, 0.2, 0.3]),
    "contrast": (contrast, [0.75, 0.5, 0.4, 0.3, 0.15]),
    "spatter": (spatter, [(0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0), (0.65, 0.3, 1, 0.69, 0.5, 0),
                          (0.65, 0.1, 0.7, 0.69, 0.6, 1), (0.65, 0.1, 0.5, 0.68, 0.6, 1)]),
    "elastic": (elastic, [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)]),
    "jpeg": (jpeg, [80, 65, 58, 50, 40]),
    "pixelate": (pixelate, [0.95, 0.9, 0.85, 0.75, 0.65]),
    "saturate": (saturate, [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)]),
    "gaussian_noise": (gaussian_noise, [0.04, 0.06, 0.08, 0.09, 0.1]),
    "shot_noise": (shot_noise, [500, 250, 100, 75, 50]),
    "impulse_noise": (impulse_noise, [0.01, 0.02, 0.03, 0.05, 0.07]),
    "speckle_noise": (speckle_noise, [0.06, 0.1, 0.12, 0.16, 0.2]),
    "gaussian_blur": (gaussian_blur, [0.4, 0.6, 0.7, 0.8, 1]),
    "defocus_blur": (defocus_blur, [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)]),
    "glass_blur": (glass_blur, [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)]),
    "motion_blur": (motion_blur, [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)]),
    "zoom_blur": (zoom_blur, [1.06, 1.11, 1.16, 1.21, 1.26]),
    "original": (lambda x, c, random: x, [None] * 5),
}  # fmt: skip
TYPES = (tuple(KNOWN)[:10], tuple(KNOWN)[10:])
"""Those of Nam et al.'s Types 0 and 1, in the order of the classes with which they go along."""
