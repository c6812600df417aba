"""The numbers a record gives: what there is of each split, in what unit, within which limits, of which step.

They are those of the metrics that are made from counts, and what was measured: by the run itself, as its dataset asks,
or from its predictions. What a metric's number means its plug-in says, see bench/plugins/metric.py; what no plug-in is
for, such as a dataset's own measures, is known by its name alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from spurbench.bench.plugins import registry
from spurbench.bench.plugins.counts import SUBSET, subsets_of
from spurbench.bench.plugins.metric import CountedMetric, Seen
from spurbench.bench.records.record import Counts, Number, Summary
from spurbench.bench.records.selection import Selected

Column = tuple[str, str]  # split, metric
EVERYWHERE = ("accuracy", "worst_group_accuracy", "unbiased_accuracy", "entropy", "loss")
"""The metrics from counts that come first among a leaderboard's columns, split by split."""
AFTER_THEM = ("worst_accuracy", "bias_conflicting_accuracy", "adjusted_accuracy")
"""Those that come next, before any others."""
ASKED_FOR = "further_"  # begins the names of measures that an option of the run asked for


def columns_of(record: Summary) -> list[Column]:
    """Every split and metric a record has."""
    found = [(split, metric) for split in record.splits for metric in EVERYWHERE]
    each = registry.metrics()
    names = [*AFTER_THEM, *(name for name in each if name not in EVERYWHERE + AFTER_THEM)]
    rest = [(name, metric) for name in names if (metric := registry.counted_metric(name))]
    over = [(metric.over, name) for name, metric in rest if metric.over]
    found += [column for column in over if value(record, column) is not None]
    there = [name for name, metric in rest if not metric.over and is_for(metric, record)]
    found += [(split, name) for split in record.splits for name in there]
    return found + [(split, name) for split, values in record.measures.items() if "@" not in split for name in values]


def is_for(metric: CountedMetric, record: Summary) -> bool:
    """Whether a metric is one of the data of a record."""
    subsets = not metric.needs_subsets or any(SUBSET in split for split in record.splits)
    return subsets and (bool(record.conflicting) or not metric.needs_conflicting)


def value(record: Summary, column: Column) -> float | None:
    """One metric of one record, accuracies in percent; None if it is not there."""
    split, name = column
    found = measures_of(record, split, step_of(record, column)).get(name) if record.measures else None
    if found is None and (metric := registry.counted_metric(name)):
        found = from_counts(metric, record, split)
    if found is None:
        return None
    return float(found) * (100.0 if unit_of(name) == "%" else 1.0)


def from_counts(metric: CountedMetric, record: Summary, split: str) -> float | None:
    """What a metric makes of a record's counts, before it is shown in percent."""
    if metric.over:  # of one step: the environments of training are scored after the last only
        last = record.last_splits if isinstance(record, Selected) else record.splits
        return metric.of_counts(Seen(NOTHING, last, {}, record.conflicting)) if split == metric.over else None
    counts = record.splits.get(split)
    if counts is None or not sum(counts.n) or not is_for(metric, record):
        return None
    if metric.needs_conflicting and len(counts.n) < len(record.groups):
        return None  # the split has no attribute: it is counted by class
    return metric.of_counts(Seen(counts, record.splits, subsets_of(split, record.splits), record.conflicting))


NOTHING = Counts(n=[], correct=[], loss_sum=0, entropy_sum=0)


def step_of(record: Summary, column: Column) -> int:
    """After which step a number was scored."""
    split, name = column
    if not isinstance(record, Selected) or split not in record.held_out:
        return record.last_step
    at_step = name in measures_of(record, split, record.chosen_step)
    return record.chosen_step if at_step or name not in record.measures.get(split, {}) else record.last_step


def measures_of(record: Summary, split: str, step: int) -> Mapping[str, Number]:
    """What was measured of a split after a step, see bench/evaluation/rescoring.py."""
    return record.measures.get(split if step == record.last_step else f"{split}@{step}", {})


def partial(record: Summary, column: Column) -> str:
    """What a number per group is not over, in words: groups that training has and this split has no example of."""
    metric = registry.metric(column[1])
    if not metric or not metric.per_group or SUBSET in column[0]:
        return ""
    counts, training = record.splits.get(column[0]), record.splits.get("train")
    if not counts or not training:
        return ""
    if metric.counted and column[1] in record.measures.get(column[0], {}):
        return ""  # measured by the run itself
    if len(counts.n) < len(training.n):
        return f"over {len(counts.n)} classes: {column[0]} has no attribute"
    if len(counts.n) > len(training.n):
        return ""  # training has no attribute, so it is not known what it has of it
    there = [g for g, n in enumerate(training.n) if n]
    counted = registry.counted_metric(column[1])
    if counted and counted.needs_conflicting:
        there = [g for g in there if g in record.conflicting]
    absent = [g for g in there if not counts.n[g]]
    names = ", ".join(record.groups[g] if g < len(record.groups) else f"group {g}" for g in absent)
    return f"over {len(there) - len(absent)} of {len(there)} groups: {column[0]} has no {names}" if absent else ""


def unit_of(name: str) -> str:
    """The unit: "%", "nats" or none."""
    metric = registry.metric(name)
    return metric.unit if metric else "%" if name.endswith("accuracy") else ""


def limits(name: str) -> tuple[float, float]:
    """What values of a metric can be; of a measure, as far as its name tells."""
    if metric := registry.metric(name):
        low, high = metric.limits
        return -inf if low is None else low, inf if high is None else high
    if unit_of(name) == "%":
        return 0.0, 100.0
    if name.endswith("share"):
        return 0.0, 1.0
    return (0.0, inf) if name.endswith("margin") else (-inf, inf)


def direction(name: str) -> bool | None:
    """Whether more of a metric is better; None where neither is, or where a measure's name does not tell."""
    metric = registry.metric(name)
    return metric.higher_is_better if metric else True if name.endswith(("accuracy", "margin")) else None
