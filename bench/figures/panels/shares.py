"""What each feature is due, and what it has at the end of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spurbench.bench.evaluation import starvation
from spurbench.bench.figures import style
from spurbench.bench.figures.figure_data import Cell, FigureData, PanelData
from spurbench.bench.figures.probe_panel import ProbePanel


class Shares(ProbePanel):
    """What each feature of a cell is due of ‖ŷ‖², and what it has at the end of training."""

    cell: Cell

    def cells(self) -> Sequence[Cell]:
        return (self.cell,)

    def gather(self, source: FigureData) -> PanelData:
        return self.gather_cell(source, self.cell)

    def draw(self, axes: Any, part: PanelData) -> None:
        bars(axes, part["summary"])


def bars(axes: Any, summary: Sequence[PanelData]) -> None:
    """What each feature is due and what it has, in percent of ‖ŷ‖²; starved ones are marked, known ones named."""
    at = np.arange(len(summary))
    for shift, name, colour in ((-0.2, "due", style.GREY), (0.2, "learned", style.BLUE)):
        axes.bar(at + shift, [100 * row[name] for row in summary], 0.4, color=colour, label=name)
    highest = 100 * max(row[name] for row in summary for name in ("due", "learned"))
    for place, row in zip(at, summary, strict=True):
        starved = row["verdict"] == "starved"
        words = [starvation.main_subject(row), "starved" if starved else ""]
        axes.text(place, 100 * max(row["due"], row["learned"]) + 0.02 * highest, " ".join(words).strip(), ha="center",
                  va="bottom", rotation=90, color=style.VERMILION if starved else style.SOFT, fontsize=7)  # fmt: skip
    axes.set(xlabel="feature", ylabel="% of ‖ŷ‖²", ylim=(0, 1.3 * highest))
    axes.set_xticks(at, [str(row["feature"]) for row in summary])
    axes.legend(loc="upper right")
