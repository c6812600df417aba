"""CIFAR-100: photographs of a hundred kinds of objects, 32 × 32 pixels; no attribute, but attacks to withstand.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; protocol of the code of Pezeshki
et al., "Gradient Starvation", NeurIPS 2021, Table 1, as for CIFAR-10 but with the network that its command line shows,
a pre-activation ResNet-110.
Licence: none stated by its authors; collected from the web for research.
Groups: none; 500 training and 100 test images of each class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spurbench.bench.images.batches import Archive, batches
from spurbench.bench.images.listing import Listing, image_folder
from spurbench.bench.plugins.dataset import Training
from spurbench.datasets.cifar10 import CIFAR10

CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)
ARCHIVE = Archive(
    "cifar-100-python", "cifar-100-python.tar.gz",
    {"train": {"train": "16019d7e3df5f24257cddd939b257f8d"}, "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}},
    labels="fine_labels",
)  # fmt: skip


@dataclass(frozen=True)
class CIFAR100(CIFAR10):
    training: ClassVar[Training] = Training(
        network="preact_resnet110", optimizer="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4,
        steps=62_400, batch=128, drops="0.5,0.75", augment="crop,flip")  # fmt: skip
    published: ClassVar[dict[str, tuple[int, ...]]] = {"train": (500,) * 100, "test": (100,) * 100}
    layouts: ClassVar[str] = "cifar-100-python/, cifar-100-python.tar.gz or {train,test}/<class>/<picture>"
    link: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar.html"
    fetch: ClassVar[str] = "torchvision:CIFAR100"
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4865, 0.4409)
    std: ClassVar[tuple[float, ...]] = (0.2673, 0.2564, 0.2762)

    def listing(self, folder: Path) -> Listing | None:
        return batches(folder, ARCHIVE, CLASSES) or image_folder(folder, CLASSES, origin="jpeg")
