"""Responses of features over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spurbench.bench.figures import style
from spurbench.bench.figures.figure_data import Cell, FigureData, PanelData, partial_count
from spurbench.bench.figures.probe_panel import ProbePanel


class Responses(ProbePanel):
    """A line for each of `features` (0-based, strongest first) of each of `series`, means over seeds."""

    series: list[Cell]
    features: list[int]

    def cells(self) -> Sequence[Cell]:
        return self.series

    def gather(self, source: FigureData) -> PanelData:
        return {"series": [self.gather_cell(source, cell) for cell in self.series]}

    def draw(self, axes: Any, part: PanelData) -> None:
        lines(axes, part["series"], self.features)


def lines(axes: Any, series: Sequence[PanelData], features: Sequence[int]) -> None:
    """With several series a colour is a series and a dash a feature; with one, a colour is a feature."""
    for i, one in enumerate(series):
        for k, feature in enumerate(features):
            colour = style.COLOURS[(i if len(series) > 1 else k) % len(style.COLOURS)]
            dash = style.DASHES[(k if len(series) > 1 else k // len(style.COLOURS)) % len(style.DASHES)]
            axes.plot(one["steps"], one["responses"][feature], color=colour, linestyle=dash)
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    last = max(one["steps"][-1] for one in series)
    missing = ", ".join(dict.fromkeys(partial_count(one) for one in series if partial_count(one)))
    axes.set(xlim=(0, last), ylim=(0, None), xlabel=f"step ({missing})" if missing else "step")
    axes.set_ylabel("response |uᵀYŷ|")
    axes.grid(True, axis="y")
    key(axes, series, features)


def key(axes: Any, series: Sequence[PanelData], features: Sequence[int]) -> None:
    from matplotlib.lines import Line2D

    if len(series) == 1:
        handles = [
            Line2D([], [], color=style.COLOURS[k % 6], linestyle=style.DASHES[k // 6 % 4], label=f"feature {feature}")
            for k, feature in enumerate(features)
        ]
    else:
        handles = [Line2D([], [], color=style.COLOURS[i % 6], label=one["name"]) for i, one in enumerate(series)]
        handles += [
            Line2D([], [], color=style.SOFT, linestyle=style.DASHES[k % 4], label=f"feature {feature}")
            for k, feature in enumerate(features)
        ]
    axes.legend(handles=handles, loc="upper left", labelspacing=0.25)
