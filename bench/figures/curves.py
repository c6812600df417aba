"""Curves over runs, a line for each row of a grid; mean and range over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spurbench.bench.figures import style
from spurbench.bench.figures.source import Cell, Kind, Part, Source, counted, short
from spurbench.bench.records.record import Summary

FEW = 4  # series, among whose lines there is room for their names


class Curves(Kind):
    """A line for each cell of `series`."""

    series: list[Cell]

    def cells(self) -> Sequence[Cell]:
        return self.series

    def curve(self, source: Source, record: Summary) -> tuple[list[float], list[float]]:
        """Abscissae and values of one run; the first are the same for all runs of a cell."""
        raise NotImplementedError

    def gather(self, source: Source) -> Part:
        return {"series": [self.of_cell(source, cell) for cell in self.series]}

    def of_cell(self, source: Source, cell: Cell) -> Part:
        found = source.find(cell, self.grid)
        curves = [self.curve(source, record) for record in found.records.values()]
        y = np.array([values for _, values in curves])
        parts = {"y": y.mean(0), "low": y.min(0), "high": y.max(0)}
        return found.share | {"name": cell.name, "x": short(curves[0][0])} | {k: short(v) for k, v in parts.items()}

    def draw(self, axes: Any, part: Part) -> None:
        shade = 0.18 if len(part["series"]) <= FEW else 0.08
        for one, colour in zip(part["series"], style.COLOURS, strict=False):
            share = f" ({counted(one)})" if counted(one) else ""
            axes.plot(one["x"], one["y"], color=colour, label=one["name"] + share)
            axes.fill_between(one["x"], one["low"], one["high"], color=colour, alpha=shade, linewidth=0)
        axes.grid(True)
