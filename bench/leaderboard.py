"""From records and plans to rows: a pure function, so that a leaderboard can be made at any time, also during runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any, Protocol

from spurbench.bench import stats
from spurbench.bench.published import Comparison, load
from spurbench.bench.record import Record
from spurbench.bench.selection import accuracy, adjusted, unbiased, worst_environment, worst_group
from spurbench.bench.squares import Plan, Square, squares, tables

Column = tuple[str, str]  # split, metric
ENVIRONMENTS = ("environments", "worst_accuracy")  # the least of the training environments' and the test's
SHARES = {"accuracy": accuracy, "worst_group_accuracy": worst_group, "unbiased_accuracy": unbiased}
CONFLICTING = "bias_conflicting_accuracy"  # mean over the groups whose attribute misleads
ADJUSTED = "adjusted_accuracy"  # groups weigh as in training, as is usual for Waterbirds
COUNTED = (*SHARES, "entropy", "loss")
ASKED_FOR = "further_"  # begins the names of measures that an option of the run asked for
INFORMATION = {"environments", "groups", "colour channels"}  # of what a method needs, that which others may not see


class Problem(Protocol):
    """A record that cannot be used."""

    @property
    def path(self) -> str: ...
    @property
    def reason(self) -> str: ...


@dataclass
class Row:
    """One method on one dataset by one metric of one split. Accuracies are in percent; None is "not known"."""

    dataset: str
    method: str
    split: str
    metric: str
    selection: str  # how hyper-parameters were chosen, and which step is scored
    n: int  # finished runs with this metric
    n_planned: int
    mean: float | None
    std: float | None
    ci95_low: float | None  # Student's t
    ci95_high: float | None
    published_mean: float | None
    published_std: float | None
    published_source: str | None
    label: str = ""
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    protocol_version: int = 1
    precision: str = "float32"
    unit: str = ""  # "%", "nats" or none
    higher_is_better: bool | None = None
    ddof: int = 1  # of std
    std_ddof0: float | None = None
    seeds: list[int] = field(default_factory=list)  # of `values`
    values: list[float] = field(default_factory=list)
    min: float | None = None
    median: float | None = None
    max: float | None = None
    collapsed: int = 0  # runs on the worse side of a wide gap, see stats.fallen
    failed: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)  # {kind, message, seeds}
    unscored: int = 0  # finished runs without this metric
    waiting: int = 0  # planned runs without a record
    na: str | None = None
    note: str = ""
    published_ddof: int | None = None
    published_n: int | None = None
    published_selection: str | None = None
    published_difference: float | None = None  # ours − published
    baseline: str | None = None  # label of the row the differences are to
    baseline_n: int = 0  # seeds both have
    baseline_difference: float | None = None  # this − baseline, mean over those seeds
    baseline_ci95_low: float | None = None
    baseline_ci95_high: float | None = None
    p_sign_flip: float | None = None
    p_holm: float | None = None
    comparisons: int = 0  # how many p values were adjusted together
    better_seeds: float | None = None  # share of the seeds on which this is better than the baseline
    detectable: float | None = None  # true difference to the baseline found with 80 % power
    among_best: bool | None = None  # best mean, or its paired interval to the best includes zero
    reference: bool = False  # bounds the others, does not compete
    below_chance: bool = False  # in training, does not compete
    regime: str = "labels"  # what the method was allowed to see
    needs: list[str] = field(default_factory=list)
    selection_rule: str = ""
    selection_oracle: bool = False  # it looked at the test set
    search: str | None = None
    seconds_per_run: float | None = None  # median
    peak_memory_mb: float | None = None  # largest
    hyper_parameters: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    grids: list[str] = field(default_factory=list)
    provenance: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(frozen=True)
class Section:
    """One table: `lines` has for each method one row per column; the first column is the main one."""

    dataset: str
    options: Mapping[str, Any]
    protocol_version: int
    precision: str
    columns: list[Column]
    lines: list[list[Row]]


@dataclass(frozen=True)
class Leaderboard:
    sections: list[Section]
    notes: list[str]  # of the grids
    set_aside: list[tuple[str, str]]  # path and reason of records that are not used
    baseline: str  # name of the method the others are compared with
    finished: str = ""  # when the last run ended

    @property
    def rows(self) -> list[Row]:
        return [row for section in self.sections for line in section.lines for row in line]


def build(
    records: Sequence[Record],
    plans: Iterable[Plan] = (),
    problems: Iterable[Problem] = (),
    all_metrics: bool = False,
    *,
    planned_only: bool = False,
    headlines: Mapping[str, Iterable[Sequence[str]]] | None = None,
    comparison: Comparison | None = None,
) -> Leaderboard:
    """The leaderboard of a store's records, plans and unusable records.

    Without `all_metrics` the columns are the dataset's `headlines`, or of one not given there its records' `headline`,
    and what the runs were asked for. `planned_only` leaves out records no plan asks for. `comparison` replaces
    datasets/published.yaml.
    """
    plans, comparison = list(plans), comparison or load()
    shown = headline_of(records, headlines or {})
    found = squares(records, plans, planned_only)
    sections = [section(group, shown, all_metrics, comparison) for group in tables(found)]
    return Leaderboard(
        sections=sections,
        notes=[f"{plan['grid']}: {note}" for plan in plans for note in plan["notes"]],
        set_aside=[(one.path, one.reason) for one in problems],
        baseline=comparison.baseline,
        finished=max((record["provenance"].get("finished", "") for record in records), default=""),
    )


def headline_of(records: Sequence[Record], known: Mapping[str, Iterable[Sequence[str]]]) -> dict[str, list[Column]]:
    """Dataset → the columns shown by default."""
    shown: dict[str, list[Column]] = {}
    for record in records:
        if record["dataset"] not in shown and record["headline"]:
            shown[record["dataset"]] = [(split, metric) for split, metric in record["headline"]]
    return shown | {name: [(split, metric) for split, metric in pairs] for name, pairs in known.items()}


def section(group: list[Square], shown: Mapping[str, list[Column]], all_: bool, comparison: Comparison) -> Section:
    first = group[0]
    columns = list(shown.get(first.dataset, [("test", "accuracy"), ("train", "accuracy")]))
    there = {column: None for square in group for record in square.done.values() for column in columns_of(record)}
    columns += [column for column in there if column not in columns and (all_ or column[1].startswith(ASKED_FOR))]
    group = [s for s in group if s.method not in comparison.references] + [
        s for s in group if s.method in comparison.references
    ]
    baselines = [baseline_of(square, group, comparison) for square in group]
    lines: list[list[Row]] = [[] for _ in group]
    common = [facts(square, comparison) for square in group]
    for column in columns:
        rows = [row_of(square, fact, column, comparison) for square, fact in zip(group, common, strict=True)]
        compare(rows, group, baselines)
        mark_best(rows, group)
        for line, row in zip(lines, rows, strict=True):
            line.append(row)
    return Section(first.dataset, first.dataset_options, first.protocol_version, first.precision, columns, lines)


def columns_of(record: Record) -> list[Column]:
    """Every split and metric a record has."""
    counted = [(split, metric) for split in record["splits"] for metric in COUNTED]
    counted += [ENVIRONMENTS] if "train_e0" in record["splits"] else []
    if record.get("conflicting"):
        counted += [(split, metric) for split in record["splits"] for metric in (CONFLICTING, ADJUSTED)]
    return counted + [(split, metric) for split, values in record["measures"].items() for metric in values]


def value(record: Record, column: Column) -> float | None:
    """One metric of one record, accuracies in percent; None if it is not there."""
    split, metric = column
    scale = 100.0 if unit_of(metric) == "%" else 1.0
    measured = record["measures"].get(split, {})
    if metric in measured:
        return float(measured[metric]) * scale
    if column == ENVIRONMENTS:
        least = worst_environment(record["splits"])
        return None if least is None else least * scale
    counts = record["splits"].get(split)
    if metric in (CONFLICTING, ADJUSTED) and counts and record.get("conflicting"):
        misled = {name: [counts[name][g] for g in record["conflicting"]] for name in ("n", "correct")}
        share = unbiased(misled) if metric == CONFLICTING else adjusted(counts, record["splits"].get("train"))
        return None if share is None else share * scale
    if counts is None or metric not in COUNTED or not sum(counts["n"]):
        return None
    if metric in ("entropy", "loss"):
        return float(counts[f"{metric}_sum"]) / float(sum(counts["n"]))
    share = SHARES[metric](counts)
    return None if share is None else share * scale


def unit_of(metric: str) -> str:
    return "%" if metric.endswith("accuracy") else "nats" if metric in ("entropy", "loss") else ""


def direction(metric: str) -> bool | None:
    """Whether more of a metric is better; None where that cannot be told from its name."""
    return True if metric.endswith(("accuracy", "margin")) else False if metric == "loss" else None


# ---- one row ------------------------------------------------------------------------------------------------------


def facts(square: Square, comparison: Comparison) -> dict[str, Any]:
    """What is the same in every row of a square."""
    records, done = list(square.records.values()), list(square.done.values())
    needs = sorted(records[0]["needs"]) if records else []
    told = {*needs, "groups"} if (square.training or {}).get("balanced") else set(needs)
    seen = ["labels", *sorted(told & INFORMATION)]
    return {
        "dataset": square.dataset, "method": square.method, "label": square.label,
        **chosen(square, comparison), "search": square.search,
        "dataset_options": square.dataset_options, "protocol_version": square.protocol_version,
        "precision": square.precision, "hyper_parameters": square.hyper_parameters, "training": square.training,
        "n_planned": len(square.seeds), "waiting": len(square.seeds - set(square.records)),
        "failed": len(square.failed), "failures": failures(square), "na": square.na, "note": square.note,
        "reference": square.method in comparison.references, "below_chance": below_chance(done), "needs": needs,
        "regime": " + ".join(seen) if records else "", "grids": sorted(set(square.grids)),
        "seconds_per_run": median(r["cost"]["seconds"] for r in done) if done else None,
        "peak_memory_mb": max(r["cost"]["peak_memory_mb"] for r in done) if done else None,
        "provenance": provenance(done),
    }  # fmt: skip


def chosen(square: Square, comparison: Comparison) -> dict[str, Any]:
    """How the settings were chosen; a guess has nothing to choose."""
    if guesses(square, comparison):
        return {"selection": "nothing to select", "selection_rule": "none", "selection_oracle": False}
    rule = square.selection
    text = square.search or rule["text"]
    return {"selection": text, "selection_rule": rule["rule"], "selection_oracle": bool(rule.get("oracle"))}


def guesses(square: Square, comparison: Comparison) -> bool:
    """Whether it is a reference row without hyper-parameters: its numbers are exact, they have no deviation."""
    return square.method in comparison.references and square.hyper_parameters == {}


def below_chance(records: Sequence[Record]) -> bool:
    """Whether runs are, on average, worse than chance in training: no cue was learned, or one the wrong way round."""
    shares = [accuracy(record["splits"].get("train")) for record in records]
    found = [share for share in shares if share is not None]
    if not found:
        return False
    classes = len({group.partition("a")[0] for group in records[0]["groups"]})
    return stats.mean(found) < 1 / classes


def failures(square: Square) -> list[dict[str, Any]]:
    """Causes of failed runs, each with the seeds it struck."""
    found: dict[tuple[str, str], list[int]] = {}
    for seed, record in square.failed.items():
        cause = record["cause"] or {"kind": "unknown", "message": ""}
        found.setdefault((cause["kind"], cause["message"]), []).append(seed)
    return [{"kind": kind, "message": message, "seeds": seeds} for (kind, message), seeds in found.items()]


def provenance(records: Sequence[Record]) -> dict[str, list[str]]:
    """With what the runs were made: every distinct commit, version and machine."""
    found: dict[str, dict[str, None]] = {"commit": {}, "hardware": {}, "device": {}, "data": {}, "plugins": {}}
    for source in (record["provenance"] for record in records):
        hardware = source.get("hardware") or {}
        changed = " + uncommitted changes" if source.get("diff") else ""
        found["commit"][f"{str(source.get('commit'))[:10]}{changed}"] = None
        found["hardware"][str(hardware.get("gpu") or hardware.get("cpu"))] = None
        found["device"][str(source.get("device"))] = None
        found["data"][str(source.get("data") or "")[:12] or "drawn from the seed"] = None
        if files := source.get("plugins"):
            found["plugins"][" ".join(str(files[kind])[:12] for kind in sorted(files))] = None
        for name, version in (source.get("versions") or {}).items():
            found.setdefault(name, {})[str(version)] = None
    return {name: list(values) for name, values in found.items() if values}


def row_of(square: Square, fact: Mapping[str, Any], column: Column, comparison: Comparison) -> Row:
    """The row of a square for one column, without comparisons to other rows."""
    pairs = [(seed, value(record, column)) for seed, record in square.done.items()]
    seeds = [seed for seed, found in pairs if found is not None]
    values = [found for _, found in pairs if found is not None]
    drawn = [] if guesses(square, comparison) else values
    low, high = stats.t_interval(drawn) or (None, None)
    percent, better = unit_of(column[1]) == "%", direction(column[1])
    published = comparison.number(square.dataset, square.dataset_options, square.published, *column)
    centre = stats.mean(values) if values else None
    return Row(
        **fact, split=column[0], metric=column[1], unit=unit_of(column[1]), higher_is_better=better,
        n=len(values), seeds=seeds, values=values, unscored=len(pairs) - len(values), mean=centre,
        std=stats.std(drawn), std_ddof0=stats.std(drawn, 0), ci95_low=low, ci95_high=high,
        min=min(values, default=None), median=median(values) if values else None, max=max(values, default=None),
        collapsed=stats.fallen(values, stats.floor_of(values, percent), better),
        published_mean=published.mean if published else None, published_std=published.std if published else None,
        published_source=published.source if published else None, published_ddof=published.ddof if published else None,
        published_n=published.n if published else None, published_selection=published.selection if published else None,
        published_difference=centre - published.mean if published and centre is not None else None,
    )  # fmt: skip


# ---- rows beside each other ---------------------------------------------------------------------------------------


def baseline_of(square: Square, group: Sequence[Square], comparison: Comparison) -> int | None:
    """The place of the row a square is compared with, on the same data: best one that was trained the same way.

    A reference row is not compared; a variant of the baseline is compared with the row named like the method.
    """
    variant = square.method == comparison.baseline
    if square.method in comparison.references or square.na or (variant and square.label == square.method):
        return None
    near = [
        (other.training == square.training, bool(set(other.grids) & set(square.grids)), other.label == other.method, -i)
        for i, other in enumerate(group)
        if other.method == comparison.baseline and other.data == square.data and other is not square
        and (not variant or other.label == other.method)
    ]  # fmt: skip
    return -max(near)[3] if near else None


def compare(rows: Sequence[Row], group: Sequence[Square], baselines: Sequence[int | None]) -> None:
    """Put the paired comparison with its baseline into each row, Holm's adjustment over rows on the same data."""
    families: dict[Any, list[Row]] = {}
    for row, square, place in zip(rows, group, baselines, strict=True):
        if place is not None:
            against(row, rows[place])
            if row.p_sign_flip is not None:
                families.setdefault(square.data, []).append(row)
    for family in families.values():
        adjusted = stats.holm([row.p_sign_flip for row in family if row.p_sign_flip is not None])
        for row, p in zip(family, adjusted, strict=True):
            row.p_holm, row.comparisons = p, len(family)


