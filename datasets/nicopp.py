"""NICO++: sixty kinds of things in six contexts: autumn, dim light, grass, outdoors, rock, water.

y is the kind and a the context. Every kind is in most contexts, but some groups have no training images.

Source: Zhang et al., "NICO++", CVPR 2023, arXiv 2204.08040, track 1 of the NICO challenge; splits and protocol of Yang
et al., "Change is Hard", ICML 2023, arXiv 2302.12254, and its code SubpopBench: of each group 25 images for validation
and 50 for the test, a third and two thirds of what there is where there are fewer than 75; ResNet-50 with ImageNet's
weights, SGD, batches of 108, 30,001 steps; images resized to 256, middle square of 224.
Differs: SubpopBench shuffles a group in the order in which the file system lists its files, which differs between
machines; here that is the order of their names.
Licence: for non-commercial research, as its authors ask.
Groups: 360; no source with their counts was found. 88,866 images in all (not verified) are asserted.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spurbench.bench.core.errors import BadData
from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, first, images_in, labelled_files, other_number
from spurbench.bench.images.tables import readable
from spurbench.bench.plugins.dataset import Training

CONTEXTS = ("autumn", "dim", "grass", "outdoor", "rock", "water")
KINDS = "dg_label_id_mapping.json"
SEED, HELD_OUT = 666, 75  # images of a group, a third of them for validation
TOTAL = 88_866


@dataclass(frozen=True)
class NICOpp(Pictures):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "unbiased_accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    training: ClassVar[Training] = Training(
        network="timm:resnet50", pretrained="timm", optimizer="sgd", lr=0.001, momentum=0.9, weight_decay=1e-4,
        steps=30_001, batch=108, evaluate=1000)  # fmt: skip
    layouts: ClassVar[str] = f"{KINDS} and public_dg_0416/train/<context>/<kind>/"
    link: ClassVar[str] = "https://nicochallenge.com/dataset"

    size: int = 224  # side of the prepared images

    @property
    def crop(self) -> Crop:
        return Crop(self.size, square=True, margin=256 / 224)

    def listing(self, folder: Path) -> Listing | None:
        file = first(folder / home / KINDS for home in ("", "nicopp", "NICO++", "track_1"))
        if file is None:
            return None
        kinds, home = kinds_in(file), file.parent / "public_dg_0416" / "train"
        draw = random.Random(SEED)
        splits: dict[str, list[tuple[Path, int, int]]] = {"train": [], "validation": [], "test": []}
        for a, context in enumerate(CONTEXTS):
            for kind, y in kinds.items():
                group = images_in(home / context / kind) if (home / context / kind).is_dir() else []
                draw.shuffle(group)
                held_out = min(len(group), HELD_OUT)
                parts = group[held_out:], group[: held_out // 3], group[held_out // 3 : held_out]
                for into, part in zip(splits.values(), parts, strict=True):
                    into += [(image, y, a) for image in part]
        rows = {name: labelled_files(folder, images) for name, images in splits.items()}
        doubts = other_number(sum(map(len, splits.values())), (TOTAL,))
        return Listing("NICO++'s folders", folder, rows, sorted(kinds, key=kinds.__getitem__), CONTEXTS, doubts=doubts)


def kinds_in(file: Path) -> Mapping[str, int]:
    """The number of each kind; raises BadData unless they count from 0."""
    try:
        found = json.loads(readable(file))
        numbers = sorted(found.values())
    except (ValueError, AttributeError, TypeError):
        numbers = []
    if not numbers or numbers != list(range(len(numbers))):
        raise BadData(f'{file}: expected the names of all kinds, numbered from 0, such as {{"bear": 0, "car": 1}}')
    return {str(kind): number for kind, number in found.items()}
