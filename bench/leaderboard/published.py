"""What a leaderboard compares with: the baseline, the reference rows, and published numbers with their origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import ROOT
from spurbench.bench.plugins import registry

FILE = ROOT / "datasets" / "published.yaml"
STATUSES = ("verified", "third-party", "recalled")


@dataclass(frozen=True)
class Published:
    """One published number, in percent for accuracies. `std` has the denominator n − ddof."""

    dataset: str
    method: str  # the key a grid's cell names in `published:`
    split: str
    metric: str
    mean: float
    source: str
    selection: str
    status: str
    std: float | None = None
    ddof: int | None = None
    n: int | None = None
    dataset_options: Mapping[str, Any] = field(default_factory=dict)  # a cell with other options is not compared


@dataclass(frozen=True)
class Comparison:
    """The baseline's and the reference rows' method names, and every published number there is."""

    baseline: str
    references: frozenset[str] = frozenset()
    numbers: tuple[Published, ...] = ()

    @cached_property
    def by_key(self) -> dict[tuple[str, str, str, str], list[Published]]:
        found: dict[tuple[str, str, str, str], list[Published]] = {}
        for one in self.numbers:
            found.setdefault((one.dataset, one.method, one.split, one.metric), []).append(one)
        return found

    def number(
        self, dataset: str, options: Mapping[str, Any], key: str | None, split: str, metric: str
    ) -> Published | None:
        """The verified number for a cell's `published` key, if the cell's data are those of the publication."""
        for one in self.by_key.get((dataset, key or "", split, metric), []):
            named = dict.fromkeys((*one.dataset_options, *registry.SHARED_OPTIONS))
            same = all(options.get(name) == one.dataset_options.get(name) for name in named)
            if same and one.status == "verified":
                return one
        return None


def load(file: Path = FILE) -> Comparison:
    """The comparison in a YAML file; UserError names the file and the entry that is wrong."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
        each = (block | own for block in data["published"] for own in block["numbers"])
        numbers = tuple(entry(number, fields, file) for number, fields in enumerate(each, 1))
        return Comparison(data["baseline"], frozenset(data["references"]), numbers)
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"cannot read the published numbers in {file}: {type(error).__name__}: {error}") from None


def entry(number: int, fields: Any, file: Path) -> Published:
    try:
        one = Published(**{name: value for name, value in fields.items() if name != "numbers"})
    except TypeError as error:
        raise UserError(f"{file}: entry {number} of 'published': {error}") from None
    if one.status not in STATUSES:
        raise UserError(f"{file}: entry {number}: no status '{one.status}'; there are: {', '.join(STATUSES)}")
    return one
