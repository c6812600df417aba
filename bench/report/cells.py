"""What stands in the squares of a leaderboard's tables, and below them; shared by all formats."""

from __future__ import annotations

from dataclasses import dataclass

from spurbench.bench.leaderboard import Leaderboard, Row, Section


@dataclass(frozen=True)
class Grid:
    """One table as text: `best[i]` says whether line i cannot be told from the best."""

    title: str
    headings: list[str]
    lines: list[list[str]]
    best: list[bool]
    rows: list[Row]  # the main row of each line


def grid(section: Section) -> Grid:
    """A section as text, one line a method; the first metric in full, the others with mean and deviation."""
    mains = [line[0] for line in section.lines]
    compared = any(row.baseline_difference is not None for row in mains)
    printed = any(row.published_mean is not None for line in section.lines for row in line)
    headings = ["method", *(heading(row) for row in section.lines[0]), "n/N"]
    headings.insert(2, "95 % CI")
    headings += [f"published {short(row)}" for row in section.lines[0] if printed and has_published(section, row)]
    headings += [f"vs {baseline(mains)}", "p (Holm)"] if compared else []
    headings += ["s/run", "MB"]
    lines = [line_of(section, line, compared, printed) for line in section.lines]
    return Grid(title(section), headings, lines, [bool(row.among_best) for row in mains], mains)


def line_of(section: Section, line: list[Row], compared: bool, printed: bool) -> list[str]:
    main = line[0]
    told = f"n/a: {main.na}" if main.na else main.note or ("" if main.n else failure(main))
    cells = [main.label, told or centre(main), interval(main), *(centre(row) for row in line[1:])]
    cells.append("" if main.na else f"{main.n}/{main.n_planned}")
    if printed:
        cells += [published(row) for row in line if has_published(section, row)]
    if compared:
        cells += [difference(main), p_value(main.p_holm)]
    cost = ["" if main.seconds_per_run is None else f"{main.seconds_per_run:,.0f}"]
    return [*cells, *cost, "" if main.peak_memory_mb is None else f"{main.peak_memory_mb:,.0f}"]


def title(section: Section) -> str:
    options = ", ".join(f"{name}={value}" for name, value in section.options.items())
    return f"{section.dataset} ({options}), {section.precision}"


def heading(row: Row) -> str:
    unit = f", {row.unit}" if row.unit else ""
    return f"{row.split} {row.metric.replace('_', ' ')}{unit}"


def short(row: Row) -> str:
    return row.split if row.metric == "accuracy" else f"{row.split} {row.metric.replace('_', ' ')}"


def has_published(section: Section, row: Row) -> bool:
    """Whether any method of the section has a published number for the row's split and metric."""
    others = (other for line in section.lines for other in line if other.published_mean is not None)
    return any((other.split, other.metric) == (row.split, row.metric) for other in others)


def baseline(rows: list[Row]) -> str:
    return next((row.baseline for row in rows if row.baseline and row.baseline_difference is not None), "") or ""


def number(value: float | None, row: Row) -> str:
    """A value with the digits its unit deserves: percentages to hundredths, others to three places."""
    return "" if value is None else f"{value:.2f}" if row.unit == "%" else f"{value:.3f}"


def centre(row: Row) -> str:
    """Mean ± standard deviation; a lone run has none."""
    return number(row.mean, row) + ("" if row.std is None else f" ± {number(row.std, row)}")


def interval(row: Row) -> str:
    if row.ci95_low is None or row.ci95_high is None or row.std == 0:
        return ""
    return f"{number(row.ci95_low, row)} to {number(row.ci95_high, row)}"


def published(row: Row) -> str:
    """The published value and how far ours is from it."""
    if row.published_mean is None:
        return ""
    digits = 1 if row.unit == "%" else 2
    spread = "" if row.published_std is None else f" ± {row.published_std:.{digits}f}"
    ours = "" if row.published_difference is None else f" ({signed(row.published_difference, 2)})"
    return f"{row.published_mean:.{digits}f}{spread}{ours}"


def signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def difference(row: Row) -> str:
    """The paired difference to the baseline with its interval."""
    if row.baseline_difference is None:
        return ""
    digits = 2 if row.unit == "%" else 3
    text = signed(row.baseline_difference, digits)
    ends = [signed(end, digits) for end in (row.baseline_ci95_low, row.baseline_ci95_high) if end is not None]
    return f"{text} ({' to '.join(ends)})" if ends else text


def p_value(p: float | None) -> str:
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001"


def failure(row: Row) -> str:
    """Why a cell without a number has none."""
    kinds = ", ".join(f"{len(one['seeds'])} {one['kind']}" for one in row.failures)
    return f"failed: {kinds}" if kinds else "not run yet"


def footnotes(board: Leaderboard) -> list[str]:
    """All that must be known to read the numbers, one sentence or two each."""
    rows = [line[0] for section in board.sections for line in section.lines]
    notes = [
        "Mean ± standard deviation (ddof 1) over seeds; CI: Student t interval of the mean; n/N: finished of planned.",
        *differences(board, rows),
        *selections(rows),
        *sources(board),
        *troubles(rows),
        *board.notes,
    ]
    return notes + [f"Set aside: {path}: {reason}." for path, reason in board.set_aside]


def differences(board: Leaderboard, rows: list[Row]) -> list[str]:
    """How rows are compared, and what that can and cannot show."""
    compared = [row for row in rows if row.p_holm is not None]
    if not compared:
        return []
    most = max(row.comparisons for row in compared)
    pairs = max(row.baseline_n for row in compared)
    notes = [
        f"vs {board.baseline}: mean difference over the same seeds (same data, same first weights) with its 95 % t "
        f"interval; p by exact sign flips, Holm over up to {most} comparisons; {pairs} pairs cannot give less than "
        f"{2 / 2**pairs:.2g} before it.",
        "* not told from the best (paired 95 % interval includes 0). The best of several looks better than it is.",
    ]
    seen = [row.detectable for row in compared if row.detectable is not None and row.unit == "%"]
    if seen:
        notes.append(f"A true difference of {min(seen):.1f} to {max(seen):.1f} points would be found with 80 % power.")
    return notes


def selections(rows: list[Row]) -> list[str]:
    """How hyper-parameters were chosen, an oracle's choice marked."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.na is None:
            said = "oracle" in row.selection or not row.selection_oracle
            oracle = "" if said else " (test-set oracle)"
            names = found.setdefault(f"{row.selection}{oracle}", [])
            names += [] if row.label in names else [row.label]
    return [f"Selection for {', '.join(names)}: {text}." for text, names in found.items()]


def sources(board: Leaderboard) -> list[str]:
    found: dict[str, None] = {}
    for row in board.rows:
        if row.published_source:
            spread = "" if row.published_ddof is None else f", ± with ddof {row.published_ddof}"
            runs = "" if row.published_n is None else f", {row.published_n} runs"
            found[f"{row.published_source}{runs}{spread}; {row.published_selection}"] = None
    return [f"Published: {text}; in brackets ours minus theirs." for text in found]


def troubles(rows: list[Row]) -> list[str]:
    """Failed runs by name, and cells that fall in two."""
    notes = []
    for row in rows:
        for one in row.failures:
            seeds = ", ".join(map(str, one["seeds"]))
            notes.append(f"{row.dataset} × {row.label}: seeds {seeds} failed, {one['kind']}: {one['message']}.")
        if row.collapsed:
            apart = f"{row.collapsed} of {row.n} runs lie apart on the worse side"
            notes.append(f"{row.dataset} × {row.label}: {apart}; no interval describes such a cell.")
    return notes
