"""Squares of splits by methods: accuracy and entropy of each, over seeds, of one marked seed, and as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spurbench.bench.figures import style
from spurbench.bench.figures.source import Cell, Found, Kind, Part, Source, counted, short
from spurbench.bench.grid.schema import Strict
from spurbench.bench.leaderboard import statistics
from spurbench.bench.records.metrics import unit_of, value
from spurbench.bench.records.record import Summary

TINTS = np.array([[1.0, 0.45, 0.0], [0.0, 0.55, 1.0]])  # of two channels; both together are grey
BRIGHT = 0.85  # so that a blank picture stands out from the paper


class Environment(Strict):
    """A row of squares."""

    split: str
    title: str


class Squares(Kind):
    """`rows` are splits, `columns` cells; each square has the metrics, each row an example of its pictures."""

    columns: list[Cell]
    rows: list[Environment]
    metrics: list[str] = ["accuracy", "entropy"]
    marked_seed: int | None = None  # also shown by itself: published numbers may be of one seed
    examples: bool = True

    def cells(self) -> Sequence[Cell]:
        return self.columns

    def gather(self, source: Source) -> Part:
        found = [source.find(cell, self.grid) for cell in self.columns]
        any_record = next(record for one in found for record in one.records.values())
        return {
            "columns": [one.share | {"name": cell.name} for cell, one in zip(self.columns, found, strict=True)],
            "rows": [row.title for row in self.rows],
            "marked_seed": self.marked_seed,
            "squares": [[self.square(source, one, row.split) for one in found] for row in self.rows],
            "examples": self.pictures(source, any_record) if self.examples else None,
        }

    def square(self, source: Source, found: Found, split: str) -> Part:
        """All metrics of one split of one cell."""
        return {metric: self.measured(source, found, split, metric) for metric in self.metrics}

    def measured(self, source: Source, found: Found, split: str, metric: str) -> Part:
        cell = found.planned
        values = {seed: value(record, (split, metric)) for seed, record in found.records.items()}
        there = {seed: one for seed, one in values.items() if one is not None}
        told = source.comparison.number(cell.dataset, cell.dataset_options, cell.published, split, metric)
        return {
            "mean": short(statistics.mean(list(there.values()))) if there else None,
            "std": short(statistics.std(list(there.values()))) if len(there) > 1 else None,
            "values": {str(seed): short(one) for seed, one in there.items()},
            "marked": short(there[self.marked_seed]) if self.marked_seed in there else None,
            "published": told.mean if told else None,
            "source": told.source if told else None,
            "unit": unit_of(metric),
        }

    def pictures(self, source: Source, record: Summary) -> list[Any]:
        """The first picture of each row's split, [H, W, 3] in 0 to 1; [] where it is not a picture."""
        data = source.data(record)
        return [short(coloured(data.tests[row.split].x[0].numpy()), 3) for row in self.rows]

    def draw(self, axes: Any, part: Part) -> None:
        across, down = len(part["columns"]), len(part["rows"])
        for i, row in enumerate(part["squares"]):
            for j, square in enumerate(row):
                self.one(axes, j, i, square, part["marked_seed"])
        axes.set(xlim=(-0.62, across), ylim=(down, 0))
        axes.xaxis.tick_top()
        heads = [f"{one['name']}\n{counted(one)}".strip() for one in part["columns"]]
        axes.set_xticks([j + 0.5 for j in range(across)], heads, fontsize=8, fontweight="bold")
        axes.set_yticks([])
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        for i, title in enumerate(part["rows"]):
            head(axes, i, title, part["examples"][i] if part["examples"] else [])

    def one(self, axes: Any, j: int, i: int, square: Part, seed: int | None) -> None:
        """One square: tinted by accuracy about one half, mean large, then marked seed and published value."""
        from matplotlib.patches import Rectangle

        share = (square[self.metrics[0]]["mean"] or 0.0) / 100
        tint = style.SIDES(0.5 - 0.35 * (2 * share - 1))
        axes.add_patch(Rectangle((j + 0.02, i + 0.03), 0.96, 0.94, facecolor=tint, edgecolor="none", alpha=0.75))
        big = [written(square[metric], "mean", "std") for metric in self.metrics]
        axes.text(j + 0.5, i + 0.27, big[0], ha="center", va="center", fontsize=9.5, fontweight="bold")
        axes.text(j + 0.5, i + 0.47, " · ".join(big[1:]), ha="center", va="center")
        lines = [(f"seed {seed}", "marked")] if seed is not None else []
        for k, (name, field) in enumerate([*lines, ("published", "published")]):
            text = " · ".join(written(square[metric], field, unit=False) for metric in self.metrics)
            axes.text(j + 0.07, i + 0.68 + 0.18 * k, name, va="center", fontsize=7, color=style.INK)
            axes.text(j + 0.93, i + 0.68 + 0.18 * k, text, va="center", ha="right", fontsize=7, color=style.INK)


def written(numbers: Part, field: str, spread: str | None = None, unit: bool = True) -> str:
    """A value, with its deviation if `spread` names it; a dash where there is none."""
    if numbers[field] is None:
        return "–"
    digits = 1 if numbers["unit"] == "%" else 2
    more = f" ± {numbers[spread]:.{digits}f}" if spread and numbers[spread] is not None else ""
    return f"{numbers[field]:.{digits}f}{more}" + (f" {numbers['unit']}" if unit else "")


def coloured(picture: Any) -> Any:
    """A picture [C, H, W] of one, two or three channels as [H, W, 3], its brightest value made BRIGHT."""
    if picture.ndim != 3 or picture.shape[0] not in (1, 2, 3):
        return []
    tints = {1: np.ones((1, 3)), 2: TINTS, 3: np.eye(3)}[picture.shape[0]]
    mixed = np.einsum("chw,ck->hwk", picture.astype(float), tints)
    return mixed * BRIGHT / max(float(mixed.max()), 1e-9)


def head(axes: Any, i: int, title: str, picture: list[Any]) -> None:
    """A row's head: its example, and its name below."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    if picture:
        image = OffsetImage(np.array(picture), zoom=2.2, interpolation="nearest")
        axes.add_artist(AnnotationBbox(image, (-0.31, i + 0.42), frameon=False, pad=0))
    axes.text(-0.31, i + (0.86 if picture else 0.5), title, ha="center", va="center", fontsize=7.5)
