"""Selection rules: which number of a finished run picks among the draws of a search, and among a run's own steps.

A rule is a chain of criteria on the splits it names, and sees no others. The first criterion decides; where it scores
several steps or draws alike, the next one parts them, and so on. What is equal in everything: of a run's steps the
latest is taken, of a search's draws the first.

Why a chain: a worst group of a few hundred examples has few values, so ties are common, and one of 0 at every look ties
always. Why the latest step: an equal score must not go to the model that was trained least, as the first of equals does
(the strict `>` of Group DRO's released code, the argmax of DomainBed), and where a rule finds no difference a run is
scored where one without a rule is: at its end. Draws have no such order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import fsum, inf, isfinite

from spurbench.bench.records.plan import Choice
from spurbench.bench.records.record import Counts, Summary

Splits = Mapping[str, Counts]
Criterion = Callable[[Sequence[Counts]], float | None]  # higher is better
Scores = tuple[float, ...]  # of the criteria of a rule, compared from the first on
DIGITS = 12  # means of equal accuracies may differ in the last bits; different ones differ sooner


def accuracy(counts: Counts | None) -> float | None:
    """Correct / all, over every group together."""
    total = sum(counts.n) if counts else 0
    return float(sum(counts.correct) / total) if counts and total else None


def worst_group(counts: Counts | None) -> float | None:
    """The smallest accuracy of a group that has examples."""
    each = by_group(counts)
    return min(each) if each else None


def unbiased(counts: Counts | None) -> float | None:
    """The mean over the accuracies of the groups that have examples."""
    each = by_group(counts)
    return sum(each) / len(each) if each else None


def adjusted(counts: Counts, training: Counts | None) -> float | None:
    """The mean over groups weighted by their examples in training; None if one of these has no example to score."""
    if not training or len(training.n) != len(counts.n):
        return None
    if any(weight and not n for weight, n in zip(training.n, counts.n, strict=True)):
        return None
    parts = zip(training.n, counts.correct, counts.n, strict=True)
    return float(sum(weight * right / n for weight, right, n in parts if n) / sum(training.n))


def by_group(counts: Counts | None) -> list[float]:
    """The accuracy of each group that has examples."""
    if not counts:
        return []
    return [right / n for right, n in zip(counts.correct, counts.n, strict=True) if n]


def worst_environment(splits: Splits) -> float | None:
    """The smallest accuracy over each training environment (splits train_e0, train_e1, ...) and test."""
    seen = RULES["worst_environment"].seen(splits)
    return None if seen is None else least_accuracy(list(seen.values()))


# ---- criteria -----------------------------------------------------------------------------------------------------


def average(each: Sequence[Counts]) -> float | None:
    """Correct / all, over all splits together."""
    total = sum(sum(counts.n) for counts in each)
    return float(sum(sum(counts.correct) for counts in each) / total) if total else None


def least_accuracy(each: Sequence[Counts]) -> float | None:
    found = [accuracy(counts) for counts in each]
    known = [share for share in found if share is not None]
    return min(known) if known and len(known) == len(found) else None


def least_group(each: Sequence[Counts]) -> float | None:
    found = [worst_group(counts) for counts in each]
    known = [share for share in found if share is not None]
    return min(known) if known and len(known) == len(found) else None


def low_loss(each: Sequence[Counts]) -> float | None:
    """Minus the mean loss over all splits together."""
    total = sum(sum(counts.n) for counts in each)
    return -fsum(counts.loss_sum for counts in each) / total if total else None


CRITERIA: Mapping[Criterion, str] = {
    average: "average accuracy", least_accuracy: "least accuracy", least_group: "worst group", low_loss: "lower loss",
}  # fmt: skip


# ---- rules --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A way to score splits: `criteria`, the first of which decides, on `splits` (names or patterns) and no others.

    `uses` says what the rule must know of them; where the data have no attribute, their groups are their classes, and
    labels are enough.
    """

    text: str
    splits: tuple[str, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    uses: tuple[str, ...] = ()

    @property
    def oracle(self) -> bool:
        """Whether it looks at the test set."""
        return "test" in self.splits

    @property
    def refined(self) -> str:
        """By what equal scores are parted, in words."""
        return ", then ".join(CRITERIA[one] for one in self.criteria[1:])

    def as_choice(self, name: str) -> Choice:
        """As it stands in a plan."""
        return Choice(name, self.oracle, self.text)

    def seen(self, splits: Splits) -> Splits | None:
        """What the rule looks at; None where something of it is not there."""
        found = {name: counts for name, counts in splits.items() if any(fnmatchcase(name, p) for p in self.splits)}
        return found if not self.lacking(found) else None

    def lacking(self, splits: Sequence[str] | Splits) -> list[str]:
        """The splits it looks at that are not among these."""
        return [pattern for pattern in self.splits if not any(fnmatchcase(name, pattern) for name in splits)]

    def scores(self, splits: Splits) -> Scores | None:
        """The score, and after it what parts equal ones; None where there is none to give."""
        seen = self.seen(splits)
        if not self.criteria or seen is None:
            return None
        found = [one(list(seen.values())) for one in self.criteria]
        return None if found[0] is None else tuple(comparable(score) for score in found)


def comparable(score: float | None) -> float:
    return round(score, DIGITS) if score is not None and isfinite(score) else -inf


TEST_ORACLE = "(test-set oracle)"
RULES = {
    "none": Rule("hyper-parameters as given, last step scored"),
    "test_accuracy": Rule(f"test accuracy {TEST_ORACLE}", ("test",), (average, low_loss), ("test labels",)),
    "validation_accuracy": Rule("validation accuracy", ("validation",), (average, low_loss), ("validation labels",)),
    "validation_worst_group": Rule(
        "worst-group accuracy on validation",
        ("validation",),
        (least_group, average, low_loss),
        ("validation groups",),
    ),
    "train_accuracy": Rule("training accuracy", ("train",), (average, low_loss), ("training labels",)),
    "worst_environment": Rule(
        f"the smallest accuracy over training environments and test {TEST_ORACLE}",
        ("train_e*", "test"),
        (least_accuracy, average, low_loss),
        ("training environments", "test labels"),
    ),
    "worst_group": Rule(
        f"worst-group accuracy on test {TEST_ORACLE}", ("test",), (least_group, average, low_loss), ("test groups",)
    ),
}


def rule_of(name: str) -> Rule:
    """The rule of that name; one that is not known here (of a plan of another version) chooses nothing."""
    return RULES.get(name, RULES["none"])


def lack(name: str, splits: Splits | Sequence[str]) -> str | None:
    """What a rule needs that these splits do not give, in words, or None."""
    rule = RULES[name]
    if missing := rule.lacking(splits):
        words = ["environments in training" if split == "train_e*" else f"the split {split}" for split in missing]
        return f"rule {name} needs {' and '.join(words)}"
    if isinstance(splits, Mapping) and rule.criteria and rule.scores(splits) is None:
        return f"rule {name} needs examples in {' and '.join(rule.splits)}"
    return None


def used_by(name: str, record: Summary) -> list[str]:
    """What a rule had to know to score a record."""
    by_class = len(record.groups) == classes_of(record)
    return [what.replace("groups", "labels") if by_class else what for what in rule_of(name).uses]


def classes_of(record: Summary) -> int:
    """The number of classes; records without it name their groups y0a0, y0a1, …"""
    return int(record.classes or len({group.partition("a")[0] for group in record.groups}))


def mean_scores(name: str, records: Sequence[Summary]) -> Scores | None:
    """Mean scores of the records of one draw, each at its best step; None if one of them is of no use to the rule."""
    rule = RULES[name]
    assert rule.criteria, "'none' does not select"
    if not all(record.done for record in records):
        return None
    found = [rule.scores(at_its_best(record, name).splits) for record in records]
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
    looks[record.last_step] = {split: last[split] for split in held_out}
    scored = [(scores, step) for step, splits in looks.items() if (scores := rule.scores(splits)) is not None]
    if not scored or len(looks) == 1:
        return record
    best, step = max(scored)
    ties = sum(scores[:1] == best[:1] for scores, _ in scored), sum(scores == best for scores, _ in scored)
    shared = {name: getattr(record, name) for name in Summary.__struct_fields__}
    return Selected(
        **shared | {"splits": {**last, **looks[step]}},
        chosen_step=step, held_out=held_out, last_splits=last, ties=ties,
    )  # fmt: skip
