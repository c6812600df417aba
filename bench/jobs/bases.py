"""What a run starts from: finished runs as a method is shown them, and what its answer changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from spurbench.bench.checks import start_checks
from spurbench.bench.jobs.job import Job
from spurbench.bench.jobs.setup import Setup, set_up
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data, Inputs, Split, split_inputs
from spurbench.bench.plugins.method import CannotBegin, Finished, Method, Seen
from spurbench.bench.plugins.network import Networks
from spurbench.bench.records.run import INFERRED, Run
from spurbench.bench.store import weights
from spurbench.bench.store.store import Store
from spurbench.bench.training.batching import Preprocessing, generator_for, to_device
from spurbench.bench.training.execution import Options
from spurbench.bench.training.forward import watched
from spurbench.bench.training.replica import Frozen, Replica, find_head, head_network


class BaseFailed(CannotBegin):
    """A run that this one starts from came to nothing; the text says which, and why."""


VALIDATION = "validation"


def begin(replica: Replica, run: Run, setup: Setup, store: Store) -> Replica:
    """The replica of a run as the finished runs that it starts from change it.

    Errors: CannotBegin for what is not possible, such as an answer of the method that does not fit.
    """
    options = setup.job.options
    if run.inferred_by is not None:
        replica = with_inferred_groups(replica, run, options, store)
    if run.base is None:
        return replica
    look = Look(run.base_run(run.base), run.base["step"], options, store)
    earlier = run.base.get("earlier")
    before = Look(look.run, earlier, options, store) if earlier else None
    finished = show(look, replica, setup.method, before)
    start = setup.method.begin(finished, generator_for(run.seed, "begin"))
    start_checks.check(start, finished, setup.method)
    replica.start = start
    if start.split == VALIDATION:
        train_on_validation(replica, setup.method)
    if start.network == "base":
        copy_into(replica.networks, look.networks)
    if start.network == "head":
        freeze(replica, look)
        replica.networks = [head_network(start.head or finished.head, start.from_base)]
    return replica


def with_inferred_groups(replica: Replica, run: Run, options: Options, store: Store) -> Replica:
    """The replica with the attribute that another method infers, in training and on validation."""
    assert run.inferred_by is not None
    how = run.inferred_by["infer"]
    method = registry.load_method(how["method"])(**how["hyper_parameters"])
    look = Look(run.base_run(run.inferred_by), run.inferred_by["step"], options, store)
    data, found = replica.data, dict[str, Tensor]()
    for name in ("train", *([VALIDATION] if VALIDATION in data.tests else [])):
        seen = look.seen(name, data, method, {})
        found[name] = method.infer(seen, generator_for(run.seed, f"infer {name}"))
        if found[name].dtype != torch.int64 or found[name].shape != seen.y.shape or (found[name] < 0).any():
            raise CannotBegin(f"{how['method']}.infer gave no attribute: expected [n] of torch.int64, 0 or more")
    values = 1 + max(int(attribute.max()) for attribute in found.values())
    replica.inferred, replica.values = found["train"], values
    if VALIDATION in found:
        split = replace(data.tests[VALIDATION], attribute=found[VALIDATION], values=values, subsets={})
        replica.data = replace(data, tests=data.tests | {INFERRED: split})
    return replica


def show(look: Look, replica: Replica, method: Method, earlier: Look | None = None) -> Finished:
    """A finished run as a method is shown it: what it has declared, and no more."""
    inferred = {"train": replica.inferred}
    if INFERRED in replica.data.tests:
        inferred[VALIDATION] = replica.data.tests[INFERRED].attribute
    wanted = ["train", *([VALIDATION] if {"validation", "validation groups"} & method.needs else [])]
    if lacking := [name for name in wanted[1:] if name not in replica.data.tests]:
        raise CannotBegin(f"the data have no split '{lacking[0]}'")
    seen = {name: look.seen(name, replica.data, method, inferred, replica.values) for name in wanted}
    before = None if earlier is None else show(earlier, replica, method)
    return Finished(seen["train"], seen.get(VALIDATION), look.head, before)


@dataclass
class Look:
    """A finished run after one step: its networks, and what they make of a split; both are kept in the store."""

    run: Run
    step: int
    options: Options
    store: Store

    def __post_init__(self) -> None:
        record = self.store.record(self.run.id)
        if record is None or record.cause is not None:
            why = f"{record.cause.kind}: {record.cause.message}" if record and record.cause else "it has no record"
            raise BaseFailed(f"{self.run.method}, seed {self.run.seed} (run {self.run.id}): {why}")

    @cached_property
    def setup(self) -> Setup:
        return set_up(Job([self.run], self.run.method, self.options))

    @cached_property
    def networks(self) -> Networks:
        found = weights.load(self.store, self.run.id, self.step)
        if found is None:
            raise CannotBegin(f"the network of run {self.run.id} after step {self.step:,} is not kept (deleted?)")
        return found

    @cached_property
    def replica(self) -> Replica:
        """The run's data, and its networks after that step."""
        replica = self.setup.draw(self.run)
        copy_into(replica.networks, self.networks)
        return replica

    @property
    def head(self) -> tuple[Tensor, Tensor]:
        head = find_head(self.replica.networks[0], self.setup.training)
        if not isinstance(head, nn.Linear):
            raise CannotBegin(f"the network of {self.run.method} ends in {type(head).__name__}, not in an affine layer")
        return head.weight.detach(), head.bias.detach()

    @property
    def preprocessing(self) -> Preprocessing:
        data = self.replica.data
        return Preprocessing(self.setup.method.transform, data.mean, data.std, numbers=self.replica.preprocess)

    def seen(
        self,
        name: str,
        data: Data,
        method: Method,
        inferred: Mapping[str, Tensor | None],
        values: int | None = None,
    ) -> Seen:
        """What the run makes of a split, with the labels of it that a method has declared."""
        split = data.train if name == "train" else data.tests[name]
        if inferred.get(name) is not None:
            split = replace(split, attribute=inferred[name], values=values, environment=inferred[name])
        groups = ("groups" if name == "train" else "validation groups") in method.needs
        if groups and split.attribute is None:
            raise CannotBegin(f"the split '{name}' has no groups")
        environment = split.environment if "environments" in method.needs else None
        return Seen(split.y, split.group(data.attributes) if groups else None, environment, **self.outputs(name))

    def outputs(self, name: str) -> dict[str, Tensor]:
        """Logits and features of a split; made once, then kept."""
        kept = weights.load_outputs(self.store, self.run.id, self.step, name)
        if kept is None:
            data = self.replica.data
            x = (data.train if name == "train" else data.tests[name]).x
            kept = self.compute(x)
            weights.save_outputs(self.store, self.run.id, self.step, name, kept)
        return kept

    @torch.no_grad()
    def compute(self, x: Inputs) -> dict[str, Tensor]:
        """Logits and features of raw inputs, float32, in evaluation mode."""
        networks, device = self.replica.networks, torch.device(self.options.device)
        for network in networks:
            network.to(device).eval()
        head = find_head(networks[0], self.setup.training)
        parts: dict[str, list[Tensor]] = {}
        for raw in split_inputs(x, self.options.micro_batch):
            inputs = self.preprocessing(to_device(raw, device))
            with watched(head) as given:
                outputs = {"logits": networks[0](inputs), "features": given[0]}
            if len(networks) > 1:
                outputs["second_logits"] = networks[1](inputs)
            for name, output in outputs.items():
                parts.setdefault(name, []).append(output.float().cpu())
        return {name: torch.cat(each) for name, each in parts.items()}


