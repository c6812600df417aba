"""BAR, Biased Action Recognition: six actions, in training each where it usually happens, in the test elsewhere.

y is the action. There is no attribute: all training images have their action's place (climbing on rock, diving under
water, fishing from a surface of water, vaulting before the sky, racing on asphalt, throwing on a playing field), and no
test image has. A network that knows the places alone fails the test.

Source: Nam et al., "Learning from Failure", NeurIPS 2020, arXiv 2007.02561, https://github.com/alinlab/BAR; network and
training are ours.
Licence: none stated for the whole; its metadata name those of the images.
Groups (y): training 326, 520, 163, 279, 336, 317; test 105, 159, 42, 131, 132, 85.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from spurbench.bench.core.errors import BadData, unknown
from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, first, images_in, labelled_files
from spurbench.bench.plugins.dataset import Training

ACTIONS = ("climbing", "diving", "fishing", "pole vaulting", "racing", "throwing")


@dataclass(frozen=True)
class BAR(Pictures):
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "accuracy"), ("test", "balanced_accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("test",)
    training: ClassVar[Training] = Training(
        network="timm:resnet18", pretrained="timm", optimizer="adam", lr=1e-4, steps=1_500, batch=64,
        augment="crop,flip")  # fmt: skip
    published: ClassVar[dict[str, tuple[int, ...]]] = {
        "train": (326, 520, 163, 279, 336, 317),
        "test": (105, 159, 42, 131, 132, 85),
    }
    layouts: ClassVar[str] = "train/ and test/ with images such as climbing_12.jpg"
    link: ClassVar[str] = "https://github.com/alinlab/BAR"

    size: int = 224  # side of the prepared images

    @property
    def crop(self) -> Crop:
        return Crop(self.size)

    def listing(self, folder: Path) -> Listing | None:
        home = first(folder / name / "train" for name in ("", "BAR", "BAR-master", "bar"))
        if home is None or (home / "climbing").is_dir():
            return None
        splits = {
            name: replace(labelled_files(folder, map(named, images_in(home.with_name(name)))), a=None)
            for name in ("train", "test")
        }
        return Listing("BAR's folders", folder, splits, ACTIONS)


def named(file: Path) -> tuple[Path, int, int]:
    """A file with the action that its name begins with."""
    action = file.stem.rpartition("_")[0].replace("_", " ")
    if action not in ACTIONS:
        raise BadData(f"{file}: {unknown('action', action, ACTIONS)}")
    return file, ACTIONS.index(action), 0
