"""The leaderboard as one page that needs nothing else: no network, no other file. The template escapes everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from spurbench.bench.core.terminal import plural
from spurbench.bench.leaderboard import wording as say
from spurbench.bench.leaderboard.build import Leaderboard, Section
from spurbench.bench.leaderboard.rows import Row
from spurbench.bench.records.metrics import limits

ENDINGS = (".html", ".htm")
FOLDER = Path(__file__).parent
PLOT = 220  # width of a strip in pixels
MARGIN = 8


@dataclass(frozen=True)
class Scale:
    """The common axis of a column's strips, from values to pixels; values beyond its ends are drawn at the ends."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(MARGIN + share * (PLOT - 2 * MARGIN), 1)

    def holds(self, low: float, high: float) -> bool:
        return self.low <= low and high <= self.high

    @classmethod
    def over(cls, rows: Sequence[Row]) -> Scale:
        """From the smallest to the largest of seeds and published values, and some of the way to wider intervals.

        The axis stays within what the metric can be, and an interval takes it beyond the seeds by half their range at
        most, so that the interval of two runs does not flatten every strip.
        """
        found = [value for row in rows for value in (row.published_mean, *row.values) if value is not None] or [
            0.0,
            1.0,
        ]
        least, most = min(found), max(found)
        room = (most - least) * 0.02 or abs(least) * 0.05 or 1.0
        reach = max((most - least) / 2, room)
        low = min([least, *(row.ci95_low for row in rows if row.ci95_low is not None)])
        high = max([most, *(row.ci95_high for row in rows if row.ci95_high is not None)])
        low, high = max(low, least - reach) - room, min(high, most + reach) + room
        bounds = limits(rows[0].metric) if rows else (-inf, inf)
        inside = bounds[0] <= least and most <= bounds[1]
        return cls(max(low, bounds[0]), min(high, bounds[1])) if inside else cls(low, high)


def render(board: Leaderboard, colour: bool = False, home: str = "") -> str:
    """The whole page; `home` is the page it links back to."""
    sections = [table_context(section, columns) for section in board.sections for columns in say.parts(section)]
    return render_template(
        "leaderboard.html.j2",
        sections=sections,
        datasets=sorted({section.dataset for section in board.sections}),
        regimes=sorted({row.regime for row in board.rows if row.regime}),
        notes=say.general_notes(board),
        runs=count_runs(board),
        finished=board.finished[:10],
        published=any(row.published_mean is not None for row in board.rows),
        home=home,
    )


