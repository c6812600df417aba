"""What an adapter gives: splits, the order of the paper's random draws, and the protocol's defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import product
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spurbench.bench.core.errors import BadData as BadData
from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.counts import describe_shares
from spurbench.bench.plugins.training_settings import Training as Training
from spurbench.bench.plugins.training_settings import reduced

Inputs = Tensor | dict[str, Tensor]
"""Raw inputs of n examples: a tensor [n, ...], or several by name, each [n, ...], such as token ids and their mask."""


def map_inputs(function: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """Inputs with a function applied to each tensor of them."""
    return function(x) if isinstance(x, Tensor) else {name: function(part) for name, part in x.items()}


def join_inputs(function: Callable[[list[Tensor]], Tensor], parts: Sequence[Any]) -> Inputs:
    """Several inputs made one by a function of the tensors of each name, such as `torch.cat`."""
    if isinstance(parts[0], Tensor):
        return function(list(parts))
    return {name: function([part[name] for part in parts]) for name in parts[0]}


def split_inputs(x: Inputs, size: int) -> Iterator[Inputs]:
    """Inputs in parts of at most `size` examples, in order; views."""
    for at in range(0, count_inputs(x), size):
        yield map_inputs(itemgetter(slice(at, at + size)), x)


def tensors_in(x: Inputs) -> list[Tensor]:
    """The tensors that inputs are made of."""
    return [x] if isinstance(x, Tensor) else list(x.values())


def count_inputs(x: Inputs) -> int:
    """n, the number of examples."""
    return len(tensors_in(x)[0])


def to_numbers(x: Tensor) -> Tensor:
    """Raw inputs as a network takes them: bytes are pixels, scaled to [0, 1]; floats float32; the rest as it is."""
    if x.dtype == torch.uint8:
        return x.to(torch.float32) / 255
    return x.float() if x.is_floating_point() else x


@dataclass
class Split:
    """Examples of one environment or split, raw: the network's input is made on the device."""

    x: Any  # Inputs: [n, ...] finite floats, uint8 for pixels, or other integers; or several such by name
    y: Tensor  # [n] int64 class index
    attribute: Tensor | None = None  # [n] int64 from 0, the spurious one; all splits have one, or none
    environment: Tensor | None = None  # [n] int64 from 0
    values: int | None = None  # of an attribute that was inferred; None: it is the dataset's
    index: Tensor | None = None  # [n] int64, places in the dataset's split, of which this is a part; None: it is all
    named: Mapping[str, Tensor] = field(default_factory=dict)  # instead of `attribute` several, each [n] int64 from 0
    subsets: Mapping[str, Tensor] = field(default_factory=dict)  # [n] bool; they may overlap, each is scored by class

    def group(self, attributes: int) -> Tensor:
        """Group y * attributes + a of each example, [n]; the one place where groups are numbered."""
        return self.y if self.attribute is None else self.y * (self.values or attributes) + self.attribute

    def take(self, rows: Tensor) -> Split:
        """Some of the examples, by their places [m]."""

        def of(codes: Tensor | None) -> Tensor | None:
            return None if codes is None else codes[rows]

        return Split(
            map_inputs(lambda part: torch.index_select(part, 0, rows), self.x), self.y[rows], of(self.attribute),
            of(self.environment), self.values, rows if self.index is None else self.index[rows],
            {name: codes[rows] for name, codes in self.named.items()},
            {name: member[rows] for name, member in self.subsets.items()},
        )  # fmt: skip


