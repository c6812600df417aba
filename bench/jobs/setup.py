"""What a job needs before its first step: its plug-ins, its replicas, its engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spurbench.bench.jobs.job import Job
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Dataset, Training
from spurbench.bench.plugins.method import Method
from spurbench.bench.records.run import Run, trains_by
from spurbench.bench.training.engine import Engine, Observer
from spurbench.bench.training.replica import Replica, prepare

NO_STEP = {"batch": None, "balanced": None, "augment": None, "evaluate": None, "drops": None}
"""Fields of a training that takes no step."""


@dataclass(frozen=True)
class Setup:
    """The dataset and the method of a job, made with their options and hyper-parameters, and how its runs train."""

    job: Job
    dataset: Dataset
    method: Method
    training: Training

    def draw(self, run: Run) -> Replica:
        """The data and the networks of one run."""
        return prepare(self.dataset, self.method, self.training, run.seed, trains_by(run.inferred_by))

    def make_engine(self, replicas: Sequence[Replica], observer: Observer | None = None) -> Engine:
        """The engine of the job's runs before the first step."""
        precision = self.job.runs[0].precision
        return Engine(self.method, self.training, precision, self.job.options, replicas, observer)


def set_up(job: Job) -> Setup:
    """Import and make what a job's runs share.

    Errors: UserError for a plug-in that cannot be used.
    """
    run = job.runs[0]
    method = registry.load_method(run.method)(**run.hyper_parameters)
    dataset = registry.load_dataset(run.dataset)(**run.dataset_options)
    training = dataset.protocol(run.training)
    if run.base is not None and not method.trains:  # it fits a head to features of its base
        training = Training(**{**dataset.protocol(run.base["training"]).flat(), "steps": 0, **NO_STEP})
    return Setup(job, dataset, method, training)
