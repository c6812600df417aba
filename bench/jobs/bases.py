"""What a run starts from: finished runs as a method is shown them, and what its answer changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from spurbench.bench.checks import start_checks
from spurbench.bench.core.errors import StoreTrouble
from spurbench.bench.jobs.job import Job
from spurbench.bench.jobs.setup import Setup, set_up
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Inputs, Split
from spurbench.bench.plugins.method import CannotBegin, Finished, Method, Seen
from spurbench.bench.plugins.network import Networks
from spurbench.bench.records.run import INFERRED, Run, trains_by
from spurbench.bench.store import weights
from spurbench.bench.store.store import Store
from spurbench.bench.training.batching import Preprocessing, generator_for
from spurbench.bench.training.execution import Options
from spurbench.bench.training.model import outputs_of
from spurbench.bench.training.replica import Replica, find_head, freeze, frozen_network, head_network


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
        freeze_base(replica, look)
        replica.networks = [head_network(start.head or finished.head, start.from_base)]
    return replica


def with_inferred_groups(replica: Replica, run: Run, options: Options, store: Store) -> Replica:
    """The replica with the attribute that another method infers: a split to choose by, and perhaps to train by."""
    assert run.inferred_by is not None
    how = run.inferred_by["infer"]
    method = registry.load_method(how["method"])(**how["hyper_parameters"])
    look = Look(run.base_run(run.inferred_by), run.inferred_by["step"], options, store)
    data, found = replica.data, dict[str, Tensor]()
    for name in ("train", *([VALIDATION] if VALIDATION in data.tests else [])):
        seen = look.seen(name, replica, method)
        found[name] = method.infer(seen, generator_for(run.seed, f"infer {name}"))
        if found[name].dtype != torch.int64 or found[name].shape != seen.y.shape or (found[name] < 0).any():
            raise CannotBegin(f"{how['method']}.infer gave no attribute: expected [n] of torch.int64, 0 or more")
    values = 1 + max(int(attribute.max()) for attribute in found.values())
    if trains_by(run.inferred_by):
        replica.inferred, replica.values = found, values
    if VALIDATION in found:
        split = replace(data.tests[VALIDATION], attribute=found[VALIDATION], values=values, subsets={})
        replica.data = replace(data, tests=data.tests | {INFERRED: split})
    return replica


def show(look: Look, replica: Replica, method: Method, earlier: Look | None = None) -> Finished:
    """A finished run as a method is shown it: what it has declared, and no more."""
    wanted = ["train", *([VALIDATION] if {"validation", "validation groups"} & method.needs else [])]
    if lacking := [name for name in wanted[1:] if name not in replica.data.tests]:
        raise CannotBegin(f"the data have no split '{lacking[0]}'")
    seen = {name: look.seen(name, replica, method) for name in wanted}
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
            raise StoreTrouble(
                f"the network of run {self.run.id} after step {self.step:,} is not kept (deleted?): run the same "
                "command again, which makes it anew"
            )
        return found

    @cached_property
    def replica(self) -> Replica:
        """The run's data, and its networks after that step."""
        replica = self.setup.draw(self.run, self.store)
        copy_into(replica.networks, self.networks)
        return replica

    @property
    def head(self) -> tuple[Tensor, Tensor]:
        head = find_head(self.replica.networks[0], self.setup.training)
        if not isinstance(head, nn.Linear):
            raise CannotBegin(f"the network of {self.run.method} ends in {type(head).__name__}, not in an affine layer")
        return head.weight.detach().cpu(), head.bias.detach().cpu()  # beside features, which are kept there

    @property
    def preprocessing(self) -> Preprocessing:
        return self.replica.preprocessing(self.setup.method)

    def seen(self, name: str, replica: Replica, method: Method) -> Seen:
        """What the run makes of a split, with the labels of it that a method has declared."""
        data = replica.data
        split = replica.regrouped(name, data.train if name == "train" else data.tests[name])
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

    def compute(self, x: Inputs) -> dict[str, Tensor]:
        """Logits and features of raw inputs."""
        networks, options = self.replica.networks, self.options
        head = find_head(networks[0], self.setup.training)
        return outputs_of(networks, head, self.preprocessing, x, torch.device(options.device), options.micro_batch)


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
                        "the base has another network than this run: give both the same network fields, as "
                        "`base: {training: {width: 32}}` does"
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
    replica.trained_on = replica.regrouped(VALIDATION, split)
    rest = torch.ones(len(split.y), dtype=torch.bool)
    if replica.start.draw.rows is not None:
        rest[replica.start.draw.rows] = False
    if replica.start.draw.rows is None or not rest.any():
        return
    held_out, tests = rest.nonzero()[:, 0], replica.data.tests
    tests = tests | {name: tests[name].take(held_out) for name in (VALIDATION, INFERRED) if name in tests}
    replica.data = replace(replica.data, tests=tests)


def freeze_base(replica: Replica, look: Look) -> None:
    """Let the replica train on the base's features of its data."""

    def features(name: str, split: Split) -> Tensor:
        found = look.outputs(VALIDATION if name == INFERRED else name)["features"]
        return found if split.index is None else found[split.index]

    if replica.trained_on is not None:
        replica.trained_on = replace(replica.trained_on, x=features(VALIDATION, replica.trained_on))
    base = look.replica
    frozen = base.frozen or frozen_network(base, look.setup.training, look.preprocessing)
    freeze(replica, replace(frozen, data=replica.frozen.data if replica.frozen else replica.data), features)
