"""Base class of datasets that are prepared once: from prepared arrays to splits, and what `data` commands say."""

from __future__ import annotations

import re
import shlex
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import nn

from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.files import data_folder
from spurbench.bench.plugins.dataset import Build, Data, Dataset, Split
from spurbench.bench.plugins.registry import SHARED_OPTIONS
from spurbench.bench.prepared.folder import Prepared

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
WORD = re.compile(r"\w[\w .-]*")  # what can be part of a group's name
LONGEST_NAME = 200
UNNAMED = "a"  # the attribute of data that have only one


@dataclass(frozen=True)
class PreparedDataset(Dataset):
    """A dataset of prepared arrays, which all runs on a machine share."""

    source: ClassVar[str] = "FOLDER"  # what `data prepare --from` takes

    @property
    def home(self) -> str:
        """The name under which its versions are prepared."""
        return self.called

    @property
    @abstractmethod
    def asked(self) -> str:
        """The name of the version that these options ask for."""

    @abstractmethod
    def find(self) -> Prepared | None:
        """That version; raises BadData for one that was prepared with other options than these."""

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.prepared().facts["classes"])

    @property
    def chosen(self) -> Mapping[str, str]:
        """The options that decide which examples and labels are prepared, beside those in the version's name."""
        return {}

    def set_options(self) -> str:
        """The options that differ from their defaults, as the command line takes them, each after a space."""
        names = [f.name for f in fields(self) if f.name not in SHARED_OPTIONS and getattr(self, f.name) != f.default]
        return "".join(f" --set {shlex.quote(f'{self.called}.{name}={getattr(self, name)}')}" for name in names)

    def check_name(self, version: str, *parts: str) -> str:
        """A version's name; raises UserError if it, or a value of the user's in it, cannot name a folder."""
        for text in parts:
            if not NAME.fullmatch(text):
                can = "expected letters, digits, '_', '-' and '.', the last two not at its beginning"
                raise UserError(f"{text[:80]!r} cannot name a folder: {can}")
        if len(version) > LONGEST_NAME:
            raise UserError(
                f"'{version[:40]}…' cannot name a folder: {len(version)} characters, at most {LONGEST_NAME}"
            )
        if self.home == "downloads":
            raise UserError(f"a dataset called {self.home} would lie among the downloads: choose another name")
        return version

    # ---- loading ------------------------------------------------------------------------------------------------

    def prepared(self) -> Prepared:
        """The prepared version; raises BadData, saying how to prepare it, if there is none."""
        found = self.find()
        if found:
            return found
        set_ = self.set_options()
        others = ", ".join(one.facts["version"] for one in Prepared.versions(self.home) if isinstance(one, Prepared))
        raise BadData(
            f"{self.home} is not prepared as '{self.asked}' in {data_folder() / self.home}: "
            f"spurbench data prepare {shlex.quote(self.called)}{set_ and f' --from {self.source}'}{set_}"
            + (f"; there is: {others}" if others else "")
        )

    def split(self, name: str) -> Split:
        """One prepared split, with memory-mapped inputs."""
        here = self.prepared()
        labels = here.labels(name)
        x = {key: torch.from_numpy(array) for key, array in here.arrays(name).items()}
        codes = {key: torch.from_numpy(each) for key, each in labels.attributes.items()}
        attribute = codes.pop(UNNAMED) if codes.keys() == {UNNAMED} else None
        subsets = {key: torch.from_numpy(each) for key, each in labels.subsets.items()}
        return Split(
            x["x"] if x.keys() == {"x"} else x, torch.from_numpy(labels.y), attribute, named=codes, subsets=subsets
        )

    def data(self, seed: int) -> Data:
        """All splits; `seed` is for data that are drawn at random."""
        facts = self.prepared().facts
        tests = {name: self.split(name) for name in facts["splits"] if name != "train"}
        values = dict(facts["attributes"])
        attributes = len(values.pop(UNNAMED)) if values.keys() == {UNNAMED} else 1
        named = {name: value_names(each) for name, each in values.items()}
        return Data(self.split("train"), tests, self.classes, attributes, named=named)

    def load(self, seed: int, build: Build) -> tuple[Data, nn.Module]:
        data = self.data(seed)
        torch.manual_seed(seed)
        return data, build(data.train.x)

    # ---- what `data` commands say -------------------------------------------------------------------------------

    def shares_hint(self) -> str:
        """How often labels come with attributes; empty without attributes, or while other files are missing."""
        with suppress(BadData):
            return self.data(0).shares_hint
        return ""

    def checksum(self) -> str:
        return self.prepared().checksum

    def files(self) -> str:
        from spurbench.bench.prepared.workplace import find_unfinished

        found = [str(one) for one in Prepared.versions(self.home)]
        found += [f"{left} is unfinished: the same command continues it" for left in find_unfinished(self.home)]
        missing = f"not prepared: spurbench data prepare {shlex.quote(self.called)} --from {self.source}"
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


def value_names(names: Sequence[str]) -> tuple[str, ...] | int:
    """What an attribute's values are called in the names of groups, or how many there are if they are no words."""
    words = tuple(re.sub(r"[^\w .-]", "-", name) for name in names)
    return words if all(map(WORD.fullmatch, words)) and len(set(words)) == len(words) else len(words)
