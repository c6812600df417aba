"""From an image file to pixels of one size. Imported by preparing processes: no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for a file that is missing, truncated, not an image, or absurdly large."""


@dataclass(frozen=True)
class Crop:
    """How an image becomes `side` × `side` pixels; resizing is bilinear with antialiasing, as Pillow does it."""

    side: int
    exact: bool = False  # it already has that size; any other size is an error
    square: bool = False  # first crop the largest middle square; else both sides are scaled independently
    margin: float = 1.0  # resize to this multiple of the side, then crop the middle


def decode(file: Path | str | BinaryIO, crop: Crop) -> Pixels:
    """The image in a file as RGB, [3, side, side]. Raises one of UNREADABLE."""
    try:
        with Image.open(file) as opened:
            if opened.mode[0] in "IF":  # which Pillow would clip at 255
                raise ValueError(f"has more than 8 bits a channel (mode {opened.mode})")
            return crop_image(opened.convert("RGB"), crop)
    except UnidentifiedImageError:  # whose text names the object it was given
        raise ValueError("is not an image, or of an unknown format") from None


def crop_image(image: Image.Image, crop: Crop) -> Pixels:
    """An image in RGB as [3, side, side]."""
    if crop.exact and image.size != (crop.side, crop.side):
        raise ValueError(f"has {image.width} × {image.height} pixels, not {crop.side} × {crop.side}")
    if crop.square:
        image = crop_middle(image, min(image.size))
    resized = round(crop.side * crop.margin)
    if image.size != (resized, resized):
        image = image.resize((resized, resized), Image.Resampling.BILINEAR)
    return np.asarray(crop_middle(image, crop.side)).transpose(2, 0, 1)


def crop_middle(image: Image.Image, side: int) -> Image.Image:
    """The square in the middle; an odd pixel goes to the side that torchvision's CenterCrop gives it to."""
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))
