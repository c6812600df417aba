"""Metrics of runs that are done, computed from the predictions kept of them: nothing is trained.

A number of the last step becomes the measure NAME of its split; one of an earlier step that a rule of the store's plans
chooses becomes that of `SPLIT@STEP`, as the predictions themselves are called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from spurbench.bench.core.errors import UserError, reason, unknown
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.metric import CountedMetric, Metric, Predictions
from spurbench.bench.plugins.registry import WORST
from spurbench.bench.records.record import Number, Record, Summary
from spurbench.bench.records.selection import Selected, at_its_best, classes_of
from spurbench.bench.store import predictions
from spurbench.bench.store.predictions import Kept
from spurbench.bench.store.store import Packed, Store

Measures = dict[str, dict[str, Number]]


@dataclass
class Outcome:
    """What came of it, in numbers of runs."""

    scored: int = 0
    new: int = 0  # of these, those whose record changed
    without: int = 0  # nothing is kept of them
    unlabelled: int = 0  # what is kept does not say what the examples are
    of_last_step: int = 0  # nothing is kept of the step that a rule chooses
    busy: int = 0  # another process is at work on them
    damaged: list[str] = field(default_factory=list)  # why the predictions of a run cannot be read
    undefined: Counter[str] = field(default_factory=Counter)  # metric and split → runs without such a number


def rescore(store: Store, names: Sequence[str], splits: Sequence[str] = ()) -> Outcome:
    """Put metrics of the predictions into the records of a store; of all splits, or of some.

    The same again changes nothing. Errors: UserError for a metric or split that there is not, and for one that fails.
    """
    if isinstance(store, Packed):
        raise store.refusal()
    metrics = {name: of_predictions(name) for name in names}
    done = [record for record in store.records()[0] if record.done]
    known = {split for record in done for split in record.splits}
    for split in splits:
        if done and split not in known:
            raise unknown("split", split, known)
    rules, outcome = rules_of(store), Outcome()
    for summary in done:
        if not predictions.path_of(store, summary.id).is_file():
            outcome.without += 1
        elif not store.claims.take(summary.id):
            outcome.busy += 1
        else:
            try:
                update(store, summary.id, metrics, splits, rules, outcome)
            finally:
                store.claims.release(summary.id)
    return outcome


def of_predictions(name: str) -> Metric:
    """The metric of that name. Errors: UserError if there is none, or it needs no predictions."""
    metric = registry.metric(name)
    if isinstance(metric, CountedMetric):
        raise UserError(f"{name} is made from counts, and is on every leaderboard: --all shows it")
    if metric is None:
        of = registry.metric(name.removeprefix(WORST)) if name.startswith(WORST) else None
        if of is not None:
            raise UserError(f"{name}: neither way is better of {name.removeprefix(WORST)}, so that no group is worst")
        every = [one for one, found in registry.metrics().items() if not isinstance(found, CountedMetric)]
        raise unknown("metric of predictions", name, [*every, *(WORST + one for one in every)])
    return metric


def rules_of(store: Store) -> list[str]:
    """The selection rules of a store's plans."""
    choices = [(plan.selection, *(cell.selection for cell in plan.cells)) for plan in store.plans()]
    searches = [cell.search.rule for plan in store.plans() for cell in plan.cells if cell.search]
    return sorted({choice.rule for each in choices for choice in each if choice} | set(searches))


def update(
    store: Store,
    run_id: str,
    metrics: Mapping[str, Metric],
    splits: Sequence[str],
    rules: Sequence[str],
    outcome: Outcome,
) -> None:
    """Put the metrics of one run into its record, and note what came of it."""
    record = store.record(run_id)
    if record is None or not record.done:  # it was done again in the meantime
        return
    try:
        arrays = predictions.arrays_of(store, run_id)
    except UserError as error:
        outcome.damaged.append(str(error))
        return
    measures: Measures = {split: dict(values) for split, values in record.measures.items()}
    for step in steps_of(record, rules):
        try:
            kept = predictions.of_step(arrays, record, step)
        except KeyError:
            outcome.of_last_step += 1
            continue
        if kept.logits.keys() - kept.y.keys() or kept.logits.keys() - kept.group.keys():
            outcome.unlabelled += 1
            return
        for split in (name for name in kept.logits if not splits or name in splits):
            found = measured(record, kept, split, metrics, outcome)
            at = split if step == record.last_step else f"{split}@{step}"
            measures[at] = measures.get(at, {}) | found
    measures = {split: values for split, values in measures.items() if values}
    outcome.scored += 1
    if measures != record.measures:
        store.claims.check(run_id)
        store.write_record(record.with_(measures=measures))
        outcome.new += 1


def steps_of(record: Summary, rules: Sequence[str]) -> list[int]:
    """The steps at which a run may be scored: the last, and those that a rule chooses."""
    best = [at_its_best(record, rule) for rule in rules]
    return sorted({record.last_step, *(one.chosen_step for one in best if isinstance(one, Selected))})


def measured(
    record: Record, kept: Kept, split: str, metrics: Mapping[str, Metric], outcome: Outcome
) -> dict[str, Number]:
    """The metrics of a split of which there is such a number."""
    seen = Predictions(kept.logits[split], kept.y[split], kept.group[split], classes_of(record), record.attributes or 1)
    found: dict[str, Number] = {}
    for name, metric in metrics.items():
        try:
            value = metric.value(seen) if len(seen.y) else None
            if value is None or not isfinite(value):
                outcome.undefined[f"{name} of {split}"] += kept.step == record.last_step
            else:
                found[name] = float(value)
        except Exception as error:  # it is somebody's plug-in
            raise UserError(f"the metric {name} fails on {split} of run {record.id}: {reason(error)}") from error
    return found


def told(outcome: Outcome) -> list[str]:
    """What came of it, a line each."""
    lines = [f"{outcome.scored} runs have these metrics, {outcome.new} of them new"]
    lines += [f"{runs} runs have no {what}" for what, runs in outcome.undefined.items() if runs]
    again = "a run in a new store keeps them"
    for count, what in (
        (outcome.without, f"have no predictions; {again}"),
        (outcome.unlabelled, f"have predictions without labels and groups, of an earlier spurbench; {again}"),
        (outcome.of_last_step, f"have no predictions of the step that a rule chose, of an earlier spurbench; {again}"),
        (outcome.busy, "are in the hands of another process; the same command again does them"),
    ):
        lines += [f"{count} runs {what}"] if count else []
    return [line.replace("1 runs have", "1 run has") if line.startswith("1 runs") else line for line in lines]
