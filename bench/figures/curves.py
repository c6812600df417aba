"""Curves over runs, a line for each row of a grid; mean and range over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spurbench.bench.figures import style
from spurbench.bench.figures.figure_data import Cell, FigureData, Panel, PanelData, partial_count, rounded
from spurbench.bench.records.record import Summary

MAX_NAMED = 4  # series, up to which their names fit among the lines


class Curves(Panel):
    """A line for each cell of `series`."""

    series: list[Cell]

    def cells(self) -> Sequence[Cell]:
        return self.series

    def curve(self, source: FigureData, record: Summary) -> tuple[list[float], list[float]]:
        """Abscissae and values of one run; the first are the same for all runs of a cell."""
        raise NotImplementedError

    def gather(self, source: FigureData) -> PanelData:
        return {"series": [self.gather_cell(source, cell) for cell in self.series]}

    def gather_cell(self, source: FigureData, cell: Cell) -> PanelData:
        found = source.find_cell(cell, self.grid)
        curves = [self.curve(source, record) for record in found.records.values()]
        y = np.array([values for _, values in curves])
        parts = {"y": y.mean(0), "low": y.min(0), "high": y.max(0)}
        return found.share | {"name": cell.name, "x": rounded(curves[0][0])} | {k: rounded(v) for k, v in parts.items()}

    def draw(self, axes: Any, part: PanelData) -> None:
        shade = 0.18 if len(part["series"]) <= MAX_NAMED else 0.08
        for one, colour in zip(part["series"], style.COLOURS, strict=False):
            share = f" ({partial_count(one)})" if partial_count(one) else ""
            axes.plot(one["x"], one["y"], color=colour, label=one["name"] + share)
            axes.fill_between(one["x"], one["low"], one["high"], color=colour, alpha=shade, linewidth=0)
        axes.grid(True)
