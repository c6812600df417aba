"""Spawrious: four breeds of dogs, in training each at places of its own, in the test at those of another breed.

y is the breed and a the place: beach, desert, dirt road, jungle, mountain or snow; a text-to-image model made the
images. In the one-to-one settings (o2o) a breed has one place in 97 % of the images of the first training environment
and 87 % of those of the second, and all breeds share another one. In the many-to-many settings (m2m) pairs of breeds
share pairs of places, and a breed has one of them in the first environment, the other in the second. No test group has
training images.

Source: Lynch et al., "Spawrious", arXiv 2303.05470, and its released code: places and counts of all settings; training
of its example: ResNet-18 with ImageNet's weights, SGD, 64 images of each environment a step, 30 epochs.
Differs: where a setting takes some images of a folder, they are the first by name; theirs are the first that the file
system lists. Images are flipped in training, their colours are not changed.
Licence: MIT, as the repository says.
Groups (y, a): for o2o in training 5,828 images of each breed at its place and 508 at the shared one, for m2m 3,168 of
each breed at each of two places; test 25,344 images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch

from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, first, images_in, labelled_files
from spurbench.bench.plugins.dataset import Data, Training

BREEDS = ("bulldog", "corgi", "dachshund", "labrador")
PLACES = ("beach", "desert", "dirt", "jungle", "mountain", "snow")
ORDER = ("bulldog", "dachshund", "labrador", "corgi")  # of the places below
SETTINGS = {  # places in training, places in the test, and in o2o the shared one
    "o2o_easy": ("desert jungle dirt snow", "dirt snow desert jungle", "beach"),
    "o2o_medium": ("mountain beach dirt jungle", "jungle dirt beach snow", "desert"),
    "o2o_hard": ("jungle mountain snow desert", "mountain snow desert jungle", "beach"),
    "m2m_easy": ("desert mountain dirt jungle", "dirt jungle mountain desert", ""),
    "m2m_medium": ("beach snow mountain desert", "desert mountain beach snow", ""),
    "m2m_hard": ("dirt jungle snow beach", "snow beach dirt jungle", ""),
}
SHARES = (0.97, 0.87)  # of the images at a breed's own place, by environment
EACH = 3168  # images in a folder
PARTNERS = (1, 0, 3, 2)  # in m2m, of each breed in ORDER, the one with which it shares two places


class Part(NamedTuple):
    """A part of a split: the first images of one folder."""

    environment: int  # in o2o also the name of the folder at the top
    place: str
    breed: str
    share: float = 1.0
    rest: bool = False  # as many as are not in that share

    def taken(self, images: int) -> int:
        """How many images of the folder are taken."""
        share = int(self.share * images)
        return images - share if self.rest else share

    @property
    def group(self) -> int:
        return BREEDS.index(self.breed) * len(PLACES) + PLACES.index(self.place)


@dataclass(frozen=True)
class Spawrious(Pictures):
    provides: ClassVar[frozenset[str]] = frozenset({"groups", "environments"})
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "accuracy"), ("test", "worst_group_accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("test",)
    training: ClassVar[Training] = Training(
        network="timm:resnet18", pretrained="timm", optimizer="sgd", lr=0.001, momentum=0.9, steps=5_940, batch=128,
        augment="flip")  # fmt: skip
    layouts: ClassVar[str] = "spawrious224/{0,1}/<place>/<breed>/"
    link: ClassVar[str] = "https://github.com/aengusl/spawrious"

    setting: Literal["o2o_easy", "o2o_medium", "o2o_hard", "m2m_easy", "m2m_medium", "m2m_hard"] = "o2o_easy"
    size: int = 224  # side of the prepared images

    @property
    def crop(self) -> Crop:
        return Crop(self.size)

    @property
    def chosen(self) -> Mapping[str, str]:
        return {"setting": self.setting}

    def version(self, origin: str) -> str:
        return f"{super().version(origin)}-{self.setting}"

    @property
    def parts(self) -> Mapping[str, list[Part]]:
        """What each split is made of."""
        own, held_out, shared = (places.split() for places in SETTINGS[self.setting])
        if not shared:
            return {"train": many_to_many(own), "test": many_to_many(held_out)}
        train = [Part(e, place, breed, SHARES[e]) for e in (0, 1) for place, breed in zip(own, ORDER, strict=True)]
        train += [Part(e, shared[0], breed, SHARES[e], rest=True) for e in (0, 1) for breed in ORDER]
        test = [Part(e, place, breed) for e in (0, 1) for place, breed in zip(held_out, ORDER, strict=True)]
        return {"train": train, "test": test}

    @property
    def expected(self) -> Mapping[str, tuple[int, ...]]:
        counts = {name: [0] * len(BREEDS) * len(PLACES) for name in self.parts}
        for name, parts in self.parts.items():
            for part in parts:
                counts[name][part.group] += part.taken(EACH)
        return {name: tuple(found) for name, found in counts.items()}

    def listing(self, folder: Path) -> Listing | None:
        home = first(folder / name for name in ("spawrious224", "data/spawrious224"))
        if home is None:
            return None
        splits = {
            name: labelled_files(folder, (image for part in parts for image in self.images(home, part)))
            for name, parts in self.parts.items()
        }
        return Listing("Spawrious' folders", folder, splits, BREEDS, PLACES)

    def images(self, home: Path, part: Part) -> list[tuple[Path, int, int]]:
        """The images of a part with their labels."""
        top = str(part.environment) if self.setting.startswith("o2o") else "0"
        found = images_in(home / top / part.place / part.breed)
        y, a = divmod(part.group, len(PLACES))
        return [(file, y, a) for file in found[: part.taken(len(found))]]

    def data(self, seed: int) -> Data:
        """All splits; the environment of a training image is that of the part it is in."""
        found = super().data(seed)
        second = {(part.place, part.breed) for part in self.parts["train"] if part.environment}
        homes = [Path(id).parts[-4:-1] for id in self.prepared().labels("train").ids.tolist()]
        o2o = self.setting.startswith("o2o")
        environment = torch.tensor([int(top == "1" if o2o else tuple(at) in second) for top, *at in homes])
        return replace(found, train=replace(found.train, environment=environment), environments=2)


def many_to_many(places: list[str]) -> list[Part]:
    """Each breed at its place, and in the second environment at its partner's."""
    first = [Part(0, place, breed) for place, breed in zip(places, ORDER, strict=True)]
    return first + [Part(1, places[PARTNERS[k]], breed) for k, breed in enumerate(ORDER)]
