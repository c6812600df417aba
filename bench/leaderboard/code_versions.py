"""Which runs of an experiment one version of its files made: a mean is over these alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spurbench.bench.provenance import edits
from spurbench.bench.records.record import Summary

Version = Mapping[str, str]  # part, or path of a file that was read → hash, empty where it is not known
Edited = Callable[[Summary], Sequence[str]]
"""The files of a record that have changed since on this machine, in words."""
PARTS = {"method": "the method's file", "dataset": "the dataset's file", "data": "the data",
         "network": "the network's file", "optimizer": "the optimizer's file"}  # fmt: skip
FRESH = "`spurbench run` with --fresh trains"


@dataclass
class Past:
    """What made each record, and which of that has changed since; asked once for all that were made alike."""

    changed: Edited = lambda record: ()
    found: dict[str, Version] = field(default_factory=dict)  # record id → version
    names: dict[tuple[str, ...], list[str]] = field(default_factory=dict)

    def of(self, record: Summary) -> Version:
        if record.id not in self.found:
            self.found[record.id] = edits.versions_of(record) | record.provenance.files
        return self.found[record.id]

    def edited(self, record: Summary) -> list[str]:
        """As `changed` says; what it goes by are versions, and where the files were."""
        places = [repr(record.provenance.paths), repr(record.provenance.files)]
        key = (record.method, record.dataset, *self.of(record).values(), *places)
        if key not in self.names:
            self.names[key] = list(self.changed(record))
        return self.names[key]


@dataclass
class Edition:
    """The runs of one version, by seed, and the others."""

    records: dict[int, Summary] = field(default_factory=dict)
    left_out: dict[int, Summary] = field(default_factory=dict)
    version: dict[str, str] = field(default_factory=dict)  # what is known of it
    outdated: list[str] = field(default_factory=list)  # its files that have changed since


def chosen(records: Mapping[int, Summary], past: Past) -> Edition:
    """The runs of one version of the method's and dataset's files and of the data.

    Of several that of the files as they are now, if any run is of it, else the one of most runs, the newest at a tie. A
    record that does not say what made it contradicts none.
    """
    firsts = {tuple(past.of(one).values()): one for one in records.values()}
    groups = [(first, agreeing(first, records, past)) for first in firsts.values()]
    if not groups:
        return Edition()
    kept = max(groups, key=lambda pair: standing(pair[0], pair[1], past))[1]
    return Edition(
        records=kept,
        left_out={seed: one for seed, one in sorted(records.items()) if seed not in kept},
        version={part: hash for one in kept.values() for part, hash in past.of(one).items() if hash},
        outdated=sorted({name for one in kept.values() for name in past.edited(one)}),
    )


def standing(first: Summary, group: Mapping[int, Summary], past: Past) -> tuple[bool, int, int, str]:
    """What decides between the runs of two versions; the greater is kept."""
    done = sum(one.status == "done" for one in group.values())
    newest = max(str(one.provenance.finished) for one in group.values())
    return not past.edited(first), said(past.of(first)), done, newest


def said(version: Version) -> int:
    return sum(bool(version.get(part)) for part in PARTS)


def agreeing(first: Summary, records: Mapping[int, Summary], past: Past) -> dict[int, Summary]:
    """The records that nothing tells apart from `first` or from each other; those that say most have the first word."""
    version, kept = dict(past.of(first)), {}
    for seed, one in sorted(records.items(), key=lambda pair: -said(past.of(pair[1]))):
        if not clashes(version, past.of(one)):
            version |= {part: hash for part, hash in past.of(one).items() if hash}
            kept[seed] = one
    return dict(sorted(kept.items()))


def clashes(one: Version, other: Version, but: Iterable[str] = ()) -> list[str]:
    """The parts in which two versions are known to differ, in words; those of `but` left out.

    Of the files that were read to load data, those that both have read count: seeds may read different ones.
    """
    shared = [part for part in one.keys() & other.keys() if part not in but and one[part] and other[part]]
    return sorted(PARTS.get(part, Path(part).name) for part in shared if one[part] != other[part])


def notes(found: Edition, draws: Sequence[Summary], past: Past) -> list[str]:
    """What a reader must know: which runs are not counted, and what may be out of date; `draws` are of its search."""
    told: dict[str, list[int]] = {}
    for seed, one in found.left_out.items():
        told.setdefault(earlier(one, found, past), []).append(seed)
    said = [
        f"not counted, made by {version}: {seeds(out)}; {FRESH} {'it' if len(out) == 1 else 'them'} again"
        for version, out in told.items()
    ]
    if found.outdated:
        said.append(f"made before {' and '.join(found.outdated)} changed; {FRESH} its runs again")
    silent = [seed for seed, one in found.records.items() if any(lacks(past.of(one), found.version))]
    if silent:
        said.append(f"the records of {seeds(silent)} do not say which version of its files made them")
    other = {earlier(one, found, past) for one in draws if differs(one, found, past)}
    return said + [f"its search was made by {version}" for version in sorted(other)]


def earlier(record: Summary, than: Edition, past: Past) -> str:
    """The version of a record in words: by what has changed since, or by what differs."""
    if names := past.edited(record):
        return f"an earlier version of {' and '.join(names)}"
    return f"another version of {' and '.join(clashes(than.version, past.of(record)))}"


def differs(draw: Summary, found: Edition, past: Past) -> bool:
    """Whether a draw of a search is of another version than the runs, or than the files if there are no runs yet."""
    return bool(clashes(found.version, past.of(draw)) if found.records else past.edited(draw))


def lacks(version: Version, whole: Version) -> list[str]:
    """The files of which one version is not known and the other is."""
    return [part for part in ("method", "dataset") if whole.get(part) and not version.get(part)]


def seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
