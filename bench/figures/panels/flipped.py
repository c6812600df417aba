"""How many images a perturbation flips, by its size."""

from __future__ import annotations

from typing import Any

import numpy as np

from spurbench.bench.figures import style
from spurbench.bench.figures.curves import Curves
from spurbench.bench.figures.figure_data import FigureData, PanelData
from spurbench.bench.grid.schema import Strict
from spurbench.bench.records.record import Summary


class Line(Strict):
    """A curve read off a published figure."""

    name: str
    x: list[float]
    y: list[float]


class Flipped(Curves):
    """Share of the images flipped by perturbations of at most a given size, from the margin search called `attack`.

    Sizes are on a scale on which pixels span `range`. `published` curves are dotted, in the order of the series.
    """

    attack: str = "margin"
    range: float = 1.0
    until: float | None = None  # where the axis ends
    published: list[Line] = []

    def is_kept(self, source: FigureData, record: Summary) -> bool:
        return self.attack in source.margin_curves(record)

    @property
    def lacking_in_record(self) -> str:
        return f"no curve of an attack called '{self.attack}'"

    def curve(self, source: FigureData, record: Summary) -> tuple[list[float], list[float]]:
        found = source.margin_curves(record)[self.attack]
        sizes = np.arange(len(found.flipped)) / (len(found.flipped) - 1) * self.range
        return sizes.tolist(), (100 * np.array(found.flipped) / found.n).tolist()

    def gather(self, source: FigureData) -> PanelData:
        return super().gather(source) | {"published": [line.model_dump() for line in self.published]}

    def draw(self, axes: Any, part: PanelData) -> None:
        super().draw(axes, part)
        for one, colour in zip(part["published"], style.COLOURS, strict=False):
            axes.plot(one["x"], one["y"], color=colour, linestyle=style.DASHES[2], label=one["name"])
        last = self.until or self.range
        axes.set(xlim=(0, last), ylim=(0, 100), xlabel="size of the perturbation (L∞)", ylabel="% of images flipped")
        axes.legend(loc="lower right")
