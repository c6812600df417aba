"""A run: dataset × method × hyper-parameters × seed, and the identity that its id is a hash of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

from spurbench.bench.core.hashing import canonical, fingerprint

FIRST_FIELDS = {"width": 300, "hidden_layers": 1, "init": "torch", "dropout": 0.0, "batch_norm": False, "momentum": 0.0}


@dataclass(frozen=True)
class Run:
    """All that defines the science of a run, every default filled in."""

    dataset: str
    dataset_options: Mapping[str, Any]
    protocol_version: int
    method: str
    hyper_parameters: Mapping[str, Any]
    training: Mapping[str, Any]
    precision: str
    seed: int
    base: Mapping[str, Any] | None = None  # the run it starts from, see `Start`
    inferred_by: Mapping[str, Any] | None = None  # the run that inferred the groups it is given, likewise

    @cached_property
    def id(self) -> str:
        """Sixteen hex digits of the hash of the identity; no path, device or version is in it."""
        return fingerprint(identity(self.to_dict()))[:16]

    @cached_property
    def cell_key(self) -> str:
        """The identity without the seed, hashed: runs of one key are replicas of one experiment."""
        return fingerprint(identity({**self.to_dict(), "seed": None}))[:16]

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Run:
        """The run that a job or a record describes; further keys are left alone."""
        optional = {name: fields[name] for name in OPTIONAL if name in fields}
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__ if name not in OPTIONAL}, **optional)

    @property
    def bases(self) -> list[tuple[Run, list[int]]]:
        """The runs that are to be done before it, of the same data and seed, and the steps of them that it needs."""
        found = [(self.base_run(of), steps_needed(of)) for of in (self.base, self.inferred_by) if of is not None]
        return found + ([(self.trained_alike, [])] if self.trained_alike else [])

    @property
    def trained_alike(self) -> Run | None:
        """The same run without inferred groups, if those only choose its settings and its step."""
        return replace(self, inferred_by=None) if self.inferred_by and not trains_by(self.inferred_by) else None

    def base_run(self, of: Mapping[str, Any]) -> Run:
        """The run that `base` or `inferred_by` describes."""
        return Run(**shared_with(vars(self)) | own_of(of), seed=self.seed)


OPTIONAL = ("base", "inferred_by")
INFERRED = "inferred_validation"  # the split of validation with inferred groups, by which rules may choose
SELECTION = "selection"
SHARED = ("dataset", "dataset_options", "protocol_version", "precision")  # with the runs it starts from


def shared_with(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a run has in common with those it starts from."""
    return {name: fields[name] for name in SHARED}


def own_of(base: Mapping[str, Any]) -> dict[str, Any]:
    """What of a base is its run's own identity: not the steps of it that are needed."""
    return {name: base.get(name) for name in ("method", "hyper_parameters", "training", "base", "inferred_by")}


def bases_in(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The runs that a run starts from, at any distance, as they are described in its fields; the nearest first."""
    for base in (fields.get(name) for name in OPTIONAL):
        if base:
            yield base
            yield from bases_in(base)


def steps_needed(base: Mapping[str, Any]) -> list[int]:
    """The steps after which a base's weights are needed, in order."""
    return sorted({base["step"], *([base["earlier"]] if base.get("earlier") else [])})


def trains_by(inferred_by: Mapping[str, Any] | None) -> bool:
    """Whether a run is trained by inferred groups; otherwise, if it has any, they only choose its settings and step."""
    return inferred_by is not None and inferred_by.get("use") != SELECTION


SEED = "the seed, 4c1f0e9b7a62"  # stands where it is to be; no text of a user's
IDENTITY = tuple(name for name in Run.__dataclass_fields__ if name != "seed")


def identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is hashed of a run, a record or a cell of a plan, given as their fields.

    `training` holds only what has an effect. Once every field of it was there, whatever the network and optimizer, so
    that the first ones count as their defaults where they are absent: ids given since then stay.
    """
    found = used(fields)
    return found | {"training": FIRST_FIELDS | found["training"]}


def run_ids(shared: Mapping[str, Any], seeds: Iterable[int]) -> list[str]:
    """What `Run.id` gives for each seed: the part of the hashed text before the seed is hashed once (a second for
    100,000 runs)."""
    text = canonical({**identity({name: shared.get(name) for name in IDENTITY}), "seed": SEED})
    before, _, after = text.partition(f'"{SEED}"'.encode())
    start = sha256(before)
    found = []
    for seed in seeds:
        digest = start.copy()
        digest.update(b"%d" % seed + after)
        found.append(digest.hexdigest()[:16])
    return found


def used(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without those that are None: a protocol may gain an optional field and keep its ids."""
    return {k: used(v) if isinstance(v, dict | Mapping) else v for k, v in fields.items() if v is not None}
