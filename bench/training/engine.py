"""The training loop: R replicas (seeds) of one cell, one loss, exact gradients from micro-batches.

Axes in names: R replicas, B examples of the batch, b of a micro-batch, C classes.
A step forwards micro-batches that fit the cache, joins their logits, asks the method for d loss / d logits once, and
hands each slice back to its micro-batch: exact for losses that do not split into sums over examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.before_training import Draw, class_logits
from spurbench.bench.plugins.dataset import Inputs, Training
from spurbench.bench.plugins.method import Method
from spurbench.bench.plugins.network import Networks
from spurbench.bench.plugins.training_settings import Minibatches
from spurbench.bench.training.batching import (
    Batches,
    FullBatch,
    MicroBatch,
    MiniBatch,
    prefers_channels_last,
)
from spurbench.bench.training.execution import BIG_GPU_STEP, Options
from spurbench.bench.training.forward import OneLogit, Tensors
from spurbench.bench.training.losses import Losses, differentiate
from spurbench.bench.training.model import Model
from spurbench.bench.training.optimization import LossScale, Optimization, average_of
from spurbench.bench.training.replica import Replica, find_head, head_of, width_of
from spurbench.bench.training.stack import ForwardPass, Noise, ReplicaStack, has_batch_statistics, may_stack
from spurbench.bench.training.targets import Fields, Mixing, Targets, draw_examples

LOGITS = ("logits", "second_logits")  # of each network, as a loss is given them
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Step:
    """What one optimisation step saw of each replica, before its update."""

    losses: list[Tensor]  # scalars
    logits: list[Tensor]  # [B] or [B, C]
    labels: list[Tensor]  # [B]


class Observer:
    """Follows a training; this one takes no notes. Its state is saved and restored with the engine's."""

    def after_step(self, engine: Engine, step: Step) -> None:
        """Called after every optimisation step."""

    def after_training(self, engine: Engine) -> None:
        """Called once the last step is done."""

    def gives_up(self) -> bool:
        """Whether no replica is worth another step."""
        return False

    def state(self, r: int) -> dict[str, Any]:
        """The notes on one replica: tensors, numbers and strings only."""
        return {}

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from such notes on all replicas."""


class Engine:
    """R replicas in training; `state()` and `restore()` carry everything the next step depends on.

    There is one stack of replicas for each network that the method needs; the optimizer moves all of them at once.
    """

    def __init__(
        self,
        method: Method,
        training: Training,
        precision: str,
        options: Options,
        replicas: Sequence[Replica],
        observer: Observer | None = None,
        stacked: bool | None = None,  # all replicas through the network at once; None: where that pays
    ) -> None:
        self.method, self.training, self.options, self.replicas = method, training, options, replicas
        if (split := training.schedule.split) and any(split not in replica.data.tests for replica in replicas):
            raise UserError(f"average {training.schedule.average} goes by the split '{split}', which the data lack")
        self.observer = observer or Observer()
        self.step, self.seconds, self.device = 0, 0.0, torch.device(options.device)
        networks = list(zip(*(replica.networks for replica in replicas), strict=True))
        statistics = any(has_batch_statistics(network) for network in networks[0])
        if stacked is None:
            stacked = (
                may_stack(networks[0], self.device)
                and not (statistics and precision in LOW)  # vmap gives them weights in the input's type
                # in a large step one replica keeps a GPU busy; stacking would only take more memory
                and replicas[0].step_flops(method, training) < BIG_GPU_STEP
            )
        self.cut = options.accumulate and not statistics
        self.uses_features = "features" in method.needs
        heads = [[find_head(network, training) for network in networks[0]]] if self.uses_features else []
        seeds = [replica.seed for replica in replicas]
        self.noise = Noise(seeds, self.device)
        self.stacks = [
            ReplicaStack(each, self.device, stacked, LOW.get(precision), self.noise, self.cut, of_each)
            for each, of_each in zip_longest(networks, heads, fillvalue=())
        ]
        passes = range(len(self.stacks[0].passes))
        # on a CPU all at once, while the code of the loss is in cache; else activations of one at a time are kept
        apart = self.device.type != "cpu" or options.accumulate
        self.together: list[Sequence[int]] = [[i] for i in passes] if apart else [passes]
        if training.steps and not all(stack.parameters for stack in self.stacks):
            raise UserError(f"the network {training.network.name} has no parameter that requires a gradient")
        self.scale = LossScale(len(replicas), self.device) if precision == "fp16" else None
        self.overflown: Tensor | None = None  # [R] bool: whose last gradients are not finite in fp16
        parameters = [list(stack.parameters.values()) for stack in self.stacks]
        self.optimizer = Optimization(parameters, training, method.resets())
        averaged = range(len(replicas) if training.schedule.average else 0)
        self.averages = [average_of(self.stacks[0].tensors_of(r), training.schedule) for r in averaged]
        self.targets = Targets(method, replicas, self.stacks[0].passes, self.device)
        self.batches = self._make_batches()
        self.losses = Losses(
            method, replicas, stacked, self.device, self.batches.steps_per_epoch, steps=training.steps,
            outputs=1 if isinstance(networks[0][0], OneLogit) else replicas[0].data.classes,
            features=width_of(heads[0][0]) if heads else 0,
        )  # fmt: skip
        self.mixing = Mixing(method, self.losses.problems, seeds, stacked) if method.mixes() else None
        for stack in self.stacks if options.compile else ():
            stack.compile()

    def _make_batches(self) -> Batches:
        stack, data = self.stacks[0], [replace(one.data, train=one.examples) for one in self.replicas]
        channels_last = prefers_channels_last(stack.networks[0], self.device)
        preprocessing = [one.preprocessing(self.method, channels_last) for one in self.replicas]
        seeds, sampling = [replica.seed for replica in self.replicas], self.training.sampling
        if isinstance(sampling, Minibatches) and self.replicas[0].frozen:
            sampling = replace(sampling, augment=None)  # features are no images
        draws = [draw_examples(self.method, replica) for replica in self.replicas]
        if isinstance(sampling, Minibatches) or self.method.mixes() or any(draw != Draw() for draw in draws):
            chosen = sampling if isinstance(sampling, Minibatches) else Minibatches()
            return MiniBatch(data, stack.passes, preprocessing, self.device, chosen, seeds, draws)
        rows = self.options.micro_batch * 4 // stack.dtype.itemsize  # as many bytes in bf16
        if has_batch_statistics(stack.networks[0]):  # they need all of the batch
            rows = len(data[0].train.y)
        plain = stack.matrices is not None
        return FullBatch(data, stack.passes, preprocessing, self.device, rows, stack.dtype, plain, stack.skips_zeros)

    def train(self, before_step: Callable[[Engine], None] = lambda engine: None, until: int | None = None) -> None:
        """Train to the last step, or `until` an earlier one; `before_step` is called before each, may raise to stop."""
        started = time.perf_counter() - self.seconds
        last = self.training.steps if until is None else until
        with kernels_for(self.training.batch):
            while self.step < last and not self.observer.gives_up():
                self.seconds = time.perf_counter() - started
                before_step(self)
                step = self.update()
                self.observer.after_step(self, step)
        self.seconds = time.perf_counter() - started
        self.observer.after_training(self)

    @torch.no_grad()
    def update(self) -> Step:
        """One optimisation step of every replica."""
        inputs = self.batches.micro_batches(self.step)
        targets = self.targets.at(self.step, self.batches.rows(self.step))
        if self.mixing is not None:
            inputs, targets = self.mixing.mix(self.step, inputs, targets)
        if self.cut:
            size, axis = self.options.micro_batch, self.stacks[0].axis
            inputs = [[part for one in parts for part in one.cut(size, axis)] for parts in inputs]
        step = self._set_gradients(inputs, targets)
        if self.training.schedule.sam:
            with self.losses.unchanged(), self._uphill(self.training.schedule.sam):
                self._set_gradients(inputs, targets)
        self.optimizer.step(self.overflown)
        if self.scale and self.overflown is not None:
            self.scale.adapt(self.overflown)
        self.step += 1
        schedule = self.training.schedule
        looks = schedule.split and schedule.evaluate and self.step % schedule.evaluate == 0
        for r, average in enumerate(self.averages):
            average.follow(self.step)
            if looks:
                average.look(self.step, self._held_out_loss(r))
        return step

    def _set_gradients(self, inputs: list[list[MicroBatch]], targets: list[Fields]) -> Step:
        """Set the gradients of a batch at the parameters as they are."""
        for stack in self.stacks:
            stack.begin_step()
        losses, logits = list[Tensor](), list[Tensor]()
        for passes in self.together:
            found = self._forward_and_back(passes, inputs, targets)
            losses += found[0]
            logits += found[1]
        for stack in self.stacks:
            stack.end_step()
        if self.scale:
            self.overflown = self.scale.unscale([g for stack in self.stacks for g in stack.gradients.values()])
        weight_penalty = self.method.weight_penalty(self.step)
        for stack in self.stacks if weight_penalty else ():
            for name, gradient in stack.gradients.items():
                gradient.add_(stack.parameters[name], alpha=2 * weight_penalty)
        return Step(losses, self._by_replica(logits), self._by_replica([of_pass["y"] for of_pass in targets]))

    def _forward_and_back(
        self, passes: Sequence[int], inputs: list[list[MicroBatch]], targets: list[Fields]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Some passes through all networks; their losses, and logits of the first network."""
        done = [[stack.forward(i, inputs[i]) for stack in self.stacks] for i in passes]
        outputs = [self._outputs_of(own) for own in done]
        with torch.enable_grad():
            each = [self.losses(i, targets[i], own, self.step) for i, own in zip(passes, outputs, strict=True)]
        losses = [loss for of_pass in each for loss in of_pass]
        for i, own, slopes in zip(passes, done, differentiate(losses, outputs), strict=True):
            self._pull_back(i, own, slopes)
        return [loss.detach() for loss in losses], [own["logits"].detach() for own in outputs]

    def _outputs_of(self, done: list[ForwardPass]) -> Tensors:
        """What the loss is a function of, under its names in a `Batch`; the method's graph begins there."""
        found = dict(zip(LOGITS, (of_network.logits() for of_network in done), strict=False))
        if self.uses_features:
            found["features"] = done[0].features()
        return {name: output.requires_grad_() for name, output in found.items()}

    def _pull_back(self, i: int, done: list[ForwardPass], slopes: Tensors) -> None:
        """Set the gradients of a pass, given those with respect to its outputs."""
        if self.scale:
            slopes = {name: self.scale.scale(slope, self.stacks[0].passes[i]) for name, slope in slopes.items()}
        for stack, own, name in zip(self.stacks, done, LOGITS, strict=False):
            stack.backward(i, own, slopes[name], slopes.get("features") if stack is self.stacks[0] else None)

    @contextmanager
    def _uphill(self, distance: float) -> Iterator[None]:
        """Inside the block each replica's parameters stand `distance` up its gradient, as SAM has it."""
        pairs = [(p, stack.gradients[name]) for stack in self.stacks for name, p in stack.parameters.items()]
        before = [p.clone() for p, _ in pairs]
        squares = sum(g.flatten(1).square().sum(1) for _, g in pairs)
        assert isinstance(squares, Tensor)
        scale = distance / (squares.sqrt() + 1e-12)  # [R]
        for p, g in pairs:
            p.add_(g * scale.view(-1, *[1] * (g.ndim - 1)))
        yield
        for (p, _), own in zip(pairs, before, strict=True):
            p.copy_(own)

    def _by_replica(self, tensors: list[Tensor]) -> list[Tensor]:
        """What each pass has, replica by replica."""
        return list(tensors[0]) if self.stacks[0].stacked else tensors

    def _held_out_loss(self, r: int) -> float:
        """The mean cross-entropy of a replica, as it is and not averaged, on the split that the schedule looks at."""
        split = self.replicas[r].data.tests[str(self.training.schedule.split)]
        logits = self.model(r, averaged=False).score(split.x)
        return cross_entropy(class_logits(logits), split.y).item()

    def model(self, r: int, averaged: bool = True) -> Model:
        """Replica `r` with the parameters of the moment, averaged where they are scored so, to be evaluated."""
        replica, stack = self.replicas[r], self.stacks[0]
        parameters, function = stack.parameters_of(r), stack.function(r)
        if averaged and self.averages:
            parameters = self.averages[r].means
            function = partial(call, stack.networks[r], parameters)
        return Model(
            replica.seed, replica.data, stack.networks[r], parameters, function, self.batches.preprocessing[r],
            self.device, self.options.micro_batch,
        )  # fmt: skip

    def networks(self, r: int) -> Networks:
        """Parameters and buffers of the networks of a replica, the first one's averaged where they are scored so."""
        found: Networks = [stack.state(r) for stack in self.stacks]
        means = self.averages[r].means if self.averages else {}
        for kind, tensors in found[0].items():
            found[0][kind] = {name: means.get(name, tensor) for name, tensor in tensors.items()}
        return found

    def whole_model(self, r: int) -> Model:
        """The same, from the dataset's own inputs also where the replica is a last layer on features."""
        replica, model = self.replicas[r], self.model(r)
        if (frozen := replica.frozen) is None:
            return model
        network = frozen.with_head(*head_of(model.network, model.parameters)).to(self.device)
        parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
        return Model(replica.seed, frozen.data, network, parameters, network, frozen.preprocessing, self.device,
                     self.options.micro_batch)  # fmt: skip

    def is_finite(self, r: int) -> bool:
        """Whether every parameter of a replica is a number."""
        each = [p[r].isfinite().all() for stack in self.stacks for p in stack.parameters.values()]
        return bool(torch.stack(each).all())

    def state(self, r: int) -> dict[str, Any]:
        """All that the rest of one replica's run depends on: tensors, numbers and strings only."""
        return {
            "step": self.step,
            "seconds": self.seconds / len(self.replicas),
            "networks": [stack.state(r) for stack in self.stacks],
            "optimizer": self.optimizer.state(r),
            "average": self.averages[r].state() if self.averages else {},
            "method": self.losses.state(r),
            "progress": self.observer.state(r),
            "scale": self.scale.state(r) if self.scale else None,
            "random": self.noise.states[r][0],
            "cuda_random": self.noise.states[r][1],
        }

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from a `state()` of each of the same replicas, all of one step, under the same options."""
        self.step, self.seconds = states[0]["step"], sum(state["seconds"] for state in states)
        for r, state in enumerate(states):
            for stack, saved in zip(self.stacks, state["networks"], strict=True):
                stack.restore(r, saved)
        for average, state in zip(self.averages, states, strict=False):
            average.restore(state["average"])
        self.optimizer.restore([state["optimizer"] for state in states])
        if self.scale:
            self.scale.restore([state["scale"] for state in states])
        self.losses.restore([state["method"] for state in states])
        self.observer.restore([state["progress"] for state in states])
        self.noise.restore([(state["random"], state["cuda_random"]) for state in states])


def call(network: nn.Module, tensors: dict[str, Tensor], x: Inputs) -> Tensor:
    """Logits of a network with these parameters and buffers."""
    found: Tensor = functional_call(network, tensors, (x,))
    return found


@contextmanager
def kernels_for(batch: int | None) -> Iterator[None]:
    """For single images the CPU's plain convolutions are 1.6 × as fast as oneDNN's; for more than two, slower."""
    torch._C._set_mkldnn_enabled(batch != 1)  # the public switch also sets TF32, with a warning
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)
