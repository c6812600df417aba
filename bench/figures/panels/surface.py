"""A decision surface: the logit over the plane, averaged over seeds, with its zero contour and one seed's points."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, ClassVar

import numpy as np

from spurbench.bench.figures import style
from spurbench.bench.figures.figure_data import Cell, FigureData, Panel, PanelData, partial_count, rounded
from spurbench.bench.grid.schema import Strict
from spurbench.bench.leaderboard import statistics
from spurbench.bench.records.record import Summary


class Number(Strict):
    """A measure printed below the panel: the median or mean over seeds."""

    split: str
    measure: str
    of: str = "median"
    name: str


class Surface(Panel):
    """The array `picture` kept of `cell`'s runs, a square lattice [x_0, x_1] over [−reach, reach]²."""

    FOLD: ClassVar[dict[str, Any]] = {"median": median, "mean": statistics.mean}
    box: ClassVar[float | None] = 1.0

    cell: Cell
    picture: str = "surface"
    reach: float = 2.0
    points_of: int | None = 0  # place in the grid's order of the seed whose training points are shown
    number: Number | None = None
    levels: int = 10

    def cells(self) -> Sequence[Cell]:
        return (self.cell,)

    def is_kept(self, source: FigureData, record: Summary) -> bool:
        return self.lattice(source, record) is not None

    def lattice(self, source: FigureData, record: Summary) -> Any:
        """The kept array, or None if there is none or its shape is not a lattice's."""
        found = source.kept_arrays(record).get(self.picture)
        square = found is not None and found.ndim == 2 and found.shape[0] == found.shape[1]
        return found if square and found is not None and found.dtype.kind in "fiu" else None

    def retraining_options(self) -> dict[str, Any]:
        return {"drawings": True}

    def gather(self, source: FigureData) -> PanelData:
        found = source.find_cell(self.cell, self.grid)
        kept = {seed: self.lattice(source, record) for seed, record in found.records.items()}
        surfaces = {seed: surface.astype(float) for seed, surface in kept.items() if surface is not None}
        part: PanelData = {
            **found.share,
            "n": len(surfaces),
            "seeds": list(surfaces),
            "x": rounded(np.linspace(-self.reach, self.reach, len(next(iter(surfaces.values()))))),
            "logit": rounded(np.mean(list(surfaces.values()), 0)),
            "points": None,
            "number": None,
        }
        first = list(found.records)[self.points_of] if self.points_of is not None else None
        if first is not None:
            train = source.load_data(found.records[first]).train
            part["points"] = {"seed": first, "x": rounded(train.x.numpy()), "y": train.y.tolist()}
        if self.number:
            part["number"] = self.measured(list(found.records.values()))
        return part

    def measured(self, records: Sequence[Summary]) -> PanelData | None:
        """The number printed below, with every seed's value."""
        assert self.number
        values = [record.measures.get(self.number.split, {}).get(self.number.measure) for record in records]
        there = [value for value in values if value is not None]
        if not there:
            return None
        return {
            "name": self.number.name,
            "value": rounded(self.FOLD[self.number.of](there)),
            "values": rounded(there),
        }

    def draw(self, axes: Any, part: PanelData) -> None:
        axis, logit = np.array(part["x"]), np.array(part["logit"]).T  # matplotlib has x_0 along the rows
        most = float(np.abs(logit).max()) or 1.0
        steps = np.linspace(-most, most, self.levels + 1)
        axes.contourf(axis, axis, logit, steps, cmap=style.SIDES)
        if logit.min() < 0 < logit.max():
            axes.contour(axis, axis, logit, [0.0], colors=style.INK, linewidths=1.4)
        if part["points"]:
            scatter(axes, part["points"])
        reach = self.reach
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.set(xticks=[-reach, 0, reach], yticks=[-reach, 0, reach])
        lines = [f"surface of {partial_count(part)}"] if partial_count(part) else []
        if part["number"]:
            lines.insert(0, f"{part['number']['name']} {part['number']['value']:.2f}")
        axes.set_xlabel("\n".join(lines), labelpad=2)
        place = axes.get_subplotspec()
        axes.tick_params(labelleft=place.is_first_col(), labelbottom=place.is_last_row())


def scatter(axes: Any, points: PanelData) -> None:
    """Training points of both classes, in two colours and shapes."""
    x, y = np.array(points["x"]), np.array(points["y"])
    for c, (marker, colour) in enumerate(zip(style.MARKERS, (style.BLUE, style.VERMILION), strict=True)):
        axes.scatter(*x[y == c].T, s=5, marker=marker, color=colour, edgecolors="white", linewidths=0.25, zorder=3)
