"""What a job needs before its first step: its plug-ins, its replicas, its engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import torch
from torch import Tensor, nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.jobs.job import Job
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Dataset, Inputs, Training, count_inputs, split_inputs, tensors_in
from spurbench.bench.plugins.method import Method
from spurbench.bench.plugins.training_settings import Sampling, Schedule
from spurbench.bench.records.run import Run, trains_by
from spurbench.bench.store import weights
from spurbench.bench.store.store import Store
from spurbench.bench.training.engine import Engine, Observer
from spurbench.bench.training.execution import BIG_STEP, Options
from spurbench.bench.training.replica import Frozen, Replica, freeze, frozen_network, head_network, prepare

FEW = 8  # examples by whose features a network is known
PART = 1000  # examples that are hashed at a time


@dataclass(frozen=True)
class Setup:
    """The dataset and the method of a job, made with their options and hyper-parameters, and how its runs train."""

    job: Job
    dataset: Dataset
    method: Method
    training: Training

    def draw(self, run: Run, store: Store | None = None) -> Replica:
        """The data and the networks of one run; `store` keeps what frozen networks make of them.

        Without one the features of a few examples stand for those of all, so that steps can be measured.
        """
        replica = prepare(self.dataset, self.method, self.training, run.seed, trains_by(run.inferred_by))
        if self.training.network["freeze"]:
            self.freeze(replica, store)
        return replica

    def freeze(self, replica: Replica, store: Store | None) -> None:
        """Let the heads of a replica's networks alone be trained, on the features that the first one gives."""
        frozen = frozen_network(replica, self.training, replica.preprocessing(self.method))
        freeze(replica, frozen, lambda name, split: make_features(frozen, split.x, self.job.options, store))
        heads = [network.get_submodule(frozen.head) for network in replica.networks]
        replica.networks = [head_network((h.weight, h.bias), False) for h in heads if isinstance(h, nn.Linear)]

    def threads(self, replica: Replica) -> int:
        """How many of a job's threads a step of a replica is worth: one if it is small, as counted with its network."""
        most = self.job.options.threads
        if most == 1 or self.job.options.device != "cpu":
            return most
        return most if replica.step_flops(self.method, self.training) > BIG_STEP else 1

    def make_engine(self, replicas: Sequence[Replica], observer: Observer | None = None) -> Engine:
        """The engine of the job's runs before the first step.

        Errors: UserError for fp16 on a CPU.
        """
        precision = self.job.runs[0].precision
        if precision == "fp16" and self.job.options.device == "cpu":
            raise UserError("fp16 needs a GPU: on a CPU take bf16 or float32, such as --precision float32")
        return Engine(self.method, self.training, precision, self.job.options, replicas, observer)


def make_features(frozen: Frozen, x: Inputs, options: Options, store: Store | None) -> Tensor:
    """What the head of a frozen network is given of raw inputs, [n, D]; made once, then kept in the store.

    It is found again by the inputs and by what the network makes of the first ones: for every method and seed that has
    the same, and for no other.
    """
    device = torch.device(options.device)
    first = frozen.features(next(split_inputs(x, FEW)), device, FEW)
    if store is None:
        return first.repeat(-(-count_inputs(x) // len(first)), 1)[: count_inputs(x)]
    key = hash_tensors(first, *tensors_in(x))
    kept = weights.load_outputs(store, key, 0, "frozen")
    if kept is None:
        kept = {"features": frozen.features(x, device, options.micro_batch)}
        weights.save_outputs(store, key, 0, "frozen", kept)
    return kept["features"]


def hash_tensors(*tensors: Tensor) -> str:
    """Sixteen hex digits of the content of tensors."""
    digest = sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)} ".encode())
        for part in torch.split(tensor, PART):
            digest.update(part.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def set_up(job: Job) -> Setup:
    """Import and make what a job's runs share.

    Errors: UserError for a plug-in that cannot be used.
    """
    run = job.runs[0]
    method = registry.load_method(run.method)(**run.hyper_parameters)
    dataset = registry.load_dataset(run.dataset)(**run.dataset_options)
    training = dataset.protocol(run.training)
    if run.base is not None and not method.trains:  # it fits a head to features of its base
        training = replace(dataset.protocol(run.base["training"]), schedule=Schedule(steps=0), sampling=Sampling())
    return Setup(job, dataset, method, training)
