"""One row of a leaderboard: a cell's runs by one metric of one split, and everything that is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any

from spurbench.bench.leaderboard import statistics
from spurbench.bench.leaderboard.cell_results import CellResult
from spurbench.bench.leaderboard.published import Comparison
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.counts import accuracy
from spurbench.bench.plugins.rule import worst_group
from spurbench.bench.plugins.training_settings import split_looked_at
from spurbench.bench.provenance.commit import describe_code
from spurbench.bench.records import selection
from spurbench.bench.records.metrics import Column, direction, limits, partial, step_of, unit_of, value
from spurbench.bench.records.record import Summary
from spurbench.bench.records.run import bases_in, trains_by
from spurbench.bench.records.selection import Selected, rule_of

INFORMATION = {"environments", "groups", "colour channels"}  # those needs of methods that others may not see
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
    collapsed: int = 0  # runs on the worse side of a wide gap, see statistics.count_collapsed
    failed: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)  # {kind, message, seeds}
    unscored: int = 0  # finished runs without this metric
    waiting: int = 0  # planned runs without a record
    left_out: list[int] = field(default_factory=list)  # seeds whose runs were made by another version of the files
    na: str | None = None
    note: str = ""
    notes: list[str] = field(default_factory=list)  # about every number of the row, for the reader
    steps: list[int] = field(default_factory=list)  # after which each of `values` was scored
    chosen_steps: list[int] = field(default_factory=list)  # the step of each run that the rule chose, or the last
    other_step: bool = False  # the values are of the last step, though another was chosen
    tied: int = 0  # runs with several steps of equal score by the rule
    latest: int = 0  # of these, runs whose steps were equal in every criterion: the latest was taken
    partial: str = ""  # which groups the number is over, if not all that training has
    published_ddof: int | None = None
    published_n: int | None = None
    published_selection: str | None = None
    published_difference: float | None = None  # ours − published
    baseline: str | None = None  # label of the row that differences are taken to
    baseline_n: int = 0  # seeds both have
    baseline_difference: float | None = None  # this − baseline, mean over those seeds
    baseline_ci95_low: float | None = None
    baseline_ci95_high: float | None = None
    p_sign_flip: float | None = None
    p_holm: float | None = None
    comparisons: int = 0  # number of p values adjusted together
    better_seeds: float | None = None  # share of the seeds on which this is better than the baseline
    detectable: float | None = None  # true difference to the baseline found with 80 % power
    baseline_used: Used | None = None  # information that selected the baseline, where it differs
    among_best: bool | None = None  # of the rows that used no more: best mean, or not shown to be worse
    reference: bool = False  # bounds the others, does not compete
    below_chance: bool = False  # below chance in training, does not compete
    regime: str = "train: labels"  # `used` in words
    used: Used = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    selection_rule: str = ""
    selection_oracle: bool = False  # the rule looked at the test set
    search: str | None = None
    seconds_per_run: float | None = None  # median
    peak_memory_mb: float | None = None  # largest
    hyper_parameters: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    grids: list[str] = field(default_factory=list)
    provenance: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


def shared_fields(result: CellResult, comparison: Comparison) -> dict[str, Any]:
    """What is the same in every row of a cell."""
    records, done = list(result.records.values()), list(result.done.values())
    used, reference = used_by(result), result.method in comparison.references
    return {
        "dataset": result.dataset, "method": result.method, "label": result.label,
        **describe_selection(result, comparison), "search": result.search,
        "dataset_options": result.dataset_options, "protocol_version": result.protocol_version,
        "precision": result.precision, "hyper_parameters": result.hyper_parameters, "training": result.training,
        "n_planned": len(result.seeds), "left_out": list(result.left_out),
        "waiting": len(result.seeds - set(result.records) - set(result.left_out)),
        "failed": len(result.failed), "failures": collect_failures(result),
        "na": result.na or lacks_base(result), "note": result.note,
        "notes": [*result.notes, *note_unused_rule(result), *note_equal_draws(result)],
        "tied": sum(r.ties[0] > 1 for r in done if isinstance(r, Selected)),
        "latest": sum(r.ties[1] > 1 for r in done if isinstance(r, Selected)),
        "reference": reference,
        "below_chance": not reference and below_chance(done),  # the counts of a random guess are rounded
        "needs": sorted(records[0].needs) if records else [],
        "used": used, "regime": describe_use(used), "grids": sorted(set(result.grids)),
        "seconds_per_run": median(r.cost.seconds for r in done) if done else None,
        "peak_memory_mb": max(r.cost.peak_memory_mb for r in done) if done else None,
        "provenance": collect_provenance(done),
    }  # fmt: skip


def used_by(result: CellResult) -> Used:
    """What was used in training, in its base, in fitting to validation, in the search, and in choosing a step.

    Empty without runs. A rule that had nothing to choose used nothing.
    """
    if not result.records:
        return {}
    needs = next(iter(result.records.values())).needs
    name, found = result.selection.rule, {"train": known_in_training(needs, vars(result))}
    if bases := list(bases_in(vars(result))):
        methods = registry.methods()
        known = [(one.needs if (one := methods.get(base["method"])) else (), base) for base in bases]
        found["base"] = list(dict.fromkeys(one for pair in known for one in known_in_training(*pair)))
    if fitted := [need for need in ("validation groups", "validation") if need in needs][:1]:
        inferred = "inferred " if trains_by(result.inferred_by) and "groups" in fitted[0] else ""
        found["refit"] = [inferred + (fitted[0] if "groups" in fitted[0] else "validation labels")]
    at_steps = [record for record in result.done.values() if isinstance(record, Selected)]
    for stage, records in (("search", list(result.done.values()) if result.search else []), ("selection", at_steps)):
        what = [one for record in records[:1] for one in selection.used_by(name, record)]
        found |= {stage: what} if what else {}
    return found


def known_in_training(needs: Iterable[str], fields: Mapping[str, Any]) -> list[str]:
    """What a training knew of its examples, by what its method needs and the fields of its run."""
    training = fields.get("training") or {}
    seen = (set(needs) | ({"groups"} if training.get("balanced") else set())) & INFORMATION
    held_out = [f"{split} labels"] if (split := split_looked_at(training)) else []
    method = registry.methods().get(fields["method"])
    by_itself = method is not None and method.infers and bool(method.base)
    inferred = "inferred " if trains_by(fields.get("inferred_by")) or by_itself else ""
    return ["labels", *(one if one == "colour channels" else inferred + one for one in sorted(seen)), *held_out]


def describe_use(used: Used) -> str:
    """`train: labels; search and selection: validation groups`."""
    stages: dict[str, list[str]] = {}
    for stage, what in used.items():
        stages.setdefault(" + ".join(what), []).append(stage)
    return "; ".join(f"{' and '.join(names)}: {what}" for what, names in stages.items())


def describe_selection(result: CellResult, comparison: Comparison) -> dict[str, Any]:
    """How the settings and the step scored were chosen; a guess has nothing to choose."""
    if is_guess(result, comparison):
        return {"selection": "nothing to select", "selection_rule": "none", "selection_oracle": False}
    rule, stepped = result.selection, any(isinstance(record, Selected) for record in result.done.values())
    if result.search:
        text = f"{result.search}{'; the step of each run likewise' if stepped else ''}"
    elif stepped:
        text = f"hyper-parameters as given, the step of each run by {rule.text}"
    elif rule_of(rule.rule).criteria:
        text = f"hyper-parameters as given, said to be chosen by {rule.text}; last step scored"
    else:
        text = rule.text
    return {"selection": text, "selection_rule": rule.rule, "selection_oracle": rule.oracle}


def note_unused_rule(result: CellResult) -> list[str]:
    """A note if the rule could not choose a step, or if it looked at fewer groups than training has."""
    name, records = result.selection.rule, list(result.done.values())
    rule, looked = rule_of(name), [record for record in records if record.looks]
    if rule.criteria and looked and not isinstance(looked[0], Selected):
        why = selection.lack(name, looked[0].looks[0].splits)
        return [f"{why} to choose a step: the last is scored"] if why else []
    if worst_group not in rule.criteria or rule.by_class or not (result.search or looked):
        return []
    found = {partial(record, (split, "worst_group_accuracy")) for record in records for split in rule.splits}
    return [f"chosen by a worst group {one}" for one in sorted(found - {""})]


def note_equal_draws(result: CellResult) -> list[str]:
    """A note if the rule scored several draws of the search alike, and how one of them was taken."""
    rule, name = rule_of(result.selection.rule), result.selection.rule
    if result.drawn is None or not rule.criteria or not all(result.draws):
        return []
    scores = [selection.mean_scores(name, draw) for draw in result.draws]
    best = max((score for score in scores if score is not None), default=())
    equal = [score for score in scores if score is not None and score[0] == best[0]]
    if len(equal) < 2 or scores[result.drawn] not in equal:
        return []
    how = f"tie broken by {rule.refined}"
    if scores[result.drawn] != best:
        how = f"the first taken, though {rule.refined} would decide otherwise"
    elif equal.count(best) > 1:
        how = f"{equal.count(best)} of them in every criterion; the first taken"
    return [f"{len(equal)} of {len(scores)} draws of its search tied, {how}"]


def is_guess(result: CellResult, comparison: Comparison) -> bool:
    """Whether it is a reference row without hyper-parameters, whose numbers are exact and have no deviation."""
    return result.method in comparison.references and result.hyper_parameters == {}


def below_chance(records: Sequence[Summary]) -> bool:
    """Whether runs are, on average, worse than chance in training: no cue was learned, or an inverted one."""
    shares = [accuracy(record.splits.get("train")) for record in records]
    found = [share for share in shares if share is not None]
    if not found:
        return False
    return statistics.mean(found) < 1 / selection.classes_of(records[0])


def lacks_base(result: CellResult) -> str | None:
    """Why a cell cannot have a result though its method is not at fault: what all its runs start from has failed."""
    causes = [record.cause for seed in result.seeds if (record := result.records.get(seed))]
    hopeless = len(causes) == len(result.seeds) > 0 and all(cause and cause.kind == "base_failed" for cause in causes)
    return "base failed" if hopeless else None


def collect_failures(result: CellResult) -> list[dict[str, Any]]:
    """Causes of failed runs, each with the seeds concerned."""
    found: dict[tuple[str, str], list[int]] = {}
    for seed, record in result.failed.items():
        if record.cause:
            found.setdefault((record.cause.kind, record.cause.message), []).append(seed)
    return [{"kind": kind, "message": message, "seeds": seeds} for (kind, message), seeds in found.items()]


def collect_provenance(records: Sequence[Summary]) -> dict[str, list[str]]:
    """What the runs were made with: every distinct commit, version and machine."""
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


def row_of(result: CellResult, fact: Mapping[str, Any], column: Column, comparison: Comparison) -> Row:
    """The row of a cell for one column, without comparisons to other rows."""
    pairs = [(record, value(record, column)) for record in result.done.values()]
    scored = [(record, found) for record, found in pairs if found is not None]
    records, values = [record for record, _ in scored], [found for _, found in scored]
    seeds, steps = [record.seed for record in records], [step_of(record, column) for record in records]
    about = [record.chosen_step if isinstance(record, Selected) else record.last_step for record in records]
    drawn = [] if is_guess(result, comparison) else values
    low, high = statistics.t_interval(drawn, limits=limits(column[1])) or (None, None)
    percent, better = unit_of(column[1]) == "%", direction(column[1])
    published = comparison.number(result.dataset, result.dataset_options, result.published, *column)
    centre = statistics.mean(values) if values else None
    return Row(
        **fact, split=column[0], metric=column[1], unit=unit_of(column[1]), higher_is_better=better,
        n=len(values), seeds=seeds, values=values, unscored=len(pairs) - len(values), mean=centre,
        steps=steps, chosen_steps=about, other_step=steps != about,
        partial="; ".join(sorted({partial(record, column) for record in records} - {""})),
        std=statistics.std(drawn), std_ddof0=statistics.std(drawn, 0), ci95_low=low, ci95_high=high,
        min=min(values, default=None), median=median(values) if values else None, max=max(values, default=None),
        collapsed=statistics.count_collapsed(values, statistics.smallest_notable_gap(values, percent), better),
        published_mean=published.mean if published else None, published_std=published.std if published else None,
        published_source=published.source if published else None, published_ddof=published.ddof if published else None,
        published_n=published.n if published else None, published_selection=published.selection if published else None,
        published_difference=centre - published.mean if published and centre is not None else None,
    )  # fmt: skip
