"""Metrics of finished runs, computed from their kept predictions: nothing is trained.

A value at the last step becomes the measure NAME of its split; one at an earlier step that a rule of the store's plans
chooses becomes a measure of `SPLIT@STEP`, the name of the predictions themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from spurbench.bench.core.errors import UserError, reason, unknown
from spurbench.bench.core.terminal import plural
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
    """The outcome, in numbers of runs."""

    scored: int = 0
    new: int = 0  # of these, those whose record changed
    without: int = 0  # no predictions are kept of them
    unlabelled: int = 0  # the predictions have no labels and groups
    of_last_step: int = 0  # no predictions are kept of the step that a rule chooses
    busy: int = 0  # another process is working on them
    damaged: list[str] = field(default_factory=list)  # why the predictions of runs cannot be read
    undefined: Counter[str] = field(default_factory=Counter)  # metric and split → runs where it is undefined


def rescore(store: Store, names: Sequence[str], splits: Sequence[str] = ()) -> Outcome:
    """Add metrics of the predictions to the records of a store, for all splits or some.

    Doing it again changes nothing. Errors: UserError for an unknown metric or split, and for a metric that fails.
    """
    if isinstance(store, Packed):
        raise store.refusal()
    metrics = {name: find_metric(name) for name in names}
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
                rescore_run(store, summary.id, metrics, splits, rules, outcome)
            finally:
                store.claims.release(summary.id)
    return outcome


def find_metric(name: str) -> Metric:
    """The metric of that name. Errors: UserError if there is none, or if it needs no predictions."""
    metric = registry.metric(name)
    if isinstance(metric, CountedMetric):
        raise UserError(f"{name} is computed from counts and is on every leaderboard: --all shows it")
    if metric is None:
        of = registry.metric(name.removeprefix(WORST)) if name.startswith(WORST) else None
        if of is not None:
            raise UserError(
                f"{name}: {name.removeprefix(WORST)} is neither better when higher nor when lower, so no group is worst"
            )
        every = [one for one, found in registry.metrics().items() if not isinstance(found, CountedMetric)]
        raise unknown("metric of predictions", name, [*every, *(WORST + one for one in every)])
    return metric


def rules_of(store: Store) -> list[str]:
    """The selection rules of a store's plans."""
    choices = [(plan.selection, *(cell.selection for cell in plan.cells)) for plan in store.plans()]
    searches = [cell.search.rule for plan in store.plans() for cell in plan.cells if cell.search]
    return sorted({choice.rule for each in choices for choice in each if choice} | set(searches))


def rescore_run(
    store: Store,
    run_id: str,
    metrics: Mapping[str, Metric],
    splits: Sequence[str],
    rules: Sequence[str],
    outcome: Outcome,
) -> None:
    """Add the metrics of one run to its record, and count the outcome."""
    record = store.record(run_id)
    if record is None or not record.done:  # it is being redone
        return
    try:
        arrays = predictions.load_arrays(store, run_id)
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
            found = compute_metrics(record, kept, split, metrics, outcome)
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


def compute_metrics(
    record: Record, kept: Kept, split: str, metrics: Mapping[str, Metric], outcome: Outcome
) -> dict[str, Number]:
    """The metrics that are defined on a split."""
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


def describe_outcome(outcome: Outcome) -> list[str]:
    """The outcome, in one line for each kind."""
    rerun = "a run in a new store keeps them"
    lines = [f"{runs_have(outcome.scored)} these metrics, {outcome.new} of them new"]
    lines += [f"{runs_have(runs)} no {what}" for what, runs in outcome.undefined.items() if runs]
    for count, what in (
        (outcome.without, f"no predictions; {rerun}"),
        (outcome.unlabelled, f"predictions without labels and groups, by an earlier spurbench; {rerun}"),
        (outcome.of_last_step, f"no predictions of the step that a rule chose, by an earlier spurbench; {rerun}"),
    ):
        lines += [f"{runs_have(count)} {what}"] if count else []
    if outcome.busy:
        is_ = "is" if outcome.busy == 1 else "are"
        lines.append(f"{plural(outcome.busy, 'run')} {is_} in use by another process; run the same command again later")
    return lines


def runs_have(count: int) -> str:
    """`1 run has`, `3 runs have`."""
    return f"{plural(count, 'run')} {'has' if count == 1 else 'have'}"