@dataclass
class Data:
    """What one seed trains and is scored on."""

    train: Split
    tests: dict[str, Split]
    classes: int = 2  # as the dataset's class says
    attributes: int = 1  # values of the spurious attribute; of named ones it follows from `named`
    environments: int = 0
    mean: tuple[float, ...] = (0.0,)  # of each channel of floats, of pixels in [0, 1]; seen is (pixel − mean) / std
    std: tuple[float, ...] = (1.0,)
    named: Mapping[str, int | Sequence[str]] = field(default_factory=dict)  # how many values each has, or their names
    grouped_by: Sequence[str] = ()  # the named attributes that `attribute` is made of; `grouped` sets it

    @property
    def splits(self) -> dict[str, Split]:
        """Training as `train`, and those held out."""
        return {"train": self.train, **self.tests}

    @property
    def groups(self) -> list[str]:
        """Names of the groups in the order of the counts in a record."""
        if self.attributes == 1:
            return [f"y{y}" for y in range(self.classes)]
        values = [[f" {name}={value}" for value in self.values_of(name)] for name in self.grouped_by]
        names = ["".join(each) for each in product(*values)] if values else [f"a{a}" for a in range(self.attributes)]
        return [f"y{y}{name}" for y in range(self.classes) for name in names]

    def values_of(self, name: str) -> Sequence[str]:
        """The names of a named attribute's values, numbers where they have none."""
        values = self.named[name]
        return [str(value) for value in range(values)] if isinstance(values, int) else values

    def grouped(self, names: Sequence[str]) -> Data:
        """The same with the product of some named attributes for the attribute; the first one changes slowest."""
        sizes = [len(self.values_of(name)) for name in names]

        def of(split: Split) -> Split:
            code = torch.zeros_like(split.y)
            for name, size in zip(names, sizes, strict=True):
                code = code * size + split.named[name]
            return replace(split, attribute=code)

        tests = {name: of(split) for name, split in self.tests.items()}
        return replace(self, train=of(self.train), tests=tests, attributes=prod(sizes), grouped_by=tuple(names))

    def hold_out(self, share: float, generator: torch.Generator) -> Data:
        """The same with a share of the training examples, of each environment alike, as the split `validation`."""
        train, held = self.train, torch.zeros_like(self.train.y, dtype=torch.bool)
        of = torch.zeros_like(train.y) if train.environment is None else train.environment
        for e in sorted(set(of.tolist())):
            rows = (of == e).nonzero()[:, 0]
            held[rows[torch.randperm(len(rows), generator=generator)[: round(share * len(rows))]]] = True
        rest, validation = (replace(train.take(which.nonzero()[:, 0]), index=None) for which in (~held, held))
        return replace(self, train=rest, tests={"validation": validation} | self.tests)

    @property
    def described_shares(self) -> str:
        """P(a | y) of each split in words, one named attribute after the other; empty without attributes."""
        if self.named and not self.grouped_by:
            return "; ".join(self.grouped([name]).described_shares for name in self.named)
        groups = len(self.groups)
        counts = {name: part.group(self.attributes).bincount(minlength=groups) for name, part in self.splits.items()}
        return describe_shares({name: n.tolist() for name, n in counts.items()}, self.groups, self.classes)

    @property
    def shares_hint(self) -> str:
        """The same after what else is said of the data."""
        shares = self.described_shares
        return shares and f"; P(a | y): {shares}"


@dataclass(frozen=True)
class Pgd:
    """Projected gradient descent on a split: steps of `step` uphill in the loss, within `eps`, pixels in [0, 1]."""

    split: str = "test"
    norm: str = "inf"  # "inf" or "2"
    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10
    random_start: bool = False
    mount: str = "correct"  # or "released": gradients at images that were not normalised
    mean: tuple[float, ...] | None = None  # of the scale to attack on; None: the dataset's own
    std: tuple[float, ...] | None = None
    batch: int = 250

    def __post_init__(self) -> None:
        if self.eps < 0 or self.step < 0:
            raise UserError(f"an attack with eps {self.eps:g} and step {self.step:g}: neither can be negative")
        if self.steps < 1:
            raise UserError(f"an attack of {self.steps} steps: it takes 1 or more")
        if self.norm not in ("inf", "2") or self.mount not in ("correct", "released"):
            raise UserError(f"no attack with norm {self.norm} mounted {self.mount}: inf or 2, correct or released")

    @classmethod
    def parse(cls, text: str) -> Pgd:
        """The attack that "NORM EPS STEP STEPS [random]" describes, such as "inf 8/255 2/255 50 random".

        Errors: UserError for a text of another form, or sizes that cannot be.
        """
        try:
            norm, eps, step, steps, *start = text.split()
            if start not in ([], ["random"]):
                raise ValueError
            return cls(norm=norm, eps=float(Fraction(eps)), step=float(Fraction(step)), steps=int(steps),
                       random_start=bool(start))  # fmt: skip
        except (ValueError, ZeroDivisionError):
            raise UserError(f'no attack "{text}": expected NORM EPS STEP STEPS [random]: inf 8/255 2/255 50') from None


@dataclass(frozen=True)
class Margins:
    """The search for the smallest L∞ perturbation that flips an image, as the paper's Figure 2 released it.

    Attacks of `steps` steps, each `share` of eps long, that end at the first success. eps grows by half until the
    attack succeeds, at most `tries` times, and is then bisected as often; with a `resolution` the search begins near
    the smallest perturbation found and ends when the margin is known so well (0: as released). `batch` images at a
    time; None leaves it to the device. The released steps go up the loss, whose `gradient` vanishes in float32 where a
    network is very sure; that of "logits" does not, and for two classes has the same signs elsewhere.
    """

    split: str = "train"
    eps: float = 0.3
    share: float = 1 / 30
    steps: int = 40
    tries: int = 20
    resolution: float = 1e-4
    gradient: str = "loss"  # or "logits"
    batch: int | None = None


