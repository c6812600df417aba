"""One row of a leaderboard: a square's runs by one metric of one split, and everything that is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any

from spurbench.bench.leaderboard import statistics
from spurbench.bench.leaderboard.cell_results import Square
from spurbench.bench.leaderboard.published import Comparison
from spurbench.bench.plugins.counts import accuracy
from spurbench.bench.plugins.rule import worst_group
from spurbench.bench.provenance.commit import describe_code
from spurbench.bench.records import selection
from spurbench.bench.records.metrics import Column, direction, limits, partial, step_of, unit_of, value
from spurbench.bench.records.record import Summary
from spurbench.bench.records.selection import Selected, rule_of

INFORMATION = {"environments", "groups", "colour channels"}  # of what a method needs, that which others may not see
Used = dict[str, list[str]]  # "train", "search", "selection" → what was used there


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
    left_out: list[int] = field(default_factory=list)  # seeds whose runs another version of the files made
    na: str | None = None
    note: str = ""
    notes: list[str] = field(default_factory=list)  # what a reader must know of every number of the row
    steps: list[int] = field(default_factory=list)  # after which each of `values` was scored
    chosen_steps: list[int] = field(default_factory=list)  # the step of each run that the row is about
    other_step: bool = False  # these values are of the last step, the row is about another
    tied: int = 0  # runs of which several steps were equal by the rule's score
    latest: int = 0  # of these, those of which several were equal in every criterion: the latest was taken
    partial: str = ""  # over which groups the number is, if not over all that training has
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
    baseline_used: Used | None = None  # what chose the baseline's settings and steps, where that differs
    among_best: bool | None = None  # of the rows that used no more: best mean, or its paired interval to that has zero
    reference: bool = False  # bounds the others, does not compete
    below_chance: bool = False  # in training, does not compete
    regime: str = "train: labels"  # `used` in words
    used: Used = field(default_factory=dict)
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


def facts(square: Square, comparison: Comparison) -> dict[str, Any]:
    """What is the same in every row of a square."""
    records, done = list(square.records.values()), list(square.done.values())
    used = used_by(square)
    return {
        "dataset": square.dataset, "method": square.method, "label": square.label,
        **chosen(square, comparison), "search": square.search,
        "dataset_options": square.dataset_options, "protocol_version": square.protocol_version,
        "precision": square.precision, "hyper_parameters": square.hyper_parameters, "training": square.training,
        "n_planned": len(square.seeds), "left_out": list(square.left_out),
        "waiting": len(square.seeds - set(square.records) - set(square.left_out)),
        "failed": len(square.failed), "failures": failures(square), "na": square.na, "note": square.note,
        "notes": [*square.notes, *unserved(square), *equal_draws(square)],
        "tied": sum(r.ties[0] > 1 for r in done if isinstance(r, Selected)),
        "latest": sum(r.ties[1] > 1 for r in done if isinstance(r, Selected)),
        "reference": square.method in comparison.references, "below_chance": below_chance(done),
        "needs": sorted(records[0].needs) if records else [],
        "used": used, "regime": in_words(used), "grids": sorted(set(square.grids)),
        "seconds_per_run": median(r.cost.seconds for r in done) if done else None,
        "peak_memory_mb": max(r.cost.peak_memory_mb for r in done) if done else None,
        "provenance": provenance(done),
    }  # fmt: skip


def used_by(square: Square) -> Used:
    """What was used in training, in the search for settings, and in choosing each run's step; empty without runs.

    A rule that had nothing to choose used nothing.
    """
    if not square.records:
        return {}
    needs = set(next(iter(square.records.values())).needs)
    describe_code = needs | ({"groups"} if square.training.get("balanced") else set())
    name, found = square.selection.rule, {"train": ["labels", *sorted(describe_code & INFORMATION)]}
    at_steps = [record for record in square.done.values() if isinstance(record, Selected)]
    for stage, records in (("search", list(square.done.values()) if square.search else []), ("selection", at_steps)):
        what = [one for record in records[:1] for one in selection.used_by(name, record)]
        found |= {stage: what} if what else {}
    return found


def in_words(used: Used) -> str:
    """`train: labels; search and selection: validation groups`."""
    stages: dict[str, list[str]] = {}
    for stage, what in used.items():
        stages.setdefault(" + ".join(what), []).append(stage)
    return "; ".join(f"{' and '.join(names)}: {what}" for what, names in stages.items())


def chosen(square: Square, comparison: Comparison) -> dict[str, Any]:
    """How the settings and the step that is scored were chosen; a guess has nothing to choose."""
    if guesses(square, comparison):
        return {"selection": "nothing to select", "selection_rule": "none", "selection_oracle": False}
    rule, stepped = square.selection, any(isinstance(record, Selected) for record in square.done.values())
    if square.search:
        text = f"{square.search}{'; the step of each run likewise' if stepped else ''}"
    elif stepped:
        text = f"hyper-parameters as given, the step of each run by {rule.text}"
    elif rule_of(rule.rule).criteria:
        text = f"hyper-parameters as given, said to be chosen by {rule.text}; last step scored"
    else:
        text = rule.text
    return {"selection": text, "selection_rule": rule.rule, "selection_oracle": rule.oracle}


def unserved(square: Square) -> list[str]:
    """That a rule which was to choose a step could not, or that it looked at fewer groups than training has."""
    name, records = square.selection.rule, list(square.done.values())
    rule, looked = rule_of(name), [record for record in records if record.looks]
    if rule.criteria and looked and not isinstance(looked[0], Selected):
        why = selection.lack(name, looked[0].looks[0].splits)
        return [f"{why} to choose a step: the last is scored"] if why else []
    if worst_group not in rule.criteria or not (square.search or looked):
        return []
    found = {partial(record, (split, "worst_group_accuracy")) for record in records for split in rule.splits}
    return [f"chosen by a worst group {one}" for one in sorted(found - {""})]


def equal_draws(square: Square) -> list[str]:
    """That the rule scored several draws of the search alike, and how one of them was taken."""
    rule, name = rule_of(square.selection.rule), square.selection.rule
    if square.drawn is None or not rule.criteria or not all(square.draws):
        return []
    scores = [selection.mean_scores(name, draw) for draw in square.draws]
    best = max((score for score in scores if score is not None), default=())
    equal = [score for score in scores if score is not None and score[0] == best[0]]
    if len(equal) < 2 or scores[square.drawn] not in equal:
        return []
    how = f"parted by {rule.refined}"
    if scores[square.drawn] != best:
        how = f"the first taken, though {rule.refined} would part them otherwise"
    elif equal.count(best) > 1:
        how = f"{equal.count(best)} of them in every criterion, the first taken"
    return [f"{len(equal)} of {len(scores)} draws of its search equal, {how}"]


def guesses(square: Square, comparison: Comparison) -> bool:
    """Whether it is a reference row without hyper-parameters: its numbers are exact, they have no deviation."""
    return square.method in comparison.references and square.hyper_parameters == {}


def below_chance(records: Sequence[Summary]) -> bool:
    """Whether runs are, on average, worse than chance in training: no cue was learned, or one the wrong way round."""
    shares = [accuracy(record.splits.get("train")) for record in records]
    found = [share for share in shares if share is not None]
    if not found:
        return False
    return statistics.mean(found) < 1 / selection.classes_of(records[0])


def failures(square: Square) -> list[dict[str, Any]]:
    """Causes of failed runs, each with the seeds it struck."""
    found: dict[tuple[str, str], list[int]] = {}
    for seed, record in square.failed.items():
        if record.cause:
            found.setdefault((record.cause.kind, record.cause.message), []).append(seed)
    return [{"kind": kind, "message": message, "seeds": seeds} for (kind, message), seeds in found.items()]


def provenance(records: Sequence[Summary]) -> dict[str, list[str]]:
    """With what the runs were made: every distinct commit, version and machine."""
    found: dict[str, dict[str, None]] = {"commit": {}, "hardware": {}, "device": {}, "data": {}, "plugins": {}}
    for source in (record.provenance for record in records):
        found["commit"][describe_code(source.commit, source.diff)] = None
        found["hardware"][str(source.hardware.get("gpu") or source.hardware.get("cpu"))] = None
        found["device"][source.device] = None
        found["data"][source.data[:12] or "drawn from the seed"] = None
        if code := source.code:
            found["plugins"][" ".join(str(code[kind])[:12] for kind in sorted(code) if code[kind])] = None
        for name, version in source.versions.items():
            found.setdefault(name, {})[str(version)] = None
    return {name: list(values) for name, values in found.items() if values}


def row_of(square: Square, fact: Mapping[str, Any], column: Column, comparison: Comparison) -> Row:
    """The row of a square for one column, without comparisons to other rows."""
    pairs = [(record, value(record, column)) for record in square.done.values()]
    scored = [(record, found) for record, found in pairs if found is not None]
    records, values = [record for record, _ in scored], [found for _, found in scored]
    seeds, steps = [record.seed for record in records], [step_of(record, column) for record in records]
    about = [record.chosen_step if isinstance(record, Selected) else record.last_step for record in records]
    drawn = [] if guesses(square, comparison) else values
    low, high = statistics.t_interval(drawn, limits=limits(column[1])) or (None, None)
    percent, better = unit_of(column[1]) == "%", direction(column[1])
    published = comparison.number(square.dataset, square.dataset_options, square.published, *column)
    centre = statistics.mean(values) if values else None
    return Row(
        **fact, split=column[0], metric=column[1], unit=unit_of(column[1]), higher_is_better=better,
        n=len(values), seeds=seeds, values=values, unscored=len(pairs) - len(values), mean=centre,
        steps=steps, chosen_steps=about, other_step=steps != about,
        partial="; ".join(sorted({partial(record, column) for record in records} - {""})),
        std=statistics.std(drawn), std_ddof0=statistics.std(drawn, 0), ci95_low=low, ci95_high=high,
        min=min(values, default=None), median=median(values) if values else None, max=max(values, default=None),
        collapsed=statistics.fallen(values, statistics.floor_of(values, percent), better),
        published_mean=published.mean if published else None, published_std=published.std if published else None,
        published_source=published.source if published else None, published_ddof=published.ddof if published else None,
        published_n=published.n if published else None, published_selection=published.selection if published else None,
        published_difference=centre - published.mean if published and centre is not None else None,
    )  # fmt: skip
