"""Numbers and facts of rows in the words that all formats share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from spurbench.bench.core.terminal import plural
from spurbench.bench.leaderboard.build import Leaderboard, Section
from spurbench.bench.leaderboard.cell_results import format_values
from spurbench.bench.leaderboard.comparisons import MIN_SEEDS, selection_information
from spurbench.bench.leaderboard.rows import Row, describe_use
from spurbench.bench.records.metrics import Column
from spurbench.bench.records.run import used
from spurbench.bench.records.selection import rule_of

MINUS = "−"


def number(value: float | None, unit: str = "%", digits: int | None = None, sign: bool = False) -> str:
    """A value with two decimals for percentages; others with three, above 10 two and above 100 one; "–" for None."""
    if value is None:
        return "–"
    if digits is None:
        digits = 2 if unit == "%" else 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return "0" + text[2:] if not sign and float(text) == 0 and text[0] == "-" else text.replace("-", MINUS)


def spread(mean: float | None, std: float | None, unit: str, digits: int | None = None) -> str:
    """`mean ± std`, or the mean alone where one run has no spread."""
    return number(mean, unit, digits) + (f" ± {number(std, unit, digits)}" if std is not None else "")


def mean(row: Row) -> str:
    """Mean and deviation, with a mark where they are of another step, or not over every group."""
    return spread(row.mean, row.std, row.unit) + signs(row)


def signs(row: Row) -> str:
    return "‡" * bool(row.partial) + "§" * row.other_step


def interval(low: float | None, high: float | None, unit: str) -> str:
    digits = 1 if unit == "%" else None
    return "" if low is None else f"[{number(low, unit, digits)}, {number(high, unit, digits)}]"


def probability(p: float | None) -> str:
    return "" if p is None else "<0.001" if p < 0.0005 else f"{p:.3f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size * 1.5:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def memory(megabytes: float | None) -> str:
    if not megabytes:
        return ""
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB"


def published(row: Row) -> str:
    digits = 1 if row.unit == "%" else 2
    return "" if row.published_mean is None else spread(row.published_mean, row.published_std, row.unit, digits)


def difference(row: Row) -> str:
    """Mean paired difference to the baseline with its interval."""
    if row.baseline_difference is None:
        return ""
    digits = 1 if row.unit == "%" else None
    mean = number(row.baseline_difference, row.unit, digits, sign=True)
    return f"{mean} {interval(row.baseline_ci95_low, row.baseline_ci95_high, row.unit)}".rstrip()


def named(column: Column) -> str:
    return " ".join(column).replace("_", " ")


def heading(row: Row) -> str:
    return named((row.split, row.metric)) + (f" ({row.unit})" if row.unit else "")


def label(row: Row) -> str:
    return row.label + ("†" if row.selection_oracle else "")


def title(section: Section) -> str:
    """Dataset, options and precision of a table."""
    version = f"protocol {section.protocol_version}" if section.protocol_version > 1 else ""
    options = format_values(used(section.options))
    return " · ".join(part for part in (section.dataset, options, version, section.precision) if part)


def parts(section: Section) -> list[list[int]]:
    """The section's columns by table: all in one table if they are few, else a table for each."""
    columns = list(range(len(section.columns)))
    return [columns] if len(columns) <= 3 else [[column] for column in columns]


# ---- notes --------------------------------------------------------------------------------------------------------


def group_labels(pairs: Iterable[tuple[str, str]], everyone: int = 0) -> list[str]:
    """`text: labels` for each text, in order; `text: all rows` where it holds for all `everyone`."""
    found: dict[str, list[str]] = {}
    for text, name in pairs:
        found.setdefault(text, []).append(name)
    return [f"{text}: {'all rows' if len(n) == everyone > 1 else '; '.join(n)}" for text, n in found.items()]