Attack = Pgd | Margins
Build = Callable[[Inputs], nn.Module]
"""Makes the network from a few raw inputs, drawing its weights from torch's global generator."""
Score = Callable[[Inputs], Tensor]
"""Logits of a trained network for raw inputs, in evaluation mode."""


@dataclass(frozen=True)
class Dataset(ABC):
    """Base of every adapter: fields are the dataset's options, `load` makes the data of one seed.

    What `load` gives is checked (bench/checks/data_checks.py): what is in it agrees with itself and with the class.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    protocol_version: ClassVar[int] = 1
    headline: ClassVar[tuple[tuple[str, str], ...]] = (("test", "accuracy"), ("train", "accuracy"))
    training: ClassVar[Training] = Training()
    splits: ClassVar[tuple[str, ...] | None] = None  # those held out, where they are known before the data are read
    conflicting: ClassVar[tuple[int, ...]] = ()  # groups whose attribute misleads about their label
    named: ClassVar[tuple[str, ...] | None] = ()  # its named attributes; None: known only once the data are read
    grouped_by: ClassVar[tuple[str, ...]] = ()  # those of them that groups are made of by default; (): all

    keep_duplicates: ClassVar[bool] = False  # whether it is known that held-out examples may be in training, too

    groups: str | None = field(default=None, kw_only=True)  # those chosen instead, "background,cooccurring"
    held_out: float | None = field(default=None, kw_only=True)  # share of training that becomes the split `validation`

    @property
    def called(self) -> str:
        """The dataset's name on the command line."""
        return type(self).__module__.rpartition(".")[2].removeprefix("spurbench_plugin_")

    @property
    def classes(self) -> int:
        """How many classes there are; `classes: ClassVar[int] = 3` says so too. Networks are made for this number."""
        return 2

    def group_names(self, data: Data) -> list[str]:
        """The named attributes that the groups of this seed's data are made of, in the order of the data."""
        chosen = self.groups.split(",") if self.groups else self.grouped_by or tuple(data.named)
        return [name for name in data.named if name in chosen]

    def in_groups(self, data: Data) -> Data:
        """The data with the groups that these attributes make, if they have named ones."""
        return data.grouped(self.group_names(data)) if data.named else data

    def misleading(self) -> tuple[int, ...]:
        """`conflicting`, where the groups are those that it numbers."""
        return () if self.groups else self.conflicting

    def protocol(self, settings: Mapping[str, Any]) -> Training:
        """How a run of these settings is trained; one that trains nothing has none, and sees the data as others do."""
        return Training(**reduced(settings)) if settings else self.training

    @abstractmethod
    def load(self, seed: int, build: Build) -> tuple[Data, nn.Module]:
        """The data and the freshly drawn network of one seed, in the paper's order of random draws."""

    def preprocess(self, x: Inputs) -> Inputs:
        """What the network takes of a batch of raw inputs, on its device, before floats are normalised.

        By default bytes are pixels, scaled to [0, 1], and integers of other types stay integers.
        """
        return map_inputs(to_numbers, x)

    def measures(self, score: Score, data: Data) -> dict[str, dict[str, float]]:
        """Further numbers of this dataset, split → metric → value, from the trained network."""
        return {}

    def attacks(self) -> dict[str, Attack]:
        """What trained networks are attacked with, by name."""
        return {}

    def drawings(self, score: Score, data: Data) -> dict[str, Tensor]:
        """Further logits to keep for drawing, by name, such as those on a lattice of the plane; kept as float16."""
        return {}

    def checksum(self) -> str:
        """SHA-256 of the raw data the runs rest on; empty for data drawn from the seed alone."""
        return ""

    def files(self) -> str:
        """Where the dataset's files are, for `data list`."""
        return "none: drawn from the seed"

    def prepare(self, source: Path | None = None, allow_bad: bool = False, processes: int | None = None) -> str:
        """Make the files ready for training, from the folder `source` if there is one; what was done.

        Pictures that cannot be read are left out if `allow_bad`, else refused.
        """
        return f"nothing to prepare ({self.files()}){self.shares_hint()}"

    def shares_hint(self) -> str:
        """How often labels come with attributes with seed 0; empty without attributes."""
        with suppress(Exception):  # it is somebody's plug-in: `check-dataset` says what is wrong with it
            return self.load(0, lambda x: nn.Identity())[0].shares_hint
        return ""

    def verify(self, thorough: bool = True) -> str:
        """Check the files against what is known of them; what was found. Raises BadData if they are wrong.

        Unless `thorough`, only what takes no time.
        """
        return f"nothing to verify ({self.files()})"
