"""The numbers a record gives: what there is of each split, in what unit, within which limits, of which step."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from msgspec.structs import replace

from spurbench.bench.plugins.counts import accuracy, unbiased_accuracy, worst_group_accuracy
from spurbench.bench.plugins.rule import least_accuracy
from spurbench.bench.records.record import Counts, Summary
from spurbench.bench.records.selection import Selected

Column = tuple[str, str]  # split, metric
ENVIRONMENTS = ("environments", "worst_accuracy")  # the least of the training environments' and the test's
SHARES = {"accuracy": accuracy, "worst_group_accuracy": worst_group_accuracy, "unbiased_accuracy": unbiased_accuracy}
CONFLICTING = "bias_conflicting_accuracy"  # mean over the groups whose attribute misleads
ADJUSTED = "adjusted_accuracy"  # groups weigh as in training, as is usual for Waterbirds
COUNTED = (*SHARES, "entropy", "loss")
PER_GROUP = ("worst_group_accuracy", "unbiased_accuracy", CONFLICTING)
ASKED_FOR = "further_"  # begins the names of measures that an option of the run asked for


def columns_of(record: Summary) -> list[Column]:
    """Every split and metric a record has."""
    counted = [(split, metric) for split in record.splits for metric in COUNTED]
    counted += [ENVIRONMENTS] if "train_e0" in record.splits else []
    if record.conflicting:
        counted += [(split, metric) for split in record.splits for metric in (CONFLICTING, ADJUSTED)]
    return counted + [(split, metric) for split, values in record.measures.items() for metric in values]


def value(record: Summary, column: Column) -> float | None:
    """One metric of one record, accuracies in percent; None if it is not there."""
    split, metric = column
    scale = 100.0 if unit_of(metric) == "%" else 1.0
    measured = record.measures.get(split, {})
    if metric in measured:
        return float(measured[metric]) * scale
    if column == ENVIRONMENTS:  # of one step: those of training are scored after the last only
        least = worst_environment(record.last_splits if isinstance(record, Selected) else record.splits)
        return None if least is None else least * scale
    counts = record.splits.get(split)
    if metric in (CONFLICTING, ADJUSTED) and counts and record.conflicting:
        if len(counts.n) < len(record.groups):
            return None  # the split has no attribute: it is counted by class
        if metric == ADJUSTED:
            share = adjusted(counts, record.splits.get("train"))
        else:
            share = unbiased_accuracy(replace(counts, n=[counts.n[g] for g in record.conflicting],
                                     correct=[counts.correct[g] for g in record.conflicting]))  # fmt: skip
        return None if share is None else share * scale
    if counts is None or metric not in COUNTED or not sum(counts.n):
        return None
    if metric in ("entropy", "loss"):
        return float(counts.entropy_sum if metric == "entropy" else counts.loss_sum) / float(sum(counts.n))
    share = SHARES[metric](counts)
    return None if share is None else share * scale


def adjusted(counts: Counts, training: Counts | None) -> float | None:
    """The mean over groups weighted by their examples in training; None if one of these has no example to score."""
    if not training or len(training.n) != len(counts.n):
        return None
    if any(weight and not n for weight, n in zip(training.n, counts.n, strict=True)):
        return None
    parts = zip(training.n, counts.correct, counts.n, strict=True)
    return float(sum(weight * right / n for weight, right, n in parts if n) / sum(training.n))


def worst_environment(splits: Mapping[str, Counts]) -> float | None:
    """The smallest accuracy over each training environment (splits train_e0, train_e1, ...) and test."""
    seen = [counts for name, counts in splits.items() if name.startswith("train_e") or name == "test"]
    return least_accuracy(seen) if "test" in splits and len(seen) > 1 else None


def step_of(record: Summary, column: Column) -> int:
    """After which step a number was scored."""
    split, metric = column
    if isinstance(record, Selected) and split in record.held_out and metric not in record.measures.get(split, {}):
        return record.chosen_step
    return record.last_step


def partial(record: Summary, column: Column) -> str:
    """What a number per group is not over, in words: groups that training has and this split has no example of."""
    counts, training = record.splits.get(column[0]), record.splits.get("train")
    if column[1] not in PER_GROUP or not counts or not training or column[1] in record.measures.get(column[0], {}):
        return ""
    if len(counts.n) < len(training.n):
        return f"over {len(counts.n)} classes: {column[0]} has no attribute"
    if len(counts.n) > len(training.n):
        return ""  # training has no attribute, so it is not known what it has of it
    there = [g for g, n in enumerate(training.n) if n]
    there = [g for g in there if g in record.conflicting] if column[1] == CONFLICTING else there
    absent = [g for g in there if not counts.n[g]]
    names = ", ".join(record.groups[g] if g < len(record.groups) else f"group {g}" for g in absent)
    return f"over {len(there) - len(absent)} of {len(there)} groups: {column[0]} has no {names}" if absent else ""


def unit_of(metric: str) -> str:
    return "%" if metric.endswith("accuracy") else "nats" if metric in ("entropy", "loss") else ""


def limits(metric: str) -> tuple[float, float]:
    """What values of a metric can be, as far as its name tells."""
    if unit_of(metric) == "%":
        return 0.0, 100.0
    if metric.endswith("share"):
        return 0.0, 1.0
    return (0.0, inf) if metric in ("entropy", "loss") or metric.endswith("margin") else (-inf, inf)


def direction(metric: str) -> bool | None:
    """Whether more of a metric is better; None where that cannot be told from its name."""
    return True if metric.endswith(("accuracy", "margin")) else False if metric == "loss" else None
