"""What the starvation probe saw of runs, as panels show it: means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spurbench.bench.evaluation import starvation
from spurbench.bench.figures.source import Cell, Kind, Part, Source, short
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


def curves(runs: Sequence[dict[str, Any]]) -> Part:
    """Means over the runs of one cell: responses by feature, and the probe's summary."""
    mean = np.mean([run["responses"] for run in runs], 0)
    rows = [{name: short(value) for name, value in row.items()} for row in starvation.summary(runs)]
    return {"steps": runs[0]["steps"].tolist(), "responses": short(mean.T), "summary": rows}