def run_notes(rows: Sequence[Row]) -> list[str]:
    """What is missing or odd in a column, row by row."""
    notes = []
    for row in rows:
        for cause in row.failures:
            seeds = ", ".join(map(str, cause["seeds"]))
            word = "seed" if len(cause["seeds"]) == 1 else "seeds"
            why = " ".join(f"{cause['kind']}: {cause['message']}".split())
            notes.append(f"{row.label}: {len(cause['seeds'])} of {row.n_planned} runs failed ({word} {seeds}), {why}")
        notes += metric_notes(row)
        if row.below_chance:
            notes.append(
                f"{row.label}: worse than chance in training: it learned no cue, or an inverted one, and is not "
                "ranked, however well it does on test"
            )
        if row.tied:
            refined = rule_of(row.selection_rule).refined
            notes.append(
                f"{row.label}: {row.tied} of {row.n + row.unscored} runs chose among tied steps"
                + (f"; ties broken by {refined}" if refined else "")
                + (f"; {row.latest} of them tied in every criterion, the latest taken" if row.latest else "")
            )
        notes += [f"{row.label}: {note}" for note in (*row.notes, row.note) if note]
    return notes


def metric_notes(row: Row) -> list[str]:
    """What is missing or odd in a row's numbers by its metric."""
    notes, metric = [], named((row.split, row.metric))
    if row.unscored:
        notes.append(f"{row.label}: {plural(row.unscored, 'finished run')} without {metric}")
    if row.collapsed:
        notes.append(
            f"{row.label}: in {metric} the runs fall into two groups, {row.collapsed} of {row.n} far from the others; "
            "mean, deviation and interval describe neither"
        )
    return notes


def step_notes(rows: Sequence[Row]) -> list[str]:
    """After which steps those rows were scored whose rule chose a step."""
    ranges = [f"{row.label} {step_range(row)}" for row in rows if "selection" in row.used]
    return [f"step scored, median (range): {'; '.join(ranges)}"] if ranges else []


def step_range(row: Row) -> str:
    """`875 (250 to 1250)`: after which steps the runs were scored."""
    if not row.chosen_steps:
        return ""
    least, most = min(row.chosen_steps), max(row.chosen_steps)
    return f"{median(row.chosen_steps):g}" + (f" ({least} to {most})" if least < most else "")


def partial_notes(rows: Sequence[Row]) -> list[str]:
    """Numbers that are not over every group that training has."""
    pairs = [(f"‡ {named((row.split, row.metric))} {row.partial}", row.label) for row in rows if row.partial]
    return group_labels(pairs, sum(row.n > 0 for row in rows))


def published_notes(rows: Sequence[Row]) -> list[str]:
    """Sources of the published numbers, with their number of runs, ddof and selection."""
    pairs = []
    for row in rows:
        if row.published_source:
            runs = f"{row.published_n} run{'s' if row.published_n != 1 else ''}" if row.published_n else ""
            known = "of unknown ddof" if row.published_ddof is None else f"with ddof {row.published_ddof}"
            ddof = f"deviation {known}" if row.published_std is not None else ""
            detail = "; ".join(part for part in (runs, ddof, row.published_selection) if part)
            pairs.append((f"published, {row.published_source} ({detail})", row.label))
    return group_labels(pairs, len(rows))


def selection_notes(rows: Sequence[Row]) -> list[str]:
    """How each row's hyper-parameters were chosen."""
    planned = [row for row in rows if not row.na]
    return group_labels(
        ((f"selection{' †' if row.selection_oracle else ''}, {row.selection}", row.label) for row in planned),
        len(planned),
    )


