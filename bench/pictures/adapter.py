"""Base of the datasets whose pictures are prepared once: from a listing to splits, and what `data` commands do."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from spurbench.bench.dataset import Build, Data, Dataset, Split
from spurbench.bench.errors import BadData, UserError
from spurbench.bench.pictures.decode import Crop
from spurbench.bench.pictures.listing import Listing
from spurbench.bench.pictures.prepared import Prepared, root

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Pictures(Dataset):
    """A dataset of prepared pictures; `origin` is part of a run's identity, so that versions are never mixed up."""

    published: ClassVar[Mapping[str, tuple[int, ...]]] = {}  # pictures of each group, by split
    layouts: ClassVar[str]  # what `listing` looks for, in words
    link: ClassVar[str] = ""  # where to get it by hand
    fetch: ClassVar[str] = ""  # what downloads it, as package:name: wilds:celebA, torchvision:CIFAR10
    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)  # ImageNet's
    std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    origin: str = "original"  # or what else the pictures were prepared from, such as "jpeg"

    @property
    def home(self) -> str:
        """The name its pictures are prepared under."""
        return self.called

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.prepared().facts["classes"])

    @property
    @abstractmethod
    def crop(self) -> Crop:
        """How each picture becomes an array."""

    @abstractmethod
    def listing(self, folder: Path) -> Listing | None:
        """What the folder holds, or None if it has none of the known layouts."""

    def download(self, folder: Path) -> Path:
        """Fetch the files; the folder to list."""
        package, _, name = self.fetch.partition(":")
        if package not in DOWNLOADS:
            raise UserError("there is nowhere to download it from")
        print(f"downloading {self.home} through {package}", file=sys.stderr)
        DOWNLOADS[package](name, folder)
        return folder

    def version(self, origin: str) -> str:
        """The name of a prepared version; it tells the size of pictures that were resized."""
        return origin if self.crop.exact else f"{origin}-{self.crop.side}"

    # ---- preparing ----------------------------------------------------------------------------------------------

    def prepare(self, source: Path | None = None, allow_bad: bool = False, processes: int | None = None) -> str:
        """Prepare from the folder, or download; what was done. Raises UserError for files that are not as published."""
        from spurbench.bench.pictures.preparing import Order, prepare

        here = self.ready(self.origin, allow_bad)
        if here and (source is None or (here.facts["from"] == str(source.resolve()) and not source.exists())):
            return f"already prepared: {here} ({here.folder})"
        listing = self.found(source.resolve() if source else fetched(self))
        origin = listing.origin if self.origin == "original" else self.origin
        known = origin == listing.origin
        listing.check(self.published if known else {}, self.elsewise, known)
        here = here or self.ready(origin, allow_bad)
        if here:
            return already(here, listing)
        made = prepare(listing, Order(self.home, self.version, self.crop, allow_bad, processes), origin)
        return f"prepared {made} ({made.folder}){self.hint(made.facts['origin'])}"

    def hint(self, origin: str) -> str:
        """The options with which to run what was prepared."""
        sets = replace(self, origin=origin).sets()
        return f"; run it with{sets}" if sets else ""

    def sets(self) -> str:
        """The options as the command line takes them, each after a space; none that has its default."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return "".join(f" --set {shlex.quote(f'{self.called}.{name}={value}')}" for name, value in own.items())

    def ready(self, origin: str, allow_bad: bool = False) -> Prepared | None:
        """The prepared version of an origin; if allowed, also one without unreadable pictures."""
        if self.crop.side < 1:
            raise UserError(f"pictures of {self.crop.side} × {self.crop.side} pixels: size must be 1 or more")
        if not NAME.fullmatch(self.version(origin)):
            raise UserError(f"'{self.version(origin)}' cannot name a folder: letters, digits, '_', '-' and '.' can")
        found = Prepared.find(self.home, self.version(origin))
        return found or (self.ready(f"{origin}-incomplete") if allow_bad else None)

    def found(self, folder: Path) -> Listing:
        """What the folder holds; raises BadData if it is not there or has another layout."""
        if folder.is_file():
            raise BadData(f"{folder} is a file: give the folder it lies in, {folder.parent}")
        if not folder.is_dir():
            raise BadData(f"no folder {folder}")
        listing = self.listing(folder)
        if listing is None:
            raise BadData(f"{folder} has no layout that is known here; expected {self.layouts}")
        return listing

    @property
    def elsewise(self) -> str:
        """How to use files that are not the published ones."""
        return f"To use it as other data, name it: --set {self.called}.origin=NAME"

    # ---- loading ------------------------------------------------------------------------------------------------

    def prepared(self) -> Prepared:
        """The prepared pictures; raises BadData, saying how to prepare them, if they are not there."""
        found = self.ready(self.origin)
        if found:
            return found
        others = ", ".join(one.facts["version"] for one in Prepared.versions(self.home) if isinstance(one, Prepared))
        raise BadData(
            f"{self.home} is not prepared as '{self.version(self.origin)}' in {root() / self.home}: "
            f"spurbench data prepare {self.called}{self.sets() and ' --from FOLDER'}{self.sets()}"
            + (f"; there is: {others}" if others else "")
        )

    def split(self, name: str) -> Split:
        """One prepared split, its pixels memory-mapped."""
        here = self.prepared()
        labels = here.labels(name)
        a = torch.from_numpy(labels["a"]) if "a" in labels else None
        return Split(torch.from_numpy(here.pictures(name)), torch.from_numpy(labels["y"]), a)

    def data(self, seed: int) -> Data:
        """All splits; `seed` is for data that are drawn."""
        facts = self.prepared().facts
        tests = {name: self.split(name) for name in facts["splits"] if name != "train"}
        attributes = max(1, len(facts["attributes"]))
        return Data(self.split("train"), tests, self.classes, attributes, mean=self.mean, std=self.std)

    def load(self, seed: int, build: Build) -> tuple[Data, nn.Module]:
        data = self.data(seed)
        torch.manual_seed(seed)
        return data, build(data.train.x[:2])

    # ---- what `data` commands say -------------------------------------------------------------------------------

    def checksum(self) -> str:
        return self.prepared().checksum

    def files(self) -> str:
        found = [str(one) for one in Prepared.versions(self.home)]
        return "; ".join(found) if found else f"not prepared: spurbench data prepare {self.called} --from FOLDER"

    def verify(self, thorough: bool = True) -> str:
        found = list(Prepared.versions(self.home))
        bad = [str(one) for one in found if not isinstance(one, Prepared)]
        for one in found if thorough else ():
            if isinstance(one, Prepared):
                bad += one.damage()
        if bad:
            raise BadData("; ".join(bad))
        words = ", SHA-256 as prepared" if thorough else ""
        return "; ".join(f"{one}{words}" for one in found) or "not prepared, nothing to verify"


def already(here: Prepared, listing: Listing) -> str:
    """That pictures are prepared; raises UserError if their folder holds others, or other labels, by now."""
    if here.facts["from"] != str(listing.folder):
        return f"already prepared: {here} ({here.folder}); delete it to prepare it anew"
    if here.facts.get("listing", listing.fingerprint) != listing.fingerprint:
        raise UserError(f"{listing.folder} has changed since it was prepared: delete {here.folder} to prepare it anew")
    return f"already prepared: {here} ({here.folder})"


def by_wilds(name: str, folder: Path) -> None:
    from wilds import get_dataset

    said = io.StringIO()
    try:
        with redirect_stdout(said):
            get_dataset(name, root_dir=str(folder), download=True)
    except Exception:
        causes = re.findall(r"^Exception: *(.+)", said.getvalue(), re.MULTILINE)
        if causes:  # it prints why a download failed, goes on, and complains of the files it misses
            raise UserError(causes[-1]) from None
        raise


def by_torchvision(name: str, folder: Path) -> None:
    from torchvision import datasets

    getattr(datasets, name)(str(folder), download=True)


DOWNLOADS = {"wilds": by_wilds, "torchvision": by_torchvision}


def fetched(dataset: Pictures) -> Path:
    """The folder of the downloaded files; raises UserError, saying what to do by hand, if that fails."""
    from spurbench.bench.pictures.preparing import locked

    folder = root() / "downloads" / dataset.home
    if folder.is_dir():
        return folder
    work = folder.with_name(f".{dataset.home}.downloading")
    work.mkdir(parents=True, exist_ok=True)
    try:
        with locked(work):
            shutil.rmtree(work / "files", ignore_errors=True)  # what came half is not taken for the whole
            dataset.download(work / "files").rename(folder)
            shutil.rmtree(work)
        return folder
    except ImportError as error:
        reason = f"needs the package {error.name}"
    except Exception as error:  # whatever the network, the server or the other package brings up
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(
        f"{dataset.home} is not prepared and cannot be downloaded ({reason}); "
        f"get it{f' from {dataset.link}' if dataset.link else ''}, then: "
        f"spurbench data prepare {dataset.called} --from FOLDER, where FOLDER has {dataset.layouts}"
    )
