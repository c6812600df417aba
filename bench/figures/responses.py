"""Responses of features over training, and how each feature's share compares with what it is due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spurbench.bench.evaluation import starvation
from spurbench.bench.figures import style
from spurbench.bench.figures.source import Cell, Kind, Part, Source, counted, short
from spurbench.bench.grid.schema import Strict
from spurbench.bench.records.record import Summary


class Look(Strict):
    """Settings of the probe; its own defaults where left out."""

    features: int = 10
    sample: int = 1000
    points: int = 60
    spacing: str = "log"

    @property
    def settings(self) -> starvation.Settings:
        return starvation.Settings(**self.model_dump())


class Probed(Kind):
    """A panel drawn from what a probe saw."""

    probe: Look = Look()

    def kept(self, source: Source, record: Summary) -> bool:
        return starvation.read_probe(source.kept(record), self.probe.settings) is not None

    def wish(self) -> dict[str, Any]:
        return {"probe": self.probe.settings}

    def of_cell(self, source: Source, cell: Cell) -> Part:
        """The curves of one cell, means over its seeds."""
        found = source.find(cell, self.grid)
        seen = [starvation.read_probe(source.kept(record), self.probe.settings) for record in found.records.values()]
        runs = [one for one in seen if one is not None]
        return found.share | {"n": len(runs), "name": cell.name} | curves(runs)


class Responses(Probed):
    """A line for each of `features` (0-based, strongest first) of each of `series`, means over seeds."""

    series: list[Cell]
    features: list[int]

    def cells(self) -> Sequence[Cell]:
        return self.series

    def gather(self, source: Source) -> Part:
        return {"series": [self.of_cell(source, cell) for cell in self.series]}

    def draw(self, axes: Any, part: Part) -> None:
        lines(axes, part["series"], self.features)


class Shares(Probed):
    """What each feature of a cell is due of ‖ŷ‖², and what it has at the end of training."""

    cell: Cell

    def cells(self) -> Sequence[Cell]:
        return (self.cell,)

    def gather(self, source: Source) -> Part:
        return self.of_cell(source, self.cell)

    def draw(self, axes: Any, part: Part) -> None:
        bars(axes, part["summary"])


def curves(runs: Sequence[dict[str, Any]]) -> Part:
    """Means over the runs of one cell: responses by feature, and the probe's summary."""
    mean = np.mean([run["responses"] for run in runs], 0)
    rows = [{name: short(value) for name, value in row.items()} for row in starvation.summary(runs)]
    return {"steps": runs[0]["steps"].tolist(), "responses": short(mean.T), "summary": rows}


def lines(axes: Any, series: Sequence[Part], features: Sequence[int]) -> None:
    """With several series a colour is a series and a dash a feature; with one, a colour is a feature."""
    for i, one in enumerate(series):
        for k, feature in enumerate(features):
            colour = style.COLOURS[(i if len(series) > 1 else k) % len(style.COLOURS)]
            dash = style.DASHES[(k if len(series) > 1 else k // len(style.COLOURS)) % len(style.DASHES)]
            axes.plot(one["steps"], one["responses"][feature], color=colour, linestyle=dash)
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    last = max(one["steps"][-1] for one in series)
    missing = ", ".join(dict.fromkeys(counted(one) for one in series if counted(one)))
    axes.set(xlim=(0, last), ylim=(0, None), xlabel=f"step ({missing})" if missing else "step")
    axes.set_ylabel("response |uᵀYŷ|")
    axes.grid(True, axis="y")
    key(axes, series, features)


def key(axes: Any, series: Sequence[Part], features: Sequence[int]) -> None:
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


def bars(axes: Any, summary: Sequence[Part]) -> None:
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
