"""Selection rules: which number of a finished run picks among the draws of a search, and among a run's own steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spurbench.bench.errors import UserError

Counts = Mapping[str, Sequence[float]]
Splits = Mapping[str, Counts]


@dataclass(frozen=True)
class Rule:
    """A way to score a record; higher is better. `oracle`: it looks at the test set."""

    text: str
    oracle: bool
    score: Callable[[Splits], float | None] | None  # None where the record lacks the splits

    def to_dict(self, name: str) -> dict[str, Any]:
        """As it stands in a plan."""
        return {"rule": name, "oracle": self.oracle, "text": self.text}


def accuracy(counts: Counts | None) -> float | None:
    """Correct / all, over every group together."""
    total = sum(counts["n"]) if counts else 0
    return sum(counts["correct"]) / total if counts and total else None


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
    if not training or any(weight and not n for weight, n in zip(training["n"], counts["n"], strict=True)):
        return None
    parts = zip(training["n"], counts["correct"], counts["n"], strict=True)
    return sum(weight * right / n for weight, right, n in parts if n) / sum(training["n"])


def by_group(counts: Counts | None) -> list[float]:
    if not counts:
        return []
    return [right / n for right, n in zip(counts["correct"], counts["n"], strict=True) if n]


def worst_environment(splits: Splits) -> float | None:
    """The smallest accuracy over each training environment (splits train_e0, train_e1, ...) and test."""
    places = [name for name in splits if name.startswith("train_e")]
    each = [accuracy(splits.get(name)) for name in [*places, "test"]]
    found = [value for value in each if value is not None]
    return min(found) if places and len(found) == len(each) else None


RULES = {
    "none": Rule("hyper-parameters as given, last step scored", False, None),
    "test_accuracy": Rule("test accuracy (test-set oracle)", True, lambda splits: accuracy(splits.get("test"))),
    "validation_accuracy": Rule("validation accuracy", False, lambda splits: accuracy(splits.get("validation"))),
    "validation_worst_group": Rule(
        "worst-group accuracy on validation", False, lambda splits: worst_group(splits.get("validation"))
    ),
    "train_accuracy": Rule("training accuracy", False, lambda splits: accuracy(splits.get("train"))),
    "worst_environment": Rule(
        "the smallest accuracy over training environments and test (test-set oracle)", True, worst_environment
    ),
    "worst_group": Rule(
        "worst-group accuracy on test (test-set oracle)", True, lambda splits: worst_group(splits.get("test"))
    ),
}


def mean_score(name: str, records: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean score of the records of one draw, or None if one of them failed.

    Errors: UserError where a finished record lacks the splits the rule looks at.
    """
    if any(record["status"] != "done" for record in records):
        return None
    rule = RULES[name]
    assert rule.score is not None, "'none' does not select"
    scores = []
    for record in (at_its_best(record, name) for record in records):
        score = rule.score(record["splits"])
        if score is None:
            have = ", ".join(record["splits"]) or "none"
            raise UserError(f"rule {name} cannot be used: run {record['id']} has the splits {have}")
        scores.append(score)
    return sum(scores) / len(scores)


def at_its_best(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The record with the counts of the step that a rule picks among those at which its held-out splits were scored.

    The first of equals; `chosen_step` says which. Training counts and further measures stay those of the last step. A
    record of which nothing was scored on the way, and the rule `none`, keep the last step.
    """
    rule, last = RULES[name], {"step": record["training"].get("steps"), "splits": record["splits"]}
    looks = [*record.get("looks", ()), last]
    if rule.score is None or len(looks) == 1:
        return dict(record)
    held_out = looks[0]["splits"]
    scored = [(rule.score({split: look["splits"][split] for split in held_out}), look) for look in looks]
    found = [(score, look) for score, look in scored if score is not None]
    if not found:
        return dict(record)
    chosen = max(found, key=lambda pair: pair[0])[1]
    splits = {**record["splits"], **{split: chosen["splits"][split] for split in held_out}}
    return {**record, "splits": splits, "chosen_step": chosen["step"]}