def render_template(template: str, **values: Any) -> str:
    """A page from a template of this folder, everything in it escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              loader=FileSystemLoader(FOLDER))  # fmt: skip
    environment.globals["plural"] = plural
    return environment.get_template(template).render(plot={"width": PLOT, "margin": MARGIN}, **values)


def count_runs(board: Leaderboard) -> int:
    """Finished and failed runs of all rows."""
    return sum(line[0].n + line[0].unscored + line[0].failed for section in board.sections for line in section.lines)


def table_context(section: Section, columns: list[int]) -> dict[str, Any]:
    """One table for the template: its headings and, for each method, cells with their sort keys."""
    main = columns[0]
    rows = [line[main] for line in section.lines]
    scale, unit = Scale.over(rows), rows[0].unit
    heads = [("method", "text"), (say.heading(rows[0]), "number")]
    heads += [(say.heading(section.lines[0][column]), "number") for column in columns[1:]]
    heads += [("n/N", "number"), ("published", "number"), ("ours − published", "number")]
    heads += [(f"Δ {say.usual_baseline(rows) or 'baseline'}", "number"), ("p (Holm)", "number")]
    heads += [("s/run", "number"), ("memory", "number")]
    lines = [line_of([line[column] for column in columns], scale) for line in section.lines]
    used = [i for i in range(len(heads) - 1) if i == 0 or any(line["cells"][i][0] for line in lines)]
    for line in lines:
        line["cells"] = [line["cells"][i] for i in used]
    return {
        "title": say.title(section),
        "metric": say.heading(rows[0]),
        "dataset": section.dataset,
        "heads": [heads[0], *(heads[i + 1] for i in used)],
        "scale": (number(scale.low, unit), number(scale.high, unit)),
        "lines": lines,
        "notes": say.section_notes(section, columns),
    }


def number(value: float, unit: str) -> str:
    return say.number(value, unit, 1) if unit == "%" else say.number(value, unit)


def line_of(rows: Sequence[Row], scale: Scale) -> dict[str, Any]:
    """One method: cells as (text, second line, sort key), strip and details."""
    row = rows[0]
    bounds = (row.ci95_low, row.ci95_high)
    cells = [(say.mean(row), say.interval(*bounds, row.unit), row.mean)]
    cells += [(say.mean(one), "", one.mean) for one in rows[1:]]
    cells.append((f"{row.n}/{row.n_planned}", f"{row.failed} failed" if row.failed else "", row.n))
    cells.append((say.published(row), "", row.published_mean))
    gap, digits = row.published_difference, 1 if row.unit == "%" else 2
    cells.append(("" if gap is None else say.number(gap, row.unit, digits, sign=True), "", gap))
    mean, _, limits = say.difference(row).partition(" ")
    cells.append((mean, limits, row.baseline_difference))
    cells.append((say.probability(row.p_holm), "", row.p_holm))
    cells.append((say.duration(row.seconds_per_run), "", row.seconds_per_run))
    cells.append((say.memory(row.peak_memory_mb), "", row.peak_memory_mb))
    return {
        "row": row,
        "cells": cells,
        "strip": strip(row, scale),
        "details": details(row),
        "seeds": [
            (seed, *(value_of(one, seed) for one in rows)) for seed in sorted({s for one in rows for s in one.seeds})
        ],
        "metrics": [say.heading(one) + say.signs(one) for one in rows],
    }


def value_of(row: Row, seed: int) -> str:
    return say.number(row.values[row.seeds.index(seed)], row.unit) if seed in row.seeds else "–"


def strip(row: Row, scale: Scale) -> dict[str, Any]:
    """Pixel positions of the seeds (neighbours pushed apart in height), the interval, the mean, the published value."""
    placed: list[tuple[float, int, str]] = []
    for seed, value in sorted(zip(row.seeds, row.values, strict=True), key=lambda pair: pair[1]):
        x = scale(value)
        near = sum(1 for other, _, _ in placed if x - other < 5)
        placed.append((x, (0, -5, 5, -9, 9)[near % 5], f"seed {seed}: {say.number(value, row.unit)}"))
    interval, beyond = None, False
    if row.ci95_low is not None and row.ci95_high is not None:
        interval = (scale(row.ci95_low), scale(row.ci95_high))
        beyond = not scale.holds(row.ci95_low, row.ci95_high)
    return {
        "dots": placed,
        "interval": interval,
        "beyond": beyond,
        "mean": None if row.mean is None else scale(row.mean),
        "published": None if row.published_mean is None else scale(row.published_mean),
        "words": describe_strip(row),
    }


def describe_strip(row: Row) -> str:
    """The strip in words, for screen readers."""
    if row.mean is None:
        return "no finished runs"
    published = f", published {say.published(row)}" if row.published_mean is not None else ""
    return f"{plural(row.n, 'seed')} from {say.number(row.min, row.unit)} to {say.number(row.max, row.unit)}{published}"


def details(row: Row) -> list[tuple[str, str]]:
    """What unfolds below a method: all that went into its numbers."""
    source = "; ".join(f"{name} {', '.join(values)}" for name, values in row.provenance.items())
    better = "" if row.better_seeds is None else f"{100 * row.better_seeds:.0f} % of {row.baseline_n} seeds"
    published = row.published_source and (
        f"{say.published(row)}; {row.published_source}; "
        + (f"{row.published_n} runs, " if row.published_n else "")
        + (f"ddof {row.published_ddof}, " if row.published_ddof is not None else "")
        + f"{row.published_selection}"
        + (f". Ours with ddof 0: {say.spread(row.mean, row.std_ddof0, row.unit)}" if row.n > 1 else "")
    )
    found = [
        (
            "hyper-parameters",
            say.settings(row.hyper_parameters) if row.hyper_parameters is not None else "search in progress",
        ),
        ("training", say.settings(row.training)),
        ("dataset options", say.settings(row.dataset_options)),
        ("sees", row.regime),
        ("selection", row.selection),
        ("step scored", "selection" in row.used and say.step_range(row)),
        ("published", published),
        ("better than the baseline on", better),
        ("detectable with 80 % power", row.detectable is not None and say.number(row.detectable, row.unit)),
        ("median, min, max", row.mean is not None and describe_spread(row)),
        ("grids", ", ".join(row.grids)),
        ("produced by", source),
        ("note", "; ".join(row.notes)),
    ]
    return [(name, str(text)) for name, text in found if text]


def describe_spread(row: Row) -> str:
    return ", ".join(say.number(value, row.unit) for value in (row.median, row.min, row.max))
