"""Base class of datasets whose images are prepared once: from a listing to splits, and the work of `data` commands."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import sys
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.files import data_folder
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, make_printable
from spurbench.bench.plugins.dataset import Data
from spurbench.bench.prepared.folder import Prepared
from spurbench.bench.prepared.prepared_dataset import PreparedDataset

LARGEST_SIDE = 4096


@dataclass(frozen=True)
class Pictures(PreparedDataset):
    """A dataset of prepared images; `origin` is part of a run's identity, so that versions are never mixed up."""

    published: ClassVar[Mapping[str, tuple[int, ...]]] = {}  # images of each group, by split
    layouts: ClassVar[str]  # what `listing` looks for, in words
    link: ClassVar[str] = ""  # where to get it manually
    fetch: ClassVar[str] = ""  # what downloads it, as package:name: wilds:celebA, torchvision:CIFAR10
    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)  # ImageNet's
    std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    origin: str = "original"  # or what else the images were prepared from, such as "jpeg"

    @property
    def asked(self) -> str:
        return self.version(self.origin)

    def find(self) -> Prepared | None:
        return self.find_ready(self.origin)

    @property
    @abstractmethod
    def crop(self) -> Crop:
        """How each image becomes an array."""

    @abstractmethod
    def listing(self, folder: Path) -> Listing | None:
        """What the folder holds, or None if its layout is not known."""

    def download(self, folder: Path) -> Path:
        """Download the files, and return the folder to list."""
        package, _, name = self.fetch.partition(":")
        if package not in DOWNLOADS:
            raise UserError("there is no known place to download it from")
        print(f"downloading {self.home} through {package}", file=sys.stderr)
        DOWNLOADS[package](name, folder)
        return folder

    @property
    def expected(self) -> Mapping[str, tuple[int, ...]]:
        """Images of each group, by split, that the published files must give."""
        return self.published

    def version(self, origin: str) -> str:
        """The name of a prepared version, unique to this choice of options.

        It includes the size of images that were resized.
        """
        return origin if self.crop.exact else f"{origin}-{self.crop.side}"

    # ---- preparing ----------------------------------------------------------------------------------------------

    def prepare(self, source: Path | None = None, allow_bad: bool = False, processes: int | None = None) -> str:
        """Prepare from the folder or a download; says what was done. Raises UserError for files not as published."""
        from spurbench.bench.images.preparing import PreparationRequest, prepare

        here = self.find_ready(self.origin, allow_bad)
        folder = source and Path(os.path.realpath(source))
        if here and (folder is None or (is_from(here, folder) and not folder.exists())):
            return f"already prepared: {here} ({here.folder}, from {here.facts['from']}){self.shares_of(here)}"
        listing = self.find_listing(folder or download_once(self))
        origin = listing.origin if self.origin == "original" else self.origin
        known = origin == listing.origin
        listing.check(self.expected if known else {}, self.other_data_hint, known)
        here = here or self.find_ready(origin, allow_bad)
        if here:
            return confirm_prepared(here, listing, self.otherwise) + self.shares_of(here)
        request = PreparationRequest(self.home, self.version, self.crop, allow_bad, processes, self.chosen)
        made = prepare(listing, request, origin)
        hints = self.run_hint(made.facts["origin"]) + self.shares_of(made)
        return f"prepared {made}{describe_unused(listing)} ({made.folder}){hints}"

    def run_hint(self, origin: str) -> str:
        """A hint on the options with which to run what was prepared."""
        sets = replace(self, origin=origin).set_options()
        return f"; run it with{sets}" if sets else ""

    def shares_of(self, made: Prepared) -> str:
        return replace(self, origin=made.facts["origin"]).shares_hint()

    def find_ready(self, origin: str, allow_bad: bool = False) -> Prepared | None:
        """The prepared version of an origin; if allowed, also one that leaves out unreadable images.

        Raises BadData for one that was prepared with other options than its name says.
        """
        if not 1 <= self.crop.side <= LARGEST_SIDE:
            side = f"images of {self.crop.side} × {self.crop.side} pixels"
            raise UserError(f"{side}: size must be 1 or more, and at most {LARGEST_SIDE:,}")
        found = Prepared.find(self.home, self.check_name(self.version(origin), origin, *self.chosen.values()))
        if found and (other := self.find_differences(found, origin)):
            raise BadData(f"{found.folder} was prepared with {other}: delete it and prepare it again")
        return found or (self.find_ready(f"{origin}-incomplete") if allow_bad else None)

    def find_differences(self, found: Prepared, origin: str) -> str:
        """What a prepared version was made with instead of these options; empty if it is the one asked for."""
        asked = {"origin": origin, "crop": asdict(self.crop), "options": dict(self.chosen)}
        made: dict[str, object] = {"options": dict(self.chosen)} | dict(found.facts)
        if "options" not in found.facts and not self.told_by_name:
            return f"options that were not recorded then, perhaps not {asked['options']}"
        return ", ".join(f"{key} {made[key]}, not {value}" for key, value in asked.items() if made[key] != value)

    @property
    def told_by_name(self) -> bool:
        """Whether a version's name alone determines the options, where an older spurbench did not record them."""
        return True

    def find_listing(self, folder: Path) -> Listing:
        """What the folder holds; raises BadData if it does not exist or has another layout."""
        if folder.is_file():
            raise BadData(f"{folder} is a file: give its folder, {folder.parent}")
        if not folder.is_dir():
            raise BadData(f"no folder {folder}")
        listing = self.listing(folder)
        if listing is None:
            raise BadData(f"{folder} has no known layout; expected {self.layouts}")
        return listing

    @property
    def other_data_hint(self) -> str:
        """How to use files that are not the published ones."""
        return f"To use it as other data, name it: {self.otherwise}"

    @property
    def otherwise(self) -> str:
        """The option that gives other images a name of their own."""
        return f"--set {self.called}.origin=NAME"

    def data(self, seed: int) -> Data:
        return replace(super().data(seed), mean=self.mean, std=self.std)


