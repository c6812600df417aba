"""From a grid to records: expand, run what is pending, expand again, until nothing is pending."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from spurbench.bench.grid.cells import Grid, only
from spurbench.bench.grid.expand import expand
from spurbench.bench.jobs.job import Job, Redo, gather
from spurbench.bench.launch import placement
from spurbench.bench.launch.dispatch import Outcome, Watcher, launch
from spurbench.bench.launch.pool import Pool, Terms
from spurbench.bench.plugins import registry
from spurbench.bench.provenance import edits
from spurbench.bench.records.plan import Plan, kept_as
from spurbench.bench.records.record import Summary
from spurbench.bench.records.run import Run
from spurbench.bench.store.store import Store
from spurbench.bench.training.execution import Options

Announce = Callable[[list[Job], placement.Layout], Watcher]
"""Called before a round of jobs with the jobs and their layout; gives who watches them."""


@dataclass(frozen=True)
class Settings:
    """What the user may say about how a grid is run."""

    device: str = "auto"
    jobs: int | None = None
    threads: int | None = None
    retry: bool = False
    fresh: bool = False  # do runs again whose plug-ins or data have been edited since
    time_limit: float | None = None  # seconds that a run may take
    only: Sequence[str] = ()  # cells to run, by dataset, method, label or dataset/method; the plan stays whole
    checkpoint_seconds: float = 60.0
    micro_batch: int | None = None  # rows, of minibatches too; by default what suits the device, minibatches whole
    compile: bool = False
    keep_weights: bool = False  # keep the networks of every run after its last step


@dataclass(frozen=True)
class Planned:
    """A run of a plan, the label of its row, and the steps of it from which others start."""

    run: Run
    label: str
    keep: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Outstanding:
    """How far a grid is: its plan as it now stands, the records there are, and what is still to be done."""

    plan: Plan
    records: dict[str, Summary]  # by id, of the whole store
    waiting: set[str]  # ids of runs
    redo: Redo = Redo()

    @property
    def planned(self) -> list[Planned]:
        """Every run with its label; first those that others which wait start from."""
        bases = self.plan.bases(self.waiting)
        first = [Planned(run, f"{run.method} (base)", sorted(steps)) for run, steps in bases.values()]
        return first + [Planned(run, cell.label) for run, cell in self.plan.runs() if run.id not in bases]

    def needed(self, ids: Iterable[str]) -> set[str]:
        """These runs, and those that they start from and that are to be done."""
        return {*ids, *(id for id in self.plan.bases(set(ids)) if self.redo.asks_for(self.records.get(id)))}

    @property
    def own_records(self) -> list[Summary]:
        """The records of the plan's runs."""
        return [self.records[id] for id in self.plan.ids if id in self.records]

    def outdated(self) -> dict[str, list[str]]:
        """The runs made before files of theirs were edited: names of the files → ids of the runs."""
        found: dict[str, list[str]] = {}
        for record in self.own_records:
            if files := edits.find_edited_files(record):
                found.setdefault(", ".join(files), []).append(record.id)
        return found


@dataclass
class Result(Outcome):
    """How a grid ended."""

    end: Outstanding | None = None


def run_grid(grid: Grid, store: Store, settings: Settings, announce: Announce, pool: Pool) -> Result:
    """Do every run of the grid that has no record yet; safe to call again, and beside another call, at any time."""
    result, tried = Result(), set[str]()
    while True:
        now = result.end = find_outstanding(grid, store, settings, tried)
        left = now.waiting - tried
        if not left or result.interrupted:
            return result
        wanted = left & set(now.plan.draw_ids) or left  # searches first: others wait for them
        add(result, launch_round(now.planned, now.needed(wanted), store, settings, announce, pool))
        tried |= wanted


def find_outstanding(
    grid: Grid, store: Store, settings: Settings, tried: Container[str] = (), look_only: bool = False
) -> Outstanding:
    """How far the grid is.

    The plan is written to the store and unusable records are set aside, so that their runs are done again; not if we
    `look_only`.
    """
    usable, unusable = store.records()
    records = {record.id: record for record in usable}
    before = store.plans()
    plan = kept_as(expand(grid, records, before), before)
    if not look_only:
        store.set_aside(unusable)
        if plan not in before:
            store.write_plan(plan)
    part = expand(only(grid, settings.only), records, before) if settings.only else plan
    asked, again = Redo(settings.retry, settings.fresh), Redo()
    waiting = {id for id in part.ids if (again if id in tried else asked).asks_for(records.get(id))}
    return Outstanding(plan, records, waiting, again if tried else asked)


def launch_round(
    planned: list[Planned], wanted: set[str], store: Store, settings: Settings, announce: Announce, pool: Pool
) -> Outcome:
    """Lay the wanted runs out over a pool and launch them."""
    plan = pool.lay_out(settings.device, settings.jobs, settings.threads, len(planned))
    jobs = arrange_jobs(planned, wanted, plan, settings)
    plan = replace(plan, devices=plan.devices[: len(jobs)])
    terms = Terms(registry.plugin_paths(), Redo(settings.retry, settings.fresh), settings.time_limit)
    return launch(jobs, plan, store, announce(jobs, plan), terms, pool)


def arrange_jobs(planned: list[Planned], wanted: set[str], plan: placement.Layout, settings: Settings) -> list[Job]:
    """The jobs of the wanted runs under a layout."""
    options = options_of(settings, plan)
    keep = {one.run.id: one.keep for one in planned if one.keep}

    def arranged(job: Job) -> Job:
        steps = {*keep.get(job.runs[0].id, ()), *([job.steps] if settings.keep_weights else ())}
        threads = plan.job_threads(step_flops(job.runs[0]))
        return replace(job, options=replace(options, threads=threads), keep=sorted(steps))

    jobs = []
    for first in (True, False):  # those that others start from
        pairs = [(one.run, one.label) for one in planned if bool(one.keep) == first]
        jobs += gather(pairs, wanted, lambda run, seeds: plan.job_height(step_flops(run), seeds), options)
    return [arranged(job) for job in jobs]


def options_of(settings: Settings, layout: placement.Layout) -> Options:
    """How the jobs of a layout are computed."""
    return Options(
        micro_batch=settings.micro_batch or layout.micro_batch,
        accumulate=settings.micro_batch is not None,
        checkpoint_seconds=settings.checkpoint_seconds,
        compile=settings.compile,
    )


def step_flops(run: Run) -> float:
    """Operations of one step of a run; a dataset says how many examples it has in an option of its own."""
    sizes = [value for name, value in run.dataset_options.items() if name in ("examples", "train_size")]
    return placement.step_flops(run.training, rows=run.training.get("batch") or max(sizes, default=50_000))


def add(result: Result, outcome: Outcome) -> None:
    result.refused += outcome.refused
    result.failed += outcome.failed
    result.interrupted |= outcome.interrupted
    result.unsaved |= outcome.unsaved
