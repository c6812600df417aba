"""CIFAR-10: photographs of ten kinds of objects, 32 × 32 pixels; no attribute, but attacks to withstand.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; protocol of the code of Pezeshki
et al., "Gradient Starvation", NeurIPS 2021, Table 1: VGG-15 with batch normalisation, 160 epochs of 390 steps, crops
and flips, learning rate a tenth after epochs 80 and 120.
Licence: none stated by its authors; collected from the web for research.
Groups: none; 5,000 training and 1,000 test images of each class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from spurbench.bench.images.adapter import Pictures
from spurbench.bench.images.batches import Archive, batches
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, image_folder
from spurbench.bench.plugins.dataset import Attack, Pgd, Training

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = Archive(
    "cifar-10-batches-py", "cifar-10-python.tar.gz",
    {
        "train": {
            "data_batch_1": "c99cafc152244af753f735de768cd75f", "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751", "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
    },
)  # fmt: skip


@dataclass(frozen=True)
class CIFAR10(Pictures):
    training: ClassVar[Training] = Training(
        network="vgg15_bn", optimizer="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4,
        steps=62_400, batch=128, drops="0.5,0.75", augment="crop,flip")  # fmt: skip
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "accuracy"), ("train", "accuracy"), ("test", "pgd_as_released_accuracy"), ("test", "pgd_accuracy"),
    )  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("test",)
    published: ClassVar[dict[str, tuple[int, ...]]] = {"train": (5000,) * 10, "test": (1000,) * 10}
    layouts: ClassVar[str] = "cifar-10-batches-py/, cifar-10-python.tar.gz or {train,test}/<class>/<picture>"
    link: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar.html"
    fetch: ClassVar[str] = "torchvision:CIFAR10"
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)

    attack: str | None = None  # an additional one, "NORM EPS STEP STEPS [random]": "inf 8/255 2/255 50 random"

    @property
    def crop(self) -> Crop:
        return Crop(32, exact=True)

    def listing(self, folder: Path) -> Listing | None:
        return batches(folder, ARCHIVE, CLASSES) or image_folder(folder, CLASSES, origin="jpeg")

    def attacks(self) -> dict[str, Attack]:
        """Table 1's: ten steps of half a level within five, as released and with the gradients where they belong."""
        right = Pgd(eps=5 / 255, step=0.5 / 255, steps=10)
        released = replace(right, mount="released", mean=CIFAR10.mean, std=CIFAR10.std)  # for CIFAR-100 too
        return {"pgd_as_released_accuracy": released, "pgd_accuracy": right} | self.further()

    def further(self) -> dict[str, Attack]:
        """The user's attack, if there is one."""
        return {"further_pgd_accuracy": Pgd.parse(self.attack)} if self.attack else {}
