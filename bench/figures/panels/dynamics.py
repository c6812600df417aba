"""Paths of the theory's dynamics in the plane of two responses, as the first feature grows stronger."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from spurbench.bench.figures import style
from spurbench.bench.figures.figure_data import FigureData, Panel, PanelData, rounded

NAMES = {"dual": "dual, weight decay", "primal": "primal, weight decay", "decoupled": "spectral decoupling"}
LINES: dict[str, Any] = {"dual": (0, (1, 1.2)), "primal": "-", "decoupled": (0, (4, 1.6))}


class Dynamics(Panel):
    """Figure 5 of the paper, computed by `bench/evaluation/theory.py`; it needs no store."""

    paths: list[Literal["dual", "primal", "decoupled"]]
    legend: Literal["strength", "paths"] = "paths"

    def gather(self, source: FigureData) -> PanelData:
        from spurbench.bench.evaluation import theory

        found = theory.figure_5()
        wanted = {"steps": found["steps"], "s_1": found["s_1"], "s_2": found["s_2"], "U": found["U"]}
        wanted |= {"lambda": found["lambda"], "lambda_decoupled": found["lambda_decoupled"]}
        wanted["paths"] = {name: rounded(found["paths"][name], 6) for name in self.paths}
        wanted["ends"] = {name: rounded([path[-1] for path in found["paths"][name]], 7) for name in self.paths}
        return wanted | {"fixed_points": rounded(found["fixed_points"], 7)}

    def draw(self, axes: Any, part: PanelData) -> None:
        shades = style.ORDERED(np.linspace(0, 1, len(part["s_1"])))
        for name in self.paths:
            for path, colour in zip(part["paths"][name], shades, strict=True):
                x, y = np.array(path).T
                axes.plot(x, y, color=colour, linestyle=LINES[name])
                axes.plot(x[-1], y[-1], "o", color=colour, markersize=3, markeredgecolor="white", markeredgewidth=0.4)
        axes.set(xlim=(-0.4, 10.5), ylim=(-0.08, 1.8), xlabel="response of feature 1, |z₁|")
        axes.set_ylabel("response of feature 2, |z₂|")
        axes.grid(True)
        self.key(axes, part, shades)

    def key(self, axes: Any, part: PanelData, shades: Any) -> None:
        """A legend of dashes by path and of shades by strength."""
        from matplotlib.lines import Line2D

        dashes = [Line2D([], [], color=style.SOFT, linestyle=LINES[name], label=NAMES[name]) for name in self.paths]
        strengths = [
            Line2D([], [], color=colour, label=f"s₁ = {s:g}") for s, colour in zip(part["s_1"], shades, strict=True)
        ]
        handles = strengths if self.legend == "strength" else dashes
        first = axes.legend(handles=dashes, loc="lower right")
        if handles is strengths:
            axes.add_artist(first)
            axes.legend(handles=strengths, loc="upper left", ncols=1)
