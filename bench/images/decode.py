"""From a picture file to bytes of one size. Imported by preparing processes: no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for a file that is missing, cut short, not a picture, or absurdly large."""


@dataclass(frozen=True)
class Crop:
    """How a picture becomes `side` × `side` pixels; resizing is bilinear with smoothing, as Pillow does it."""

    side: int
    exact: bool = False  # it has that size already; any other is a wrong picture
    square: bool = False  # cut the largest middle square out first; else both sides are squeezed alike
    margin: float = 1.0  # resize to so many times the side, then cut the middle out


def decode(file: Path | str | BinaryIO, crop: Crop) -> Bytes:
    """The picture in a file as RGB, [3, side, side]. Raises one of UNREADABLE."""
    try:
        with Image.open(file) as opened:
            if opened.mode[0] in "IF":  # which Pillow would cut off above 255
                raise ValueError(f"has more than 8 bits a channel (mode {opened.mode})")
            return cropped(opened.convert("RGB"), crop)
    except UnidentifiedImageError:  # whose text names the object it was given
        raise ValueError("is no picture, or of an unknown kind") from None


def cropped(picture: Image.Image, crop: Crop) -> Bytes:
    """A picture in RGB as [3, side, side]."""
    if crop.exact and picture.size != (crop.side, crop.side):
        raise ValueError(f"has {picture.width} × {picture.height} pixels, not {crop.side} × {crop.side}")
    if crop.square:
        picture = middle(picture, min(picture.size))
    resized = round(crop.side * crop.margin)
    if picture.size != (resized, resized):
        picture = picture.resize((resized, resized), Image.Resampling.BILINEAR)
    return np.asarray(middle(picture, crop.side)).transpose(2, 0, 1)


def middle(picture: Image.Image, side: int) -> Image.Image:
    """The square in the middle; an odd pixel goes to the side that torchvision's CenterCrop gives it to."""
    left, top = round((picture.width - side) / 2), round((picture.height - side) / 2)
    return picture.crop((left, top, left + side, top + side))