def is_from(here: Prepared, folder: Path) -> bool:
    return here.facts["from"] == make_printable(str(folder))


def confirm_prepared(here: Prepared, listing: Listing, otherwise: str) -> str:
    """Says that these images are already prepared; raises UserError if the folder's are, or may be, different."""
    from spurbench.bench.images.decode_parts import digest_all

    facts, said = here.facts, f"already prepared: {here} ({here.folder})"
    same = is_from(here, listing.folder)
    now = {"listing": listing.fingerprint, "stamp": listing.stamp}
    if same and now.items() <= (now | facts).items():
        return said
    if "content" in facts and facts["content"] == listing.content(digest_all(listing)):
        return f"{said}; {listing.folder} holds the same images"
    was = "has changed since it was prepared" if same else f"is not where they came from, {facts['from']}"
    there = f"{here.folder} holds {here}; {listing.folder} {was}"
    raise UserError(f"{there}: delete {here.folder} to prepare it anew, or give the images another name, {otherwise}")


def describe_unused(listing: Listing) -> str:
    """The names of some of the files that are not used."""
    named = ", ".join(map(repr, listing.unused[:3])) + (", …" if len(listing.unused) > 3 else "")
    return f": {named}" if named else ""


def download_by_wilds(name: str, folder: Path) -> None:
    from wilds import get_dataset

    said = io.StringIO()
    try:
        with redirect_stdout(said):
            get_dataset(name, root_dir=str(folder), download=True)
    except Exception:
        causes = re.findall(r"^Exception: *(.+)", said.getvalue(), re.MULTILINE)
        if causes:  # it prints why a download failed, goes on, and complains about the missing files
            raise UserError(causes[-1]) from None
        raise


def download_by_torchvision(name: str, folder: Path) -> None:
    from torchvision import datasets

    getattr(datasets, name)(str(folder), download=True)


DOWNLOADS = {"wilds": download_by_wilds, "torchvision": download_by_torchvision}


def download_once(dataset: Pictures) -> Path:
    """The folder of the downloaded files; raises UserError, saying what to do manually, if that fails."""
    from spurbench.bench.prepared.workplace import locked

    folder = data_folder() / "downloads" / dataset.home
    if folder.is_dir():
        return folder
    work = folder.with_name(f".{dataset.home}.downloading")
    try:
        with locked(work):
            shutil.rmtree(work / "files", ignore_errors=True)  # a partial download is not taken for a complete one
            try:
                dataset.download(work / "files").rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return folder
    except ImportError as error:
        reason = f"needs the package {error.name}"
    except Exception as error:  # whatever the network, the server or the other package raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(
        f"{dataset.home} is not prepared and cannot be downloaded ({reason}); "
        f"get it{f' from {dataset.link}' if dataset.link else ''}, then: "
        f"spurbench data prepare {shlex.quote(dataset.called)} --from FOLDER, where FOLDER has {dataset.layouts}"
    )
