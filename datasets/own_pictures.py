"""Images of your own: a folder with a metadata.csv, or of folders of classes, without writing any code.

`spurbench data prepare own_pictures --from FOLDER --set own_pictures.name=mine`, then run it with the same `--set`.
metadata.csv has a row per image and the columns img_filename (its path below FOLDER), y (from 0), a (the attribute,
from 0; `attribute` may name another column) and split (0 training, 1 validation, 2 test). Without it:
{train,validation,test}/<class>/<picture> and no attribute. The middle square of each image is resized to `size`.

Source: yours.
Licence: yours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, image_folder, table
from spurbench.bench.plugins.dataset import Training


@dataclass(frozen=True)
class OwnPictures(Pictures):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "accuracy"), ("train", "accuracy"))  # fmt: skip
    training: ClassVar[Training] = Training(
        network="timm:resnet18", optimizer="sgd", lr=0.001, momentum=0.9, weight_decay=1e-4, steps=1000,
        batch=128)  # fmt: skip
    layouts: ClassVar[str] = "a metadata.csv with columns img_filename, y, a, split, or {train,test}/<class>/<picture>"

    name: str = ""  # what the prepared images are called
    attribute: str = "a"  # the column of metadata.csv that holds the spurious attribute
    size: int = 224  # side of the prepared images

    @property
    def crop(self) -> Crop:
        return Crop(self.size, square=True)

    @property
    def chosen(self) -> Mapping[str, str]:
        if not self.name:
            raise UserError(f"which pictures? {self.otherwise} says what they are called")
        return {"name": self.name, "attribute": self.attribute}

    @property
    def otherwise(self) -> str:
        return f"--set {self.called}.name=NAME"

    @property
    def told_by_name(self) -> bool:
        return "-" not in self.name  # it stood between name and attribute

    def version(self, origin: str) -> str:
        """Its name: '@' and '+', which none of its parts contains, mark non-default parts."""
        attribute = "" if self.attribute == "a" else f"@{self.attribute}"
        mark = "-" if origin in ("original", "original-incomplete") else "+"
        return f"{self.name}{attribute}{mark}{super().version(origin)}"

    def listing(self, folder: Path) -> Listing | None:
        found = table(folder, self.attribute)
        if found is None and self.attribute != "a":
            raise BadData(f"{folder} has no metadata.csv, whose column '{self.attribute}' would be the attribute")
        classes = sorted(p.name for p in folder.glob("train/[!.]*/"))
        return found or image_folder(folder, classes, origin="original")
