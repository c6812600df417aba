"""The commands for scripts and notebooks: `spurbench.run` and `spurbench.load`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spurbench.bench.api import running
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.terminal import plural
from spurbench.bench.launch.runner import Settings
from spurbench.bench.leaderboard.build import Leaderboard, build_from_store
from spurbench.bench.plugins import registry
from spurbench.bench.records import metrics
from spurbench.bench.records.record import Counts, Record, Summary
from spurbench.bench.store import predictions
from spurbench.bench.store.store import Store

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

LEVELS = ("run", "split", "group")


def run(
    grid: str | Path | None = None,
    *,
    dataset: str | Sequence[str] = (),
    method: str | Sequence[str] = (),
    seeds: str | None = None,
    set: Mapping[str, Any] | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
    launcher: str = "local",
    keep_weights: bool = False,
    plugins: Sequence[str | Path] = (),
) -> Results:
    """Run a grid, or datasets × methods, as `spurbench run` does; returns the results. Finished runs are not repeated.

    `grid` is a shipped grid's name or a file. Without one, `dataset` and `method` name what to run, `seeds` is "0-9" or
    "1,2,5", and `set` changes values: {"sd.coef": 0.1, "training.lr": 1e-3}. `jobs=0` starts no processes.
    `launcher` names the pool they are of.

    Errors: UserError for misspelt names and for what cannot be run; failed runs are in the results, with their cause.
    """
    registry.add_plugins(plugins)
    sets = [f"{key}={value}" for key, value in (set or {}).items()]
    chosen = running.choose_grid(str(grid) if grid else None, as_list(dataset), as_list(method), seeds, sets, None)
    where = Path(store) if store else Path("stores") / (Path(grid).stem if grid else "adhoc")
    if running.run(chosen, where, Settings(device=device, jobs=jobs, keep_weights=keep_weights), launcher) == 130:
        raise KeyboardInterrupt
    return load(where)


def load(store: str | Path) -> Results:
    """The results in a store: its folder, or a packed .jsonl.gz file.

    Errors: UserError if there is none.
    """
    return Results(Store.open(store))


def as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


class Results:
    """The results in a store, read anew whenever they are asked for, even while runs go on."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __repr__(self) -> str:
        records, unusable = self.store.records()
        failed = sum(not record.done for record in records)
        rest = [f"{failed} failed"] * bool(failed) + [f"{plural(len(unusable), 'unusable file')}"] * bool(unusable)
        return f"<{plural(len(records), 'run')} in {self.store.root}{''.join(f', {text}' for text in rest)}>"

    def frame(self, level: str = "run") -> pd.DataFrame:
        """A tidy pandas table with one row per run, run × split, or run × split × group.

        Settings are columns such as `sd.coef`, `training.lr` and `option.examples`; a run's metrics are columns such as
        `test/accuracy`, in percent if they are shares. Rows of a group have `n` and `correct`.
        """
        import pandas as pd

        if level not in LEVELS:
            raise UserError(f"no level '{level}'; there are: {', '.join(LEVELS)}")
        rows = {"run": run_row, "split": split_rows, "group": group_rows}[level]
        return pd.DataFrame([row for record in self.store.records()[0] for row in rows(record)])

    def _find_record(self, run_id: str) -> Record:
        """The record of a run. Errors: UserError if there is none."""
        record = self.store.record(run_id)
        if record is None:
            raise UserError(f"no run {run_id} in {self.store.root}; .frame() has their ids")
        return record

    def predictions(self, run_id: str, rule: str = "none") -> dict[str, np.ndarray[Any, Any]]:
        """The logits of a run on each split, [n] or [n, C], at the step that a selection rule chooses, or the last.

        Errors: UserError for an unknown run, or if no predictions are kept of it.
        """
        return predictions.load_predictions(self.store, self._find_record(run_id), rule).logits

    def weights(self, run_id: str, step: int | None = None) -> list[dict[str, dict[str, Any]]]:
        """Parameters and buffers of each network of a run after a step, by default the last, as tensors by name.

        Errors: UserError for an unknown run, or if they are not kept: see `--keep-weights`.
        """
        from spurbench.bench.store import weights

        record = self._find_record(run_id)
        at = record.last_step if step is None else step
        found = weights.load(self.store, run_id, at)
        if found is None:
            raise UserError(f"the networks of run {run_id} after step {at:,} are not kept: run it with --keep-weights")
        return found

    def leaderboard(self, grid: str | None = None, *, all_metrics: bool = False) -> Board:
        """The leaderboard, restricted to one grid's plan if `grid` names it."""
        return Board(build_from_store(self.store, all_metrics, grid))

    def figure(self, name: str) -> Any:
        """A matplotlib figure: a shipped one (fig1 to fig6), or the first of a .yaml file.

        Errors: UserError if the store lacks runs for it.
        """
        from spurbench.bench.figures import draw, sheet, style
        from spurbench.bench.figures.figure_data import FigureData

        with style.use_style():
            return draw.draw_figure(draw.prepare(sheet.load(name)[0], FigureData(self.store)))


