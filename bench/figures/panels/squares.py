"""A table of splits by methods: accuracy and entropy of each, over seeds, of one marked seed, and as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spurbench.bench.figures import style
from spurbench.bench.figures.figure_data import (
    Cell,
    FigureData,
    FoundCell,
    Panel,
    PanelData,
    partial_count,
    rounded,
)
from spurbench.bench.grid.schema import Strict
from spurbench.bench.leaderboard import statistics
from spurbench.bench.records.metrics import unit_of, value
from spurbench.bench.records.record import Summary

TINTS = np.array([[1.0, 0.45, 0.0], [0.0, 0.55, 1.0]])  # of two channels; both together are grey
BRIGHT = 0.85  # so that a blank image stands out from the page


class Environment(Strict):
    """A row of the table."""

    split: str
    title: str


class Squares(Panel):
    """`rows` are splits, `columns` cells; each square shows the metrics, and each row an example image."""

    columns: list[Cell]
    rows: list[Environment]
    metrics: list[str] = ["accuracy", "entropy"]
    marked_seed: int | None = None  # also shown by itself, as published numbers may be of one seed
    examples: bool = True

    def cells(self) -> Sequence[Cell]:
        return self.columns

    def gather(self, source: FigureData) -> PanelData:
        found = [source.find_cell(cell, self.grid) for cell in self.columns]
        any_record = next(record for one in found for record in one.records.values())
        return {
            "columns": [one.share | {"name": cell.name} for cell, one in zip(self.columns, found, strict=True)],
            "rows": [row.title for row in self.rows],
            "marked_seed": self.marked_seed,
            "squares": [[self.gather_square(source, one, row.split) for one in found] for row in self.rows],
            "examples": self.example_images(source, any_record) if self.examples else None,
        }

    def gather_square(self, source: FigureData, found: FoundCell, split: str) -> PanelData:
        """All metrics of one split of one cell."""
        return {metric: self.gather_metric(source, found, split, metric) for metric in self.metrics}

    def gather_metric(self, source: FigureData, found: FoundCell, split: str, metric: str) -> PanelData:
        cell = found.planned
        values = {seed: value(record, (split, metric)) for seed, record in found.records.items()}
        there = {seed: one for seed, one in values.items() if one is not None}
        published = source.comparison.number(cell.dataset, cell.dataset_options, cell.published, split, metric)
        return {
            "mean": rounded(statistics.mean(list(there.values()))) if there else None,
            "std": rounded(statistics.std(list(there.values()))) if len(there) > 1 else None,
            "values": {str(seed): rounded(one) for seed, one in there.items()},
            "marked": rounded(there[self.marked_seed]) if self.marked_seed in there else None,
            "published": published.mean if published else None,
            "source": published.source if published else None,
            "unit": unit_of(metric),
        }

    def example_images(self, source: FigureData, record: Summary) -> list[Any]:
        """The first image of each row's split, [H, W, 3] in 0 to 1; [] where the input is not an image."""
        data = source.load_data(record)
        return [rounded(colour_image(data.tests[row.split].x[0].numpy()), 3) for row in self.rows]

    def draw(self, axes: Any, part: PanelData) -> None:
        across, down = len(part["columns"]), len(part["rows"])
        for i, row in enumerate(part["squares"]):
            for j, square in enumerate(row):
                self.draw_square(axes, j, i, square, part["marked_seed"])
        axes.set(xlim=(-0.62, across), ylim=(down, 0))
        axes.xaxis.tick_top()
        heads = [f"{one['name']}\n{partial_count(one)}".strip() for one in part["columns"]]
        axes.set_xticks([j + 0.5 for j in range(across)], heads, fontsize=8, fontweight="bold")
        axes.set_yticks([])
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        for i, title in enumerate(part["rows"]):
            draw_row_head(axes, i, title, part["examples"][i] if part["examples"] else [])

    def draw_square(self, axes: Any, j: int, i: int, square: PanelData, seed: int | None) -> None:
        """Draw one square, tinted by accuracy: the mean large, below it the marked seed and the published value."""
        from matplotlib.patches import Rectangle

        share = (square[self.metrics[0]]["mean"] or 0.0) / 100
        tint = style.SIDES(0.5 - 0.35 * (2 * share - 1))
        axes.add_patch(Rectangle((j + 0.02, i + 0.03), 0.96, 0.94, facecolor=tint, edgecolor="none", alpha=0.75))
        big = [format_value(square[metric], "mean", "std") for metric in self.metrics]
        axes.text(j + 0.5, i + 0.27, big[0], ha="center", va="center", fontsize=9.5, fontweight="bold")
        axes.text(j + 0.5, i + 0.47, " · ".join(big[1:]), ha="center", va="center")
        lines = [(f"seed {seed}", "marked")] if seed is not None else []
        for k, (name, field) in enumerate([*lines, ("published", "published")]):
            text = " · ".join(format_value(square[metric], field, unit=False) for metric in self.metrics)
            axes.text(j + 0.07, i + 0.68 + 0.18 * k, name, va="center", fontsize=7, color=style.INK)
            axes.text(j + 0.93, i + 0.68 + 0.18 * k, text, va="center", ha="right", fontsize=7, color=style.INK)


def format_value(numbers: PanelData, field: str, spread: str | None = None, unit: bool = True) -> str:
    """A value, with its deviation if `spread` names it; a dash where there is none."""
    if numbers[field] is None:
        return "–"
    digits = 1 if numbers["unit"] == "%" else 2
    more = f" ± {numbers[spread]:.{digits}f}" if spread and numbers[spread] is not None else ""
    return f"{numbers[field]:.{digits}f}{more}" + (f" {numbers['unit']}" if unit else "")


def colour_image(image: Any) -> Any:
    """An image [C, H, W] of one, two or three channels as [H, W, 3], scaled so that its brightest value is BRIGHT."""
    if image.ndim != 3 or image.shape[0] not in (1, 2, 3):
        return []
    tints = {1: np.ones((1, 3)), 2: TINTS, 3: np.eye(3)}[image.shape[0]]
    mixed = np.einsum("chw,ck->hwk", image.astype(float), tints)
    return mixed * BRIGHT / max(float(mixed.max()), 1e-9)


def draw_row_head(axes: Any, i: int, title: str, pixels: list[Any]) -> None:
    """Draw a row's head: its example, and its name below."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    if pixels:
        image = OffsetImage(np.array(pixels), zoom=2.2, interpolation="nearest")
        axes.add_artist(AnnotationBbox(image, (-0.31, i + 0.42), frameon=False, pad=0))
    axes.text(-0.31, i + (0.86 if pixels else 0.5), title, ha="center", va="center", fontsize=7.5)