def copy_into(networks: Sequence[nn.Module], saved: Networks) -> None:
    """Give networks the kept parameters and buffers; the first ones of a run that has had more."""
    with torch.no_grad():
        for network, state in zip(networks, saved, strict=False):
            own: dict[str, dict[str, Tensor]] = {
                "parameters": dict(network.named_parameters()),
                "buffers": dict(network.named_buffers()),
            }
            for kind, tensors in own.items():
                shapes = [{name: list(value.shape) for name, value in of.items()} for of in (tensors, state[kind])]
                if shapes[0] != shapes[1]:
                    raise CannotBegin(
                        "the base has another network than this run, or trained its last layer alone: give both the "
                        "same network fields, as `base: {training: {width: 32}}` does"
                    )
                for name, value in state[kind].items():
                    tensors[name].copy_(value)


def train_on_validation(replica: Replica, method: Method) -> None:
    """Let the replica train on validation; what is not drawn of it stays held out.

    Errors: CannotBegin for a method that needs groups or environments and has not declared those of validation.
    """
    if {"groups", "environments"} & method.needs and "validation groups" not in method.needs:
        raise CannotBegin("it trains on validation by groups, and has not declared the need 'validation groups'")
    split = replica.data.tests[VALIDATION]
    inferred = replica.data.tests.get(INFERRED)
    replica.trained_on = split if inferred is None else replace(inferred, environment=inferred.attribute)
    rest = torch.ones(len(split.y), dtype=torch.bool)
    if replica.start.draw.rows is not None:
        rest[replica.start.draw.rows] = False
    if replica.start.draw.rows is None or not rest.any():
        return
    held_out, tests = rest.nonzero()[:, 0], replica.data.tests
    tests = tests | {name: tests[name].take(held_out) for name in (VALIDATION, INFERRED) if name in tests}
    replica.data = replace(replica.data, tests=tests)


def freeze(replica: Replica, look: Look) -> None:
    """Let the replica's data be the base's features of them."""
    base = look.replica.networks[0]
    head = find_head(base, look.setup.training)
    name = next(name for name, module in base.named_modules() if module is head)
    data = replica.data
    replica.frozen = Frozen(base, name, data, look.preprocessing)

    def features(name: str, split: Split) -> Split:
        found = look.outputs(VALIDATION if name == INFERRED else name)["features"]
        return replace(split, x=found if split.index is None else found[split.index])

    tests = {name: features(name, split) for name, split in data.tests.items()}
    replica.data = replace(data, train=features("train", data.train), tests=tests, mean=(0.0,), std=(1.0,))
    if replica.trained_on is not None:
        replica.trained_on = features(VALIDATION, replica.trained_on)