class Board:
    """A leaderboard: `print` shows tables, a notebook a page; `render` gives any format, `rows` the numbers."""

    def __init__(self, found: Leaderboard) -> None:
        self.found = found

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One mapping per method × metric, as `--format json` writes them."""
        return [row.to_dict() for row in self.found.rows]

    def frame(self) -> pd.DataFrame:
        """The rows as a pandas table."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def render(self, format: str = "table") -> str:
        """The leaderboard as text: table, markdown, latex, csv, json or html."""
        from spurbench.bench.formats.render import render

        return render(self.found, format)

    def __str__(self) -> str:
        return self.render()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """An iframe, so that the page's style does not affect the notebook's."""
        from html import escape

        return f'<iframe srcdoc="{escape(self.render("html"))}" width="100%" height="600" frameborder="0"></iframe>'


# ---- rows of frames -------------------------------------------------------------------------------------------------


def run_row(record: Summary) -> list[dict[str, Any]]:
    found = run_columns(record) | {
        "status": record.status,
        "cause": record.cause.kind if record.cause else None,
        "seconds": record.cost.seconds,
        "peak_memory_mb": record.cost.peak_memory_mb,
        "device": record.provenance.device,
        "finished": record.provenance.finished,
    }
    for split, metric in metrics.columns_of(record) if record.done else ():
        found[f"{split}/{metric}"] = metrics.value(record, (split, metric))
    return [found]


def split_rows(record: Summary) -> list[dict[str, Any]]:
    """Accuracies in percent; loss and entropy are means in nats."""
    return [
        run_columns(record)
        | {"split": split, "n": sum(counts.n), "correct": sum(counts.correct)}
        | {name: metrics.value(record, (split, name)) for name in metrics.EVERYWHERE}
        for split, counts in record.splits.items()
    ]


def group_rows(record: Summary) -> list[dict[str, Any]]:
    return [
        run_columns(record) | {"split": split, "group": group, "n": counts.n[g], "correct": counts.correct[g]}
        for split, counts in record.splits.items()
        for g, group in enumerate(groups_of(record, counts))
    ]


def groups_of(record: Summary, counts: Counts) -> list[str]:
    """The names of a split's groups; a split without an attribute is counted by class."""
    if len(counts.n) == len(record.groups):
        return record.groups
    return [f"y{y}" for y in range(len(counts.n))]


def run_columns(record: Summary) -> dict[str, Any]:
    """The columns that identify a run."""
    return {
        "id": record.id, "dataset": record.dataset, "method": record.method, "seed": record.seed,
        "precision": record.precision,
        **{f"option.{name}": value for name, value in record.dataset_options.items()},
        **{f"{record.method}.{name}": value for name, value in record.hyper_parameters.items()},
        **{f"training.{name}": value for name, value in record.training.items()},
    }  # fmt: skip
