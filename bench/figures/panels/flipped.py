"""How many images a perturbation flips, by its size."""

from __future__ import annotations

from typing import Any

import numpy as np

from spurbench.bench.figures import style
from spurbench.bench.figures.curves import Curves
from spurbench.bench.figures.source import Part, Source
from spurbench.bench.grid.schema import Strict
from spurbench.bench.records.record import Summary


class Line(Strict):
    """A curve read off a published figure."""

    name: str
    x: list[float]
    y: list[float]


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
