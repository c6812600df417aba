"""Selection rules at work: the number of a finished run that picks among the draws of a search, and among its steps.

What is equal in every criterion of a rule: of a run's steps the latest is taken, of a search's draws the first. Rules
are plug-ins, see bench/plugins/rule.py.

Why a chain of criteria: a worst group of a few hundred examples has few values, so ties are common, and one of 0 at
every look ties always. Why the latest step: an equal score must not go to the model that was trained least, as the
first of equals does (the strict `>` of Group DRO's released code, the argmax of DomainBed), and where a rule finds no
difference a run is scored where one without a rule is: at its end. Draws have no such order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum

from spurbench.bench.plugins import registry
from spurbench.bench.plugins.counts import SUBSET
from spurbench.bench.plugins.rule import Rule, Scores, comparable
from spurbench.bench.records.plan import Choice
from spurbench.bench.records.record import Counts, Summary

Splits = Mapping[str, Counts]
NONE = "none"  # the rule that chooses nothing


def rule_of(name: str) -> Rule:
    """The rule of that name; one that is not known here (of a plan of another version) chooses nothing.

    Errors: UserError for one whose file does not import.
    """
    return registry.rule(name if name in registry.rules() else NONE)


def choice_of(name: str) -> Choice:
    """A rule as it stands in a plan."""
    rule = registry.rule(name)
    return Choice(name, rule.oracle, rule.text)


def lack(name: str, splits: Splits | Sequence[str]) -> str | None:
    """What a rule needs that these splits do not give, in words, or None."""
    rule = registry.rule(name)
    if missing := rule.lacking(splits):
        return f"rule {name} needs {' and '.join(map(describe_pattern, missing))}"
    if isinstance(splits, Mapping) and rule.criteria and rule.scores(splits) is None:
        return f"rule {name} needs examples in {' and '.join(rule.splits)}"
    return None


def describe_pattern(pattern: str) -> str:
    """The splits that a rule looks at by one of its patterns, in words."""
    split, subset, _ = pattern.partition(SUBSET)
    if pattern == "train_e*":
        return "environments in training"
    return f"subsets of {split}" if subset else f"the split {split}"


def used_by(name: str, record: Summary) -> list[str]:
    """What a rule had to know to score a record."""
    by_class = len(record.groups) == classes_of(record)
    return [what.replace("groups", "labels") if by_class else what for what in rule_of(name).uses]


def classes_of(record: Summary) -> int:
    """The number of classes; records without it name their groups y0a0, y0a1, …"""
    return int(record.classes or len({group.partition("a")[0] for group in record.groups}))


def mean_scores(name: str, records: Sequence[Summary]) -> Scores | None:
    """Mean scores of the records of one draw, each at its best step; None if one of them is of no use to the rule."""
    rule = registry.rule(name)
    assert rule.criteria, f"'{name}' does not select"
    if not all(record.done for record in records):
        return None
    found = [rule.scores(at_its_best(record, name).splits, classes_of(record)) for record in records]
    each = [scores for scores in found if scores is not None]
    if not each or len(each) < len(found):
        return None
    return tuple(comparable(fsum(column) / len(column)) for column in zip(*each, strict=True))


class Selected(Summary, frozen=True, kw_only=True):
    """A record with the counts of the step that a rule has chosen for it."""

    chosen_step: int
    held_out: list[str]  # the splits whose counts are of that step
    last_splits: dict[str, Counts]  # the counts of the last step, of which everything else remains
    ties: tuple[int, int]  # steps with an equal score by the rule, and those that were equal in every criterion


def at_its_best(record: Summary, name: str) -> Summary:
    """The record with the counts of the step that a rule picks among those at which its held-out splits were scored.

    A record of which nothing was scored on the way or that a rule cannot score, and the rule `none`, keep the last
    step; any other becomes `Selected`.
    """
    rule = rule_of(name)
    last = record.last_splits if isinstance(record, Selected) else record.splits
    if not record.done or not rule.criteria or not record.looks:
        return record
    held_out = list(record.looks[0].splits)
    looks = {look.step: look.splits for look in record.looks}
    classes = classes_of(record)
    looks[record.last_step] = {split: last[split] for split in held_out}
    scored = [(scores, step) for step, splits in looks.items() if (scores := rule.scores(splits, classes)) is not None]
    if not scored or len(looks) == 1:
        return record
    best, step = max(scored)
    ties = sum(scores[:1] == best[:1] for scores, _ in scored), sum(scores == best for scores, _ in scored)
    shared = {name: getattr(record, name) for name in Summary.__struct_fields__}
    return Selected(
        **shared | {"splits": {**last, **looks[step]}},
        chosen_step=step, held_out=held_out, last_splits=last, ties=ties,
    )  # fmt: skip