def test_notes(rows: Sequence[Row]) -> list[str]:
    """About the comparisons with the baseline: how many, what they could detect, which rows are compared."""
    compared = [row for row in rows if row.baseline_difference is not None]
    notes = []
    found = sorted(row.detectable for row in compared if row.detectable is not None)
    if found:
        unit, ends = compared[0].unit, (found[0], found[-1])
        middle, low, high = (number(value, unit) for value in (median(found), *ends))
        adjusted = max(row.comparisons for row in compared)
        notes.append(
            f"a true difference of {middle} {'points' if unit == '%' else ''} from the baseline (median over rows; "
            f"{low} to {high}) would be detected with 80 % power"
            + (f"; p is adjusted for {adjusted} comparison{'s' * (adjusted > 1)}" if adjusted else "")
        )
    few = sorted({row.baseline_n for row in compared if row.baseline_n < 6 and row.p_holm is not None})
    if few:
        least = ", ".join(f"{2 / 2**n:g} for {n} seeds" for n in few)
        notes.append(f"smallest p possible with this number of seeds, before adjustment: {least}")
    short = [row.label for row in compared if row.baseline_n < MIN_SEEDS]
    if short:
        notes.append(f"no p, fewer than {MIN_SEEDS} seeds in common with the baseline: {'; '.join(short)}")
    notes += group_labels(
        (f"no p, since the rows were selected with different information: this one "
         f"{chosen_by(selection_information(row.used))}, {row.baseline} {chosen_by(row.baseline_used)}", row.label)
        for row in compared if row.baseline_used is not None
    )  # fmt: skip
    usual = usual_baseline(rows)
    notes += [f"{row.label} is compared with {row.baseline}" for row in compared if row.baseline != usual]
    return [" ".join(note.split()) for note in notes]


def chosen_by(used: Mapping[str, list[str]]) -> str:
    """By what information it was chosen, in words."""
    return f"by {describe_use(dict(used))}" if used else "by nothing"


def usual_baseline(rows: Sequence[Row]) -> str:
    """The label most rows are compared with."""
    names = [row.baseline for row in rows if row.baseline]
    return max(dict.fromkeys(names), key=names.count, default="")


def section_notes(section: Section, columns: Sequence[int]) -> list[str]:
    """All notes on this table; how rows and steps were selected is said below the first table only."""
    main = [line[columns[0]] for line in section.lines]
    rest = [[line[column] for line in section.lines] for column in columns[1:]]
    notes = run_notes(main)
    if columns[0] == 0:
        notes += selection_notes(main) + step_notes(main)
    notes += [note for rows in rest for row in rows for note in metric_notes(row)]
    for rows in (main, *rest):
        notes += partial_notes(rows) + [note for note in published_notes(rows) if note not in notes]
    return notes + test_notes(main)


def any_row(board: Leaderboard, test: Callable[[Row], Any]) -> bool:
    return any(test(row) for row in board.rows)


def general_notes(board: Leaderboard) -> list[str]:
    """What holds for all tables, where it applies; then the grids' notes and the records that are not used."""
    several = any_row(board, lambda row: row.n > 1)
    notes = {
        "± is the standard deviation of the runs with ddof 1 (n − 1); [ ] is Student's 95 % t interval of the "
        "mean, clipped to possible values": several,
        "n/N: runs with a value, of those planned; missing runs are neither filled in nor hidden": True,
        f"Δ {board.baseline}: mean difference on the same seeds (same data, same initial weights) with its 95 % t "
        "interval; p: exact sign-flip test (20,000 random flips above 20 seeds), Holm-adjusted": any_row(
            board, lambda r: r.comparisons
        ),
        f"* best of the rows with at least {MIN_SEEDS} runs that used no more information (`sees`) than this one, or "
        "not shown to be worse than that best (by the paired 95 % t interval); the best of many appears better "
        "than it is, by chance alone": any_row(board, lambda row: row.among_best),
        "† hyper-parameters or step chosen using the test set (oracle selection)": any_row(
            board, lambda row: row.selection_oracle
        ),
        "‡ not over every group present in training": any_row(board, lambda row: row.partial),
        "§ measured at the last step, although a rule chose the step of the held-out splits": any_row(
            board, lambda row: row.other_step
        ),
        "published numbers have verified sources and stand beside runs with the same data and budget only; "
        "diff.: ours minus published": any_row(board, lambda row: row.published_mean is not None),
        "s/run: median training time of a run (runs trained together share it); memory: largest peak of a "
        "process": any_row(board, lambda row: row.seconds_per_run is not None),
    }
    unused = [f"not used: {path}: {reason}" for path, reason in board.set_aside]
    return [note for note, used in notes.items() if used] + board.notes + unused


def settings(values: Mapping[str, Any] | None) -> str:
    return format_values(values) if values else "none"