def against(row: Row, baseline: Row) -> None:
    """The comparison of one row with its baseline on the seeds both have."""
    differences = paired(row, baseline)
    row.baseline, row.baseline_n = baseline.label, len(differences)
    if not differences:
        return
    row.baseline_difference = stats.mean(differences)
    row.baseline_ci95_low, row.baseline_ci95_high = stats.t_interval(differences) or (None, None)
    if len(differences) > 1:
        row.p_sign_flip = stats.sign_flip_p(differences)
    row.detectable = stats.detectable(differences)
    if row.higher_is_better is not None:
        sign = 1 if row.higher_is_better else -1
        row.better_seeds = stats.share_above([sign * d for d in differences])


def paired(row: Row, other: Row) -> list[float]:
    """Differences of two rows on the seeds both have."""
    theirs = dict(zip(other.seeds, other.values, strict=True))
    return [v - theirs[seed] for seed, v in zip(row.seeds, row.values, strict=True) if seed in theirs]


def mark_best(rows: Sequence[Row], group: Sequence[Square]) -> None:
    """Mark, among competing rows on the same data, the best and all that cannot be told from it."""
    families: dict[Any, list[Row]] = {}
    for row, square in zip(rows, group, strict=True):
        if row.n > 1 and not row.reference and not row.below_chance and row.higher_is_better is not None:
            families.setdefault(square.data, []).append(row)
    for family in (family for family in families.values() if len(family) > 1):
        sign = 1 if family[0].higher_is_better else -1
        best = max(family, key=lambda row: sign * (row.mean or 0.0))
        for row in family:
            interval = stats.t_interval(paired(row, best))
            row.among_best = row is best or (interval is not None and interval[0] <= 0 <= interval[1])
