"""Base of the datasets whose pictures are prepared once: from a listing to splits, and what `data` commands do."""

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
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.images.decode import Crop
from spurbench.bench.images.listing import Listing, plainly
from spurbench.bench.images.prepared import Prepared, root
from spurbench.bench.plugins.dataset import Build, Data, Dataset, Split

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
LONGEST_NAME, LARGEST_SIDE = 200, 4096


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

    @property
    def chosen(self) -> Mapping[str, str]:
        """The options that decide, besides origin and size, which pictures and labels are prepared."""
        return {}

    def version(self, origin: str) -> str:
        """The name of a prepared version, which no other choice of options has.

        It tells the size of pictures that were resized.
        """
        return origin if self.crop.exact else f"{origin}-{self.crop.side}"

    # ---- preparing ----------------------------------------------------------------------------------------------

    def prepare(self, source: Path | None = None, allow_bad: bool = False, processes: int | None = None) -> str:
        """Prepare from the folder, or download; what was done. Raises UserError for files that are not as published."""
        from spurbench.bench.images.preparing import Order, prepare

        here = self.ready(self.origin, allow_bad)
        folder = source and Path(os.path.realpath(source))
        if here and (folder is None or (comes_from(here, folder) and not folder.exists())):
            return f"already prepared: {here} ({here.folder}, from {here.facts['from']})"
        listing = self.found(folder or fetched(self))
        origin = listing.origin if self.origin == "original" else self.origin
        known = origin == listing.origin
        listing.check(self.published if known else {}, self.elsewise, known)
        here = here or self.ready(origin, allow_bad)
        if here:
            return already(here, listing, self.otherwise)
        order = Order(self.home, self.version, self.crop, allow_bad, processes, self.chosen)
        made = prepare(listing, order, origin)
        return f"prepared {made}{unused(listing)} ({made.folder}){self.hint(made.facts['origin'])}"

    def hint(self, origin: str) -> str:
        """The options with which to run what was prepared."""
        sets = replace(self, origin=origin).sets()
        return f"; run it with{sets}" if sets else ""

    def sets(self) -> str:
        """The options as the command line takes them, each after a space; none that has its default."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return "".join(f" --set {shlex.quote(f'{self.called}.{name}={value}')}" for name, value in own.items())

    def ready(self, origin: str, allow_bad: bool = False) -> Prepared | None:
        """The prepared version of an origin; if allowed, also one without unreadable pictures.

        Raises BadData for one that was prepared with other options than its name tells.
        """
        if not 1 <= self.crop.side <= LARGEST_SIDE:
            side = f"pictures of {self.crop.side} × {self.crop.side} pixels"
            raise UserError(f"{side}: size must be 1 or more, and at most {LARGEST_SIDE:,}")
        found = Prepared.find(self.home, self.nameable(origin))
        if found and (other := self.differing(found, origin)):
            raise BadData(f"{found.folder} was prepared with {other}: delete it and prepare it again")
        return found or (self.ready(f"{origin}-incomplete") if allow_bad else None)

    def nameable(self, origin: str) -> str:
        """The name of the prepared version; raises UserError if a text of the user's cannot be in it."""
        for text in (origin, *self.chosen.values()):
            if not NAME.fullmatch(text):
                can = "letters, digits, '_', '-' and '.' can, the last two not at its beginning"
                raise UserError(f"{text[:80]!r} cannot name a folder: {can}")
        name = self.version(origin)
        if len(name) > LONGEST_NAME:
            raise UserError(f"'{name[:40]}…' cannot name a folder: {len(name)} characters, at most {LONGEST_NAME} can")
        if self.home == "downloads":
            raise UserError(f"a dataset called {self.home} would lie among what is downloaded: call it otherwise")
        return name

    def differing(self, found: Prepared, origin: str) -> str:
        """What a prepared version was made with instead of these options; empty if it is the one they mean."""
        asked = {"origin": origin, "crop": asdict(self.crop), "options": dict(self.chosen)}
        made: dict[str, object] = {"options": dict(self.chosen), **found.facts}
        if "options" not in found.facts and not self.told_by_name:
            return f"options that were not noted then, perhaps not {asked['options']}"
        return ", ".join(f"{key} {made[key]}, not {value}" for key, value in asked.items() if made[key] != value)

    @property
    def told_by_name(self) -> bool:
        """Whether a version's name alone tells the options, where an older spurbench did not note them."""
        return True

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
        return f"To use it as other data, name it: {self.otherwise}"

    @property
    def otherwise(self) -> str:
        """The option that gives other pictures a name of their own."""
        return f"--set {self.called}.origin=NAME"

    # ---- loading ------------------------------------------------------------------------------------------------

    def prepared(self) -> Prepared:
        """The prepared pictures; raises BadData, saying how to prepare them, if they are not there."""
        found = self.ready(self.origin)
        if found:
            return found
        others = ", ".join(one.facts["version"] for one in Prepared.versions(self.home) if isinstance(one, Prepared))
        raise BadData(
            f"{self.home} is not prepared as '{self.version(self.origin)}' in {root() / self.home}: "
            f"spurbench data prepare {shlex.quote(self.called)}{self.sets() and ' --from FOLDER'}{self.sets()}"
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
        from spurbench.bench.images.preparing import half_made

        found = [str(one) for one in Prepared.versions(self.home)]
        found += [f"{left} is half made: the same command goes on" for left in half_made(self.home)]
        missing = f"not prepared: spurbench data prepare {shlex.quote(self.called)} --from FOLDER"
        return "; ".join(found) or missing

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


def comes_from(here: Prepared, folder: Path) -> bool:
    return here.facts["from"] == plainly(str(folder))


def already(here: Prepared, listing: Listing, otherwise: str) -> str:
    """That these pictures are prepared; raises UserError if those of the folder are, or may be, other ones."""
    from spurbench.bench.images.decoding import digests

    facts, said = here.facts, f"already prepared: {here} ({here.folder})"
    same = comes_from(here, listing.folder)
    now = {"listing": listing.fingerprint, "stamp": listing.stamp}
    if same and now.items() <= (now | facts).items():
        return said
    if "content" in facts and facts["content"] == listing.content(digests(listing)):
        return f"{said}; {listing.folder} holds the same pictures"
    was = "has changed since it was prepared" if same else f"is not where they come from, {facts['from']}"
    there = f"{here.folder} holds {here}; {listing.folder} {was}"
    raise UserError(f"{there}: delete {here.folder} to prepare it anew, or give the pictures another name, {otherwise}")


def unused(listing: Listing) -> str:
    """Some of the files that are not used, by name."""
    named = ", ".join(map(repr, listing.unused[:3])) + (", …" if len(listing.unused) > 3 else "")
    return f": {named}" if named else ""


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
    from spurbench.bench.images.preparing import locked

    folder = root() / "downloads" / dataset.home
    if folder.is_dir():
        return folder
    work = folder.with_name(f".{dataset.home}.downloading")
    try:
        with locked(work):
            shutil.rmtree(work / "files", ignore_errors=True)  # what came half is not taken for the whole
            try:
                dataset.download(work / "files").rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return folder
    except ImportError as error:
        reason = f"needs the package {error.name}"
    except Exception as error:  # whatever the network, the server or the other package brings up
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(
        f"{dataset.home} is not prepared and cannot be downloaded ({reason}); "
        f"get it{f' from {dataset.link}' if dataset.link else ''}, then: "
        f"spurbench data prepare {shlex.quote(dataset.called)} --from FOLDER, where FOLDER has {dataset.layouts}"
    )
