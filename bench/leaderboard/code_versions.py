"""Which runs of an experiment one version of its files made: a mean is over these alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spurbench.bench.provenance import edits
from spurbench.bench.provenance.plugin_code import kind_of
from spurbench.bench.records.record import Summary

Version = Mapping[str, str]  # part, or path of a data file → hash, empty where unknown
FindEdited = Callable[[Summary], Sequence[str]]
"""Gives the files of a record that have changed since on this machine, by name."""
PARTS = {"method": "the method's file", "dataset": "the dataset's file", "data": "the data",
         "network": "the network's file", "optimizer": "the optimizer's file"}  # fmt: skip
FRESH = "`spurbench run` with --fresh trains"


@dataclass
class VersionLookup:
    """The versions that made each record, and which of their files have changed since."""

    find_edited: FindEdited = lambda record: ()
    by_record: dict[str, Version] = field(default_factory=dict)  # record id → version
    by_origin: dict[tuple[str, ...], list[str]] = field(default_factory=dict)

    def version_of(self, record: Summary) -> Version:
        if record.id not in self.by_record:
            self.by_record[record.id] = edits.versions_of(record) | record.provenance.files
        return self.by_record[record.id]

    def edited_files(self, record: Summary) -> list[str]:
        """What `find_edited` says, asked once for all records with the same versions and places of files."""
        places = [repr(record.provenance.paths), repr(record.provenance.files)]
        key = (record.method, record.dataset, *self.version_of(record).values(), *places)
        if key not in self.by_origin:
            self.by_origin[key] = list(self.find_edited(record))
        return self.by_origin[key]


@dataclass
class VersionChoice:
    """The runs of one version, by seed, and the others."""

    records: dict[int, Summary] = field(default_factory=dict)
    left_out: dict[int, Summary] = field(default_factory=dict)
    version: dict[str, str] = field(default_factory=dict)  # its hashes, where known
    outdated: list[str] = field(default_factory=list)  # its files that have changed since


def choose_version(records: Mapping[int, Summary], lookup: VersionLookup) -> VersionChoice:
    """The runs of one version of the method's and dataset's files and of the data.

    Of several versions that of the current files, if any run has it, else the one with most runs, the newest at a tie.
    A record that does not say what made it agrees with any.
    """
    firsts = {tuple(lookup.version_of(one).values()): one for one in records.values()}
    groups = [(first, find_agreeing(first, records, lookup)) for first in firsts.values()]
    if not groups:
        return VersionChoice()
    kept = max(groups, key=lambda pair: preference(pair[0], pair[1], lookup))[1]
    return VersionChoice(
        records=kept,
        left_out={seed: one for seed, one in sorted(records.items()) if seed not in kept},
        version={part: hash for one in kept.values() for part, hash in lookup.version_of(one).items() if hash},
        outdated=sorted({name for one in kept.values() for name in lookup.edited_files(one)}),
    )


def preference(first: Summary, group: Mapping[int, Summary], lookup: VersionLookup) -> tuple[bool, int, int, str]:
    """What decides between the runs of two versions: the greater is kept."""
    done = sum(one.status == "done" for one in group.values())
    newest = max(str(one.provenance.finished) for one in group.values())
    return not lookup.edited_files(first), count_known_parts(lookup.version_of(first)), done, newest


def count_known_parts(version: Version) -> int:
    return sum(bool(version.get(part)) for part in PARTS)


def find_agreeing(first: Summary, records: Mapping[int, Summary], lookup: VersionLookup) -> dict[int, Summary]:
    """The records whose versions do not differ from that of `first` or from each other, taken fullest first."""
    version, kept = dict(lookup.version_of(first)), {}
    for seed, one in sorted(records.items(), key=lambda pair: -count_known_parts(lookup.version_of(pair[1]))):
        if not differing_parts(version, lookup.version_of(one)):
            version |= {part: hash for part, hash in lookup.version_of(one).items() if hash}
            kept[seed] = one
    return dict(sorted(kept.items()))


def differing_parts(one: Version, other: Version, but: Iterable[str] = ()) -> list[str]:
    """The parts in which two versions are known to differ, in words, except those of `but`.

    Of the data files, only those that both have read count: seeds may read different ones.
    """
    shared = [part for part in one.keys() & other.keys() if kind_of(part) not in but and one[part] and other[part]]
    return sorted(PARTS.get(part, Path(part).name) for part in shared if one[part] != other[part])


def version_notes(found: VersionChoice, draws: Sequence[Summary], lookup: VersionLookup) -> list[str]:
    """Notes for the reader: which runs are not counted, what may be out of date; `draws` are those of its search."""
    by_version: dict[str, list[int]] = {}
    for seed, one in found.left_out.items():
        by_version.setdefault(describe_version(one, found, lookup), []).append(seed)
    lines = [
        f"not counted, made by {version}: {format_seeds(out)}; {FRESH} {'it' if len(out) == 1 else 'them'} again"
        for version, out in by_version.items()
    ]
    if found.outdated:
        lines.append(f"made before {' and '.join(found.outdated)} changed; {FRESH} its runs again")
    silent = [seed for seed, one in found.records.items() if any(unknown_files(lookup.version_of(one), found.version))]
    if silent:
        lines.append(f"the records of {format_seeds(silent)} do not say which version of its files made them")
    other = {describe_version(one, found, lookup) for one in draws if is_other_version(one, found, lookup)}
    return lines + [f"its search was made by {version}" for version in sorted(other)]


def describe_version(record: Summary, than: VersionChoice, lookup: VersionLookup) -> str:
    """The version of a record in words: by the files that have changed since, or by the parts that differ."""
    if names := lookup.edited_files(record):
        return f"an earlier version of {' and '.join(names)}"
    return f"another version of {' and '.join(differing_parts(than.version, lookup.version_of(record)))}"


def is_other_version(draw: Summary, found: VersionChoice, lookup: VersionLookup) -> bool:
    """Whether a draw of a search has another version than the runs, or than the files if there are no runs yet."""
    return bool(differing_parts(found.version, lookup.version_of(draw)) if found.records else lookup.edited_files(draw))


def unknown_files(version: Version, whole: Version) -> list[str]:
    """The files of which one version is not known and the other is."""
    return [part for part in ("method", "dataset") if whole.get(part) and not version.get(part)]


def format_seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
