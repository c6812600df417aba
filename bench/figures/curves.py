"""Curves over runs: how many images a perturbation flips, and a metric over training; mean and range over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import structs

from spurbench.bench.figures import style
from spurbench.bench.figures.source import Cell, Kind, Part, Source, counted, short
from spurbench.bench.grid.schema import Strict
from spurbench.bench.records.record import Summary

FEW = 4  # series, among whose lines there is room for their names


class Line(Strict):
    """A curve read off a published figure."""

    name: str
    x: list[float]
    y: list[float]


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


class Flipped(Curves):
    """Share of the images that a perturbation of at most a given size flips, from a search for margins, by name.

    Sizes are on a scale on which the pixels' range is `range`. `published` curves are dotted, in the series' order.
    """

    attack: str = "margin"
    range: float = 1.0
    until: float | None = None  # where the axis ends
    published: list[Line] = []

    def kept(self, source: Source, record: Summary) -> bool:
        return self.attack in source.curves(record)

    @property
    def in_record(self) -> str:
        return f"no curve of an attack called '{self.attack}'"

    def curve(self, source: Source, record: Summary) -> tuple[list[float], list[float]]:
        found = source.curves(record)[self.attack]
        sizes = np.arange(len(found.flipped)) / (len(found.flipped) - 1) * self.range
        return sizes.tolist(), (100 * np.array(found.flipped) / found.n).tolist()

    def gather(self, source: Source) -> Part:
        return super().gather(source) | {"published": [line.model_dump() for line in self.published]}

    def draw(self, axes: Any, part: Part) -> None:
        super().draw(axes, part)
        for one, colour in zip(part["published"], style.COLOURS, strict=False):
            axes.plot(one["x"], one["y"], color=colour, linestyle=style.DASHES[2], label=one["name"])
        last = self.until or self.range
        axes.set(xlim=(0, last), ylim=(0, 100), xlabel="size of the perturbation (L∞)", ylabel="% of images flipped")
        axes.legend(loc="lower right")


class Looks(Curves):
    """A share of right answers on a split over training, in percent, at the steps at which the runs were scored."""

    split: str = "validation"
    metric: str = "worst_group_accuracy"

    def kept(self, source: Source, record: Summary) -> bool:
        return bool(record.looks) and None not in self.values(record)

    @property
    def in_record(self) -> str:
        return f"no scores of {self.split} during training: training.evaluate says how often they are made"

    def values(self, record: Summary) -> list[float | None]:
        """In percent, of each look; None where the split is not there or has no examples, which is not a share of 0."""
        from spurbench.bench.records.metrics import value

        of_looks = (structs.replace(record, splits=look.splits, measures={}) for look in record.looks)
        return [value(one, (self.split, self.metric)) for one in of_looks]

    def curve(self, source: Source, record: Summary) -> tuple[list[float], list[float]]:
        known = [share for share in self.values(record) if share is not None]
        return [look.step for look in record.looks], known

    def draw(self, axes: Any, part: Part) -> None:
        super().draw(axes, part)
        axes.set(ylim=(0, 100), xlabel="step", ylabel=f"{self.split} {self.metric.replace('_', ' ')} (%)")
        if len(part["series"]) <= FEW:
            axes.legend(loc="lower right")
        else:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
