"""Rows beside each other: paired differences to a baseline, and which row is the best.

What a method uses in training is its own, and whether that pays is what the comparison with the baseline is for. What
chose its settings and its step could have chosen the baseline's too: where it did not, the difference is shown, for
it describes the two rows, but not tested, for it is not the method's alone. The best is looked for among the rows
that used no more than the row itself anywhere, so that whoever used more has to be better than those who used less,
and none of these has to be better than those who used more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spurbench.bench.core.hashing import fingerprint
from spurbench.bench.leaderboard import code_versions, statistics
from spurbench.bench.leaderboard.cell_results import CellResult
from spurbench.bench.leaderboard.published import Comparison
from spurbench.bench.leaderboard.rows import Row, Used
from spurbench.bench.records.metrics import limits

MIN_SEEDS = 5  # with fewer seeds in common two rows are not tested and none is the best


def selection_information(used: Used) -> Used:
    """What chose the settings and the step, beyond the labels of training, which every row has."""
    beyond = {stage: [one for one in what if one != "training labels"] for stage, what in used.items()}
    return {stage: what for stage, what in beyond.items() if what and stage in ("search", "selection")}


def information_used(used: Used) -> set[tuple[str, str]]:
    """Every piece of information used; whoever knows the groups of a split knows its labels.

    What a base or a refit knew, the training knew; groups that were inferred tell no more than they were inferred from.
    """
    training = [("train", one) for stage in ("train", "base", "refit") for one in used.get(stage, [])]
    each = [(stage, one) for stage, what in selection_information(used).items() for one in what] + training
    each = [(stage, one) for stage, one in each if not one.startswith("inferred")]
    return {(stage, word) for stage, one in each for word in (one, one.replace("groups", "labels"))}


def data_version_notes(group: Sequence[CellResult]) -> list[list[str]]:
    """For each cell a note if it was made with another version of its data than most others of the table."""
    found: list[list[str]] = [[] for _ in group]
    for data in {result.data for result in group}:
        places = [at for at, result in enumerate(group) if result.data == data and result.records]
        each = {fingerprint({**group[at].version, "method": ""}): group[at] for at in places}
        if len(each) < 2:
            continue
        reference = most_common_version(list(each.values()), [group[at] for at in places])
        for at in places:
            what = code_versions.differing_parts(group[at].version, reference.version, but=("method",))
            names = "; ".join(group[i].label for i in places if group[i].is_comparable_to(reference))
            text = f"made with another version of {' and '.join(what)} than {names}: not compared with these"
            found[at] += [text] if what else []
    return found


def most_common_version(versions: Sequence[CellResult], kin: Sequence[CellResult]) -> CellResult:
    """A cell with the version of the data that most have."""
    return max(versions, key=lambda one: sum(one.is_comparable_to(other) for other in kin))


def find_baseline(at: int, group: Sequence[CellResult], used: Sequence[Used], comparison: Comparison) -> int | None:
    """The place of the row a cell is compared with, on the same data: preferably one selected and trained alike.

    A reference row is not compared; a variant of the baseline is compared with the row named like the method.
    """
    result = group[at]
    variant = result.method == comparison.baseline
    if result.method in comparison.references or result.na or (variant and result.label == result.method):
        return None
    candidates = [
        (selection_information(used[i]) == selection_information(used[at]), other.training == result.training,
         bool(set(other.grids) & set(result.grids)), other.label == other.method, -i)
        for i, other in enumerate(group)
        if other.method == comparison.baseline and other.is_comparable_to(result) and other is not result
        and (not variant or other.label == other.method)
    ]  # fmt: skip
    return -max(candidates)[-1] if candidates else None


def compare(rows: Sequence[Row], group: Sequence[CellResult], baselines: Sequence[int | None]) -> None:
    """Add to each row its paired comparison with the baseline; Holm's adjustment is over rows on the same data."""
    families: dict[Any, list[Row]] = {}
    for row, result, place in zip(rows, group, baselines, strict=True):
        if place is not None:
            compare_to_baseline(row, rows[place])
            if row.p_sign_flip is not None:
                families.setdefault(result.data, []).append(row)
    for family in families.values():
        adjusted = statistics.holm([row.p_sign_flip for row in family if row.p_sign_flip is not None])
        for row, p in zip(family, adjusted, strict=True):
            row.p_holm, row.comparisons = p, len(family)


def compare_to_baseline(row: Row, baseline: Row) -> None:
    """Compare one row with its baseline on the seeds both have."""
    differences = paired_differences(row, baseline)
    row.baseline, row.baseline_n = baseline.label, len(differences)
    if not differences:
        return
    row.baseline_difference = statistics.mean(differences)
    span = limits(row.metric)[1] - limits(row.metric)[0]
    row.baseline_ci95_low, row.baseline_ci95_high = statistics.t_interval(differences, limits=(-span, span)) or (
        None,
        None,
    )
    if selection_information(row.used) != selection_information(baseline.used):
        row.baseline_used = selection_information(baseline.used)
    elif len(differences) >= MIN_SEEDS:
        row.p_sign_flip = statistics.sign_flip_p(differences)
    row.detectable = statistics.detectable(differences)
    if row.higher_is_better is not None:
        sign = 1 if row.higher_is_better else -1
        row.better_seeds = statistics.share_above([sign * d for d in differences])


def paired_differences(row: Row, other: Row) -> list[float]:
    """Differences of two rows on the seeds both have."""
    theirs = dict(zip(other.seeds, other.values, strict=True))
    return [v - theirs[seed] for seed, v in zip(row.seeds, row.values, strict=True) if seed in theirs]


def mark_best(rows: Sequence[Row], group: Sequence[CellResult]) -> None:
    """Mark each row that is the best of the competing rows that used no more than it, or is not shown to be worse."""
    competing = [
        (row, result, information_used(row.used))
        for row, result in zip(rows, group, strict=True)
        if row.n >= MIN_SEEDS and not row.reference and not row.below_chance and row.higher_is_better is not None
    ]
    sign = 1 if competing and competing[0][0].higher_is_better else -1
    ranked = sorted(competing, key=lambda one: -sign * (one[0].mean or 0.0))
    for row, result, used in competing:
        rivals = (
            other
            for other, its_result, what in ranked
            if what <= used
            and its_result.is_comparable_to(result)
            and len(set(row.seeds) & set(other.seeds)) >= MIN_SEEDS
        )
        best = next(rivals)  # it is among them itself
        interval = statistics.t_interval(paired_differences(row, best))
        if best is not row:
            row.among_best = interval is not None and max(sign * end for end in interval) >= 0
        elif next(rivals, None):
            row.among_best = True
