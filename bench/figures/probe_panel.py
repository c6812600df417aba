"""Panels drawn from what the starvation probe measured: means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spurbench.bench.evaluation import starvation
from spurbench.bench.figures.figure_data import Cell, FigureData, Panel, PanelData, rounded
from spurbench.bench.grid.schema import Strict
from spurbench.bench.records.record import Summary


class ProbeSettings(Strict):
    """Settings of the probe; those left out have its own defaults."""

    features: int = 10
    sample: int = 1000
    points: int = 60
    spacing: str = "log"

    @property
    def settings(self) -> starvation.Settings:
        return starvation.Settings(**self.model_dump())


class ProbePanel(Panel):
    """A panel drawn from what a probe measured."""

    probe: ProbeSettings = ProbeSettings()

    def is_kept(self, source: FigureData, record: Summary) -> bool:
        return starvation.read_probe(source.kept_arrays(record), self.probe.settings) is not None

    def retraining_options(self) -> dict[str, Any]:
        return {"probe": self.probe.settings}

    def gather_cell(self, source: FigureData, cell: Cell) -> PanelData:
        """The curves of one cell, means over its seeds."""
        found = source.find_cell(cell, self.grid)
        seen = [
            starvation.read_probe(source.kept_arrays(record), self.probe.settings) for record in found.records.values()
        ]
        runs = [one for one in seen if one is not None]
        return found.share | {"n": len(runs), "name": cell.name} | mean_curves(runs)


def mean_curves(runs: Sequence[dict[str, Any]]) -> PanelData:
    """Means over the runs of one cell: responses by feature, and the probe's summary."""
    mean = np.mean([run["responses"] for run in runs], 0)
    rows = [{name: rounded(value) for name, value in row.items()} for row in starvation.summary(runs)]
    return {"steps": runs[0]["steps"].tolist(), "responses": rounded(mean.T), "summary": rows}
