"""A metric over training."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from spurbench.bench.figures.curves import MAX_NAMED, Curves
from spurbench.bench.figures.figure_data import FigureData, PanelData
from spurbench.bench.records.record import Summary


class Looks(Curves):
    """A metric that is a share, on one split, in percent, at the steps at which runs were scored during training."""

    split: str = "validation"
    metric: str = "worst_group_accuracy"

    def is_kept(self, source: FigureData, record: Summary) -> bool:
        return bool(record.looks) and None not in self.values(record)

    @property
    def lacking_in_record(self) -> str:
        return f"no scores of {self.split} during training: training.evaluate sets how often they are made"

    def values(self, record: Summary) -> list[float | None]:
        """In percent, at each scored step; None where the split is missing or empty, which is not a share of 0."""
        from spurbench.bench.records.metrics import value

        of_looks = (structs.replace(record, splits=look.splits, measures={}) for look in record.looks)
        return [value(one, (self.split, self.metric)) for one in of_looks]

    def curve(self, source: FigureData, record: Summary) -> tuple[list[float], list[float]]:
        known = [share for share in self.values(record) if share is not None]
        return [look.step for look in record.looks], known

    def draw(self, axes: Any, part: PanelData) -> None:
        super().draw(axes, part)
        axes.set(ylim=(0, 100), xlabel="step", ylabel=f"{self.split} {self.metric.replace('_', ' ')} (%)")
        if len(part["series"]) <= MAX_NAMED:
            axes.legend(loc="lower right")
        else:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
