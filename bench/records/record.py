"""What a run leaves behind. A record is typed here; `bench/records/parsing.py` makes one of what lies in a file."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from spurbench.bench.core.hashing import canonical, fingerprint
from spurbench.bench.plugins import registry
from spurbench.bench.records.run import IDENTITY, Run

SCHEMA = 2
NEWER = "written by a newer spurbench"
OUTSIDE = {"killed", "cancelled", "preempted", "time_limit", "node_failure"}
"""Causes that are none of a run's own: it is done again without being asked."""

MOST = 1e100  # no number of a run is larger; its square and the sum of many can still be computed with
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Number = Whole | Annotated[float, Meta(ge=-MOST, le=MOST)]
Amount = Natural | Annotated[float, Meta(ge=0, le=MOST)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+\Z")]
FilePlace = Annotated[str, Meta(pattern=r"^(?!/)")]  # no absolute path: it says nothing on another machine
Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]


class Part(Struct, frozen=True, omit_defaults=True, gc=False):
    """Base of what records and plans are made of."""


class Counts(Part, frozen=True, kw_only=True):
    """What a network predicts on one split: examples and correct ones of each group, summed loss and entropy in nats.

    The groups are y × attribute, or the classes where the split has no attribute. Expected counts, those of a random
    guess, need not be whole.
    """

    n: list[Amount]  # examples of each group
    correct: list[Amount]  # of these, the ones predicted right
    loss_sum: Number  # cross-entropy summed over the examples, in nats
    entropy_sum: Number  # entropy of the predictions summed over the examples, in nats


Splits = dict[Name, Counts]


class Look(Part, frozen=True):
    """Counts of the held-out splits after a step before the last."""

    step: Natural  # updates done
    splits: Splits  # held-out split → counts


class Curve(Part, frozen=True):
    """Of a search for margins: how many of `n` images are flipped by perturbations of at most each size."""

    split: Name
    n: Positive  # images attacked
    flipped: Annotated[list[Amount], Meta(min_length=2)]  # of these, flipped at sizes evenly spaced from 0 to 1


class Cost(Part, frozen=True):
    """What a run took: its share of the stack's training time, the peak memory of the stack, how it was computed."""

    seconds: Number  # of training: its share of the stack's
    peak_memory_mb: Number  # of the process, or of its GPU
    replicas: Positive  # runs that trained together
    threads: Positive
    seconds_per_step: Number | None = None  # likewise
    compiled: bool | None = None  # by torch.compile
    resumed: Natural | None = None  # times it went on from a checkpoint


class Cause(Part, frozen=True):
    """Why a run failed."""

    kind: Name  # such as diverged, exception, out_of_memory, bad_data, killed, time_limit
    message: str  # one line
    detail: str | None = None  # the traceback


class Provenance(Part, frozen=True, kw_only=True):
    """Where a number comes from; empty where that is not known."""

    commit: str | None  # of spurbench's repository
    diff: str | None  # a hash of what differed from the commit, or why that is not known
    code: dict[str, str]  # method, dataset → hash of what can alter numbers
    paths: dict[str, FilePlace]  # method, dataset → file, see `bench/plugin_files/places.py`
    data: str  # checksum
    files: dict[FilePlace, str]  # further files that were read → what they held
    versions: dict[str, str]  # of Python and packages
    hardware: dict[str, Any]
    device: str
    started: str  # UTC
    finished: str = ""
    snapshot: str | None = None  # name of the copy of the code that ran
    accepted: dict[str, list[str]] = {}  # hashes of the code that did make the run, see `accept`
    plugins: dict[str, str | None] = {}  # of schema 1: hashes of the whole files


