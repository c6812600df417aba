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
from spurbench.bench.leaderboard.cell_results import Square
from spurbench.bench.leaderboard.published import Comparison
from spurbench.bench.leaderboard.rows import Row, Used
from spurbench.bench.records.metrics import limits

LEAST = 5  # seeds in common, below which two rows are not tested and none is the best


def choice(used: Used) -> Used:
    """What chose the settings and the step, beyond the labels of training, which every row has."""
    beyond = {stage: [one for one in what if one != "training labels"] for stage, what in used.items()}
    return {stage: what for stage, what in beyond.items() if what and stage != "train"}


def information_used(used: Used) -> set[tuple[str, str]]:
    """Every piece of information; who knows the groups of a split knows its labels."""
    each = [(stage, one) for stage, what in (*choice(used).items(), ("train", used.get("train", []))) for one in what]
    return {(stage, word) for stage, one in each for word in (one, one.replace("groups", "labels"))}


def uncompared(group: Sequence[Square]) -> list[list[str]]:
    """For each square a note if it was made with another version of its data than most others of the table."""
    found: list[list[str]] = [[] for _ in group]
    for data in {square.data for square in group}:
        kin = [at for at, square in enumerate(group) if square.data == data and square.records]
        each = {fingerprint({**group[at].version, "method": ""}): group[at] for at in kin}
        if len(each) < 2:
            continue
        home = most(list(each.values()), [group[at] for at in kin])
        for at in kin:
            what = code_versions.clashes(group[at].version, home.version, but=("method",))
            names = "; ".join(group[i].label for i in kin if group[i].beside(home))
            text = f"made with another version of {' and '.join(what)} than {names}: not compared with these"
            found[at] += [text] if what else []
    return found


def most(versions: Sequence[Square], kin: Sequence[Square]) -> Square:
    """A square of the version of the data that most have."""
    return max(versions, key=lambda one: sum(one.beside(other) for other in kin))


def baseline_of(at: int, group: Sequence[Square], used: Sequence[Used], comparison: Comparison) -> int | None:
    """The place of the row a square is compared with, on the same data: best one that was chosen and trained alike.

    A reference row is not compared; a variant of the baseline is compared with the row named like the method.
    """
    square = group[at]
    variant = square.method == comparison.baseline
    if square.method in comparison.references or square.na or (variant and square.label == square.method):
        return None
    near = [
        (choice(used[i]) == choice(used[at]), other.training == square.training,
         bool(set(other.grids) & set(square.grids)), other.label == other.method, -i)
        for i, other in enumerate(group)
        if other.method == comparison.baseline and other.beside(square) and other is not square
        and (not variant or other.label == other.method)
    ]  # fmt: skip
    return -max(near)[-1] if near else None


def compare(rows: Sequence[Row], group: Sequence[Square], baselines: Sequence[int | None]) -> None:
    """Put the paired comparison with its baseline into each row, Holm's adjustment over rows on the same data."""
    families: dict[Any, list[Row]] = {}
    for row, square, place in zip(rows, group, baselines, strict=True):
        if place is not None:
            against(row, rows[place])
            if row.p_sign_flip is not None:
                families.setdefault(square.data, []).append(row)
    for family in families.values():
        adjusted = statistics.holm([row.p_sign_flip for row in family if row.p_sign_flip is not None])
        for row, p in zip(family, adjusted, strict=True):
            row.p_holm, row.comparisons = p, len(family)


def against(row: Row, baseline: Row) -> None:
    """The comparison of one row with its baseline on the seeds both have."""
    differences = paired(row, baseline)
    row.baseline, row.baseline_n = baseline.label, len(differences)
    if not differences:
        return
    row.baseline_difference = statistics.mean(differences)
    span = limits(row.metric)[1] - limits(row.metric)[0]
    row.baseline_ci95_low, row.baseline_ci95_high = statistics.t_interval(differences, limits=(-span, span)) or (
        None,
        None,
    )
    if choice(row.used) != choice(baseline.used):
        row.baseline_used = choice(baseline.used)
    elif len(differences) >= LEAST:
        row.p_sign_flip = statistics.sign_flip_p(differences)
    row.detectable = statistics.detectable(differences)
    if row.higher_is_better is not None:
        sign = 1 if row.higher_is_better else -1
        row.better_seeds = statistics.share_above([sign * d for d in differences])


def paired(row: Row, other: Row) -> list[float]:
    """Differences of two rows on the seeds both have."""
    theirs = dict(zip(other.seeds, other.values, strict=True))
    return [v - theirs[seed] for seed, v in zip(row.seeds, row.values, strict=True) if seed in theirs]


def mark_best(rows: Sequence[Row], group: Sequence[Square]) -> None:
    """Mark each row that is the best, or cannot be told from it, of the competing rows that used no more than it."""
    competing = [
        (row, square, information_used(row.used))
        for row, square in zip(rows, group, strict=True)
        if row.n >= LEAST and not row.reference and not row.below_chance and row.higher_is_better is not None
    ]
    sign = 1 if competing and competing[0][0].higher_is_better else -1
    ranked = sorted(competing, key=lambda one: -sign * (one[0].mean or 0.0))
    for row, square, used in competing:
        rivals = (
            other
            for other, its, what in ranked
            if what <= used and its.beside(square) and len(set(row.seeds) & set(other.seeds)) >= LEAST
        )
        best = next(rivals)  # it is among them itself
        interval = statistics.t_interval(paired(row, best))
        if best is not row:
            row.among_best = interval is not None and interval[0] <= 0 <= interval[1]
        elif next(rivals, None):
            row.among_best = True