class Summary(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run: its identity, what came out of it, what it cost, and where that comes from.

    What leaderboards are made of; curves are in the `Record` alone.
    """

    schema: int  # version of this format
    id: Id  # hash of the fields from `dataset` to `seed`, never of paths or machines
    dataset: Name
    dataset_options: dict[str, Any]
    protocol_version: Whole  # of the dataset; another one is another experiment
    method: Name
    hyper_parameters: dict[str, Any]
    training: dict[str, Any]  # the fields that have an effect
    precision: Name  # float32, bf16 or fp16
    seed: Whole
    status: Literal["done", "failed"]
    needs: list[Name]  # what the method saw beyond logits and labels
    headline: list[tuple[Name, Name]]  # (split, metric) shown by default
    cause: Cause | None  # why it failed
    splits: Splits  # split → counts after the last step
    measures: dict[Name, dict[Name, Number]]  # split (`test@250`: after step 250) → name → value, beyond the counts
    # file of the kept logits, below the store's folder
    predictions: Annotated[str, Meta(pattern=r"^predictions/[0-9a-f]{2}/[0-9a-f]{16}\.npz\Z")] | None
    cost: Cost
    provenance: Provenance
    classes: int | None = None  # of the label
    attributes: int | None = None  # values of the spurious attribute
    groups: list[Name] = []  # names such as y0a1, in the order of the counts
    conflicting: list[Natural] = []  # groups whose attribute misleads about their label
    looks: list[Look] = []  # counts of the held-out splits during training, see `training.evaluate`
    base: dict[str, Any] | None = None  # the run it started from: method, settings, and the step of it
    inferred_by: dict[str, Any] | None = None  # the run that inferred the groups it was given, likewise

    @property
    def run(self) -> Run:
        return Run(**self.identity, seed=self.seed)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of `Run` without the seed."""
        return {name: getattr(self, name) for name in IDENTITY}

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def last_step(self) -> int:
        """The step after which the run ended."""
        return int(self.training.get("steps") or 0)

    @property
    def settled(self) -> bool:
        """Whether the run needs no further work: done, or failed for a reason of its own."""
        return self.cause is None or self.cause.kind not in OUTSIDE


class Record(Summary, frozen=True, kw_only=True, omit_defaults=True):
    """All that is written down of a run."""

    history: list[dict[str, Number]]  # points of the learning curve
    curves: dict[Name, Curve] = {}  # attack → curve
    digest: str = ""  # hash of all the rest, by which damage is noticed

    @property
    def summary(self) -> Summary:
        return Summary(**{name: getattr(self, name) for name in Summary.__struct_fields__})

    def to_dict(self) -> dict[str, Any]:
        """As it is written, in plain values."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def with_(self, **changes: Any) -> Record:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)


OBSERVED = tuple(
    name for name in Record.__struct_fields__ if name not in ("digest", "cost", "provenance", "predictions")
)
"""The fields that tell of the science; the others tell what it cost and where it was computed."""


def agree(one: Record, other: Record) -> bool:
    """Whether two records say the same of the science; metrics of predictions may have been added to one of them."""
    alike = all(getattr(one, name) == getattr(other, name) for name in OBSERVED if name != "measures")
    return alike and (one.measures == other.measures or own_measures(one) == own_measures(other))


def own_measures(record: Record) -> dict[tuple[str, str], Number]:
    """What was measured by the run itself."""
    each = {(split, name): value for split, values in record.measures.items() for name, value in values.items()}
    metrics = {name: registry.metric(name) for _, name in each}
    return {place: value for place, value in each.items() if (found := metrics[place[1]]) is None or found.counted}


def seal(record: Record) -> dict[str, Any]:
    """The record in plain values with its digest, so that a truncated or edited one is recognised."""
    body = {key: value for key, value in record.to_dict().items() if key != "digest"}
    return {**body, "digest": fingerprint(body)}


def digest_fits(text: bytes, fields: dict[str, Any]) -> bool:
    """Whether the content of a record is what its digest was made of.

    The text as `canonical` wrote it, without its digest, need not be encoded again (a third of the time to read it).
    """
    digest = str(fields["digest"])
    body = text.strip().replace(f'"digest":"{digest}",'.encode(), b"", 1)
    if hashlib.sha256(body).hexdigest() == digest:
        return True
    return hashlib.sha256(canonical({k: v for k, v in fields.items() if k != "digest"})).hexdigest() == digest


def is_settled(record: Summary | None, retry: bool = False) -> bool:
    """Whether a run with this record, if any, needs no further work; failures of its own may be retried."""
    return record is not None and record.settled and not (retry and not record.done)
