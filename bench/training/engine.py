"""The training loop: R replicas (seeds) of one cell, one loss, exact gradients from micro-batches.

Axes in names: R replicas, B examples of the batch, b of a micro-batch, C classes.
A step forwards micro-batches that fit the cache, joins their logits, asks the method for d loss / d logits once, and
hands each slice back to its micro-batch: exact for losses that do not split into sums over examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spurbench.bench.checks import data_checks
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.seeds import stream
from spurbench.bench.evaluation import counting
from spurbench.bench.plugins.dataset import Data, Dataset, Split, Training
from spurbench.bench.plugins.method import Method
from spurbench.bench.plugins.training_settings import Minibatches
from spurbench.bench.training import forward as networks
from spurbench.bench.training import optimizers as optimizers
from spurbench.bench.training.batching import Batches, Chunk, Lane, Mini, Pixels, Whole
from spurbench.bench.training.execution import Options
from spurbench.bench.training.losses import Losses

Leaves = dict[str, Tensor]
Passes = list[tuple[Tensor, networks.Pullback]]
"""What came out of a lane's micro-batches: logits and the way back."""


@dataclass
class Seed:
    """One replica before training: its data and its networks (two where the method needs a second)."""

    seed: int
    data: Data
    networks: list[nn.Module]


def prepare(dataset: Dataset, method: Method, training: Training, seed: int) -> Seed:
    """Draw data and networks of one seed; every method gets the same data and the same first weights."""

    def build(x: Tensor) -> nn.Module:
        outputs = training.logits or (1 if classes == 2 else classes)
        return networks.build(method.transform(x[:1]).shape[1:], outputs, training)

    classes = data_checks.declared_classes(dataset)
    if training.logits not in (None, classes, 1 if classes == 2 else None):
        needed = "2, or 1" if classes == 2 else f"{classes}"
        raise UserError(f"training.logits is {training.logits}; {classes} classes need {needed}")
    data, network = data_checks.kept(dataset.load(seed, build), dataset, method, seed)
    found = [network]
    if "second network" in method.needs:
        torch.manual_seed(stream(seed, "second network"))
        found.append(build(data.train.x))
    torch.manual_seed(stream(seed, "training"))  # dropout
    return Seed(seed, data, found)


@dataclass
class Progress:
    """What has been noted of one replica on its way."""

    history: list[dict[str, Any]] = field(default_factory=list)  # points of the learning curve
    looks: list[dict[str, Any]] = field(default_factory=list)  # counts on the held-out splits
    logits: dict[str, Tensor] = field(default_factory=dict)  # of the same splits, by `split@step`
    diverged: int | None = None  # the step at which it was noticed


@dataclass
class Engine:
    """R replicas in training; `state()` and `restore()` carry everything the next step depends on.

    Parameters and gradients always have the axis R. On a CPU, or with batch statistics, the replicas pass through
    networks of their own, one by one, so that their activations stay in cache and none depends on the others; on a GPU
    they pass as one stack. The optimizer's step is taken for all of them at once.
    """

    method: Method
    training: Training
    precision: str
    options: Options
    seeds: list[Seed]
    step: int = 0
    seconds: float = 0.0
    progress: list[Progress] = field(default_factory=list)  # of each replica
    stacked: bool | None = None  # all replicas through the network at once; None: on a GPU, not on a CPU

    def __post_init__(self) -> None:
        self.device, bf16 = torch.device(self.options.device), self.precision == "bf16"
        self.networks = [[network.to(self.device).train() for network in s.networks] for s in self.seeds]
        buffers = any(True for network in self.networks[0] for _ in network.buffers())
        if self.stacked is None:
            self.stacked = self.device.type != "cpu" and len(self.seeds) > 1 and not buffers
        self.lanes: list[Lane] = [slice(None)] if self.stacked else list(range(len(self.seeds)))
        self.axis = 1 if self.stacked else 0  # of the examples in a lane's logits
        self.plain = networks.is_plain(self.networks[0][0])
        self.dtype = torch.bfloat16 if bf16 and self.plain else torch.float32  # of parameters in the forward pass
        self.amp = bf16 and not self.plain
        self.first = networks.first_layer(self.networks[0][0])
        self.masters = [self._gather(i) for i in range(len(self.networks[0]))]
        if not self.stacked:
            self._bind()
            if self.options.compile and not self.plain:
                for own in self.networks:
                    for network in own:
                        network.compile()
        self.optimizer = optimizers.make(list(self._parameters()), self.training)
        self.targets = self._targets()
        self.losses = Losses(self.method, [s.data for s in self.seeds], self.lanes, self.device)
        self.progress = [Progress() for _ in self.seeds]
        self.views = [self._by_lane(masters) for masters in self.masters]
        self.grads = [self._by_lane({n: present(p.grad, "gradient") for n, p in m.items()}) for m in self.masters]
        side_by_side = networks.prefers_channels_last(self.networks[0][0], self.device)
        self.pixels = [Pixels(self.method.transform, s.data.mean, s.data.std, side_by_side) for s in self.seeds]
        self.batches = self._batches(buffers)
        self.told = self._by_lane(self.targets)  # of every example; used where a step sees all of them

    # ---- set-up -------------------------------------------------------------------------------------------------

    def _stack(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).to(self.device)

    def _gather(self, i: int) -> Leaves:
        """Parameters of network `i` of every seed, [R, ...] each, with room for their gradients."""
        found = [dict(networks[i].named_parameters()) for networks in self.networks]
        leaves = {name: self._stack([f[name].detach() for f in found]) for name in found[0]}
        for leaf in leaves.values():
            leaf.grad = torch.zeros_like(leaf)
        return leaves

    def _by_lane(self, leaves: Leaves) -> list[Leaves]:
        """What each lane has of stacked tensors: views, so that they follow every update."""
        return [{name: leaf[lane] for name, leaf in leaves.items()} for lane in self.lanes]

    def _targets(self) -> dict[str, Tensor]:
        """What the method may see of the training set, [R, B] each: the labels and the declared needs."""
        splits, needs = [s.data.train for s in self.seeds], self.method.needs
        found = {"y": [s.y for s in splits]}
        if "environments" in needs:
            found["environment"] = [present(s.environment, "environments") for s in splits]
        if "groups" in needs:
            found["group"] = [s.data.train.group(s.data.attributes) for s in self.seeds]
        if "index" in needs:
            found["index"] = [torch.arange(len(s.y)) for s in splits]
        return {name: self._stack(values) for name, values in found.items()}

    def _bind(self) -> None:
        """Let the parameters of each replica's own networks, and their gradients, be views of the stacked ones."""
        for r, own in enumerate(self.networks):
            for network, masters in zip(own, self.masters, strict=True):
                for name, parameter in network.named_parameters():
                    master = masters[name]
                    parameter.data, parameter.grad = master[r], present(master.grad, "gradient")[r]

    def _batches(self, buffers: bool) -> Batches:
        data, pixels = [s.data for s in self.seeds], self.pixels[0]
        sampling = self.training.sampling
        if not isinstance(sampling, Minibatches):
            rows = self.options.micro_batch * 4 // self.dtype.itemsize  # as many bytes in bf16
            size = len(data[0].train.y) if buffers else rows  # batch statistics need all of it
            return Whole(data, self.lanes, pixels, self.device, size, self.dtype, self.first is not None)
        return Mini(data, self.lanes, pixels, self.device, sampling, [s.seed for s in self.seeds])

    # ---- one step -----------------------------------------------------------------------------------------------

    def forward(self, i: int, lane: int, leaves: Leaves, chunk: Chunk) -> tuple[Tensor, networks.Pullback]:
        """Logits of network `i` and the way back; columns of its first layer that meet only zeros are left out."""
        if self.first is not None and chunk.live is not None:
            leaves = leaves | {self.first: leaves[self.first][..., chunk.live]}
        x = chunk.x.to(self.dtype)
        return networks.forward(self.networks[lane][i], leaves, x, self.axis == 1, self.amp)

    def update(self) -> list[Tensor]:
        """One optimisation step; the loss of each replica before it."""
        rows, chunks = self.batches.rows(self.step), self.batches.chunks(self.step)
        told = self.told if rows is None else self._by_lane(taken(self.targets, rows))
        with torch.no_grad():
            passes = [
                [[self.forward(i, at, own, chunk) for chunk in chunks[at]] for at, own in enumerate(lanes)]
                for i, lanes in enumerate(self._leaves())
            ]
        logits = [[joined(parts, self.axis).float().requires_grad_() for parts in lanes] for lanes in passes]
        losses = self.losses(told, logits, self.step)
        leaves = [z for lanes in logits for z in lanes]
        slopes = iter(torch.autograd.grad(losses, leaves, allow_unused=True, materialize_grads=True))
        with torch.no_grad():
            for i, lanes in enumerate(passes):
                self._backward(i, lanes, chunks, [next(slopes) for _ in lanes])
        self.optimizer.step()
        self.shown = [z.detach() for z in logits[0]], [of_lane["y"] for of_lane in told]
        self.step += 1
        return [loss.detach() for loss in losses]

    def _backward(self, i: int, lanes: list[Passes], chunks: list[list[Chunk]], slopes: list[Tensor]) -> None:
        """Hand each micro-batch its slice of d loss / d logits; gradients are summed in float32."""
        penalty = self.method.weight_penalty(self.step)
        single = all(len(own) == 1 and own[0].live is None for own in chunks)
        written = single and self.plain and self.dtype == torch.float32 and not penalty  # there is nothing to add to
        for master in () if written else self.masters[i].values():
            grad = present(master.grad, "gradient")
            torch.mul(master, 2 * penalty, out=grad) if penalty else grad.zero_()
        for slope, parts, grads, inputs in zip(slopes, lanes, self.grads[i], chunks, strict=True):
            slices = cut(slope.to(self.dtype), [z for z, _ in parts], self.axis)
            # backwards: the last micro-batches are still in cache
            for chunk, (z, pullback), piece in reversed(list(zip(inputs, parts, slices, strict=True))):
                found = pullback(piece.to(z.dtype), grads if written else {})
                if not found:
                    continue
                if self.first is not None and chunk.live is not None:
                    grads[self.first][..., chunk.live].add_(found.pop(self.first))
                torch._foreach_add_([grads[name] for name in found], list(found.values()))

    def _parameters(self) -> Iterator[Tensor]:
        for masters in self.masters:
            yield from masters.values()

    def _buffers(self, r: int) -> list[Leaves]:
        """Batch statistics and the like of one replica, network by network."""
        return [dict(network.named_buffers()) for network in self.networks[r]]

    def _leaves(self) -> list[list[Leaves]]:
        """The parameters of each network and lane in the precision of the forward pass."""
        if self.dtype == torch.float32:
            return self.views
        return [self._by_lane({name: p.to(self.dtype) for name, p in masters.items()}) for masters in self.masters]

    # ---- the run ------------------------------------------------------------------------------------------------

    def train(self, watch: Callable[[Engine], None]) -> None:
        """Train to the last step; `watch` is called before every step and may raise to stop."""
        with kernels_for(self.training.batch):
            self._train(watch)
        for r, progress in enumerate(self.progress):
            if progress.diverged is None and not all(p[r].isfinite().all() for p in self._parameters()):
                progress.diverged = self.step

    def _train(self, watch: Callable[[Engine], None]) -> None:
        every = max(1, self.training.steps // self.options.history)
        started, before = time.perf_counter(), self.seconds
        while self.step < self.training.steps and any(one.diverged is None for one in self.progress):
            self.seconds = before + time.perf_counter() - started
            watch(self)
            at = self.step
            loss = self.update()
            if at % every == 0:
                self.note(at, loss)
            if self.training.evaluate and self.step % self.training.evaluate == 0:
                self.look()
        self.seconds = before + time.perf_counter() - started

    def note(self, step: int, losses: list[Tensor]) -> None:
        """Add a point to the learning curve of each replica, and notice those that have diverged."""
        for r, (progress, loss, tests) in enumerate(zip(self.progress, losses, self._tests(), strict=True)):
            if progress.diverged is not None or not loss.isfinite():
                progress.diverged = step if progress.diverged is None else progress.diverged
                continue
            logits, y = (values[0][r] if self.stacked else values[r] for values in self.shown)
            point: dict[str, Any] = {"step": step, "loss": loss.item()}
            point["train_accuracy"] = accuracy(logits, y)  # of the step's batch
            if "test" in tests and not self.training.evaluate:
                point["test_accuracy"] = accuracy(self.score(r)(tests["test"].x), tests["test"].y)
            progress.history.append(point)

    def look(self) -> None:
        """Score every held-out split, so that a rule may choose a step afterwards."""
        for r, (progress, tests) in enumerate(zip(self.progress, self._tests(), strict=True)):
            if progress.diverged is None:
                logits = {name: self.score(r)(split.x) for name, split in tests.items()}
                data = self.seeds[r].data
                counts = {name: counting.count(logits[name], split, data) for name, split in tests.items()}
                progress.looks.append({"step": self.step, "splits": counts})
                progress.logits |= {f"{name}@{self.step}": z for name, z in logits.items()}

    def _tests(self) -> list[dict[str, Split]]:
        return [s.data.tests for s in self.seeds]

    def score(self, r: int) -> Callable[[Tensor], Tensor]:
        """Logits of replica `r` for raw inputs, float32, evaluation mode, on the CPU."""
        function = self.function(r)

        @torch.no_grad()
        def logits(x: Tensor) -> Tensor:
            with evaluating(self.networks[r][0]):
                parts = torch.split(x, self.options.micro_batch)
                return torch.cat([function(self.pixels[r](part.to(self.device))).cpu() for part in parts])

        return logits

    def function(self, r: int) -> Callable[[Tensor], Tensor]:
        """Replica `r` as a function of what its network sees; call it with the network in the mode that is wanted."""
        network = self.networks[r][0]
        if not self.stacked:
            return network
        leaves = {name: p[r] for name, p in self.masters[0].items()}
        return lambda x: functional_call(network, leaves, (x,))

    def state(self, r: int) -> dict[str, Any]:
        """All that the rest of one replica's run depends on: tensors, numbers and strings only."""
        return {
            "step": self.step,
            "seconds": self.seconds / len(self.seeds),
            "progress": vars(self.progress[r]),
            "masters": [{name: p[r].clone() for name, p in masters.items()} for masters in self.masters],
            "buffers": self._buffers(r),
            "optimizer": self.optimizer.state(r),
            "method": self.losses.state(r),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from a `state()` of each of the same replicas, all of one step, under the same options."""
        self.step, self.seconds = states[0]["step"], sum(state["seconds"] for state in states)
        self.progress = [Progress(**state["progress"]) for state in states]
        with torch.no_grad():
            for r, state in enumerate(states):
                own = [{name: p[r] for name, p in masters.items()} for masters in self.masters] + self._buffers(r)
                for values, saved in zip(own, state["masters"] + state["buffers"], strict=True):
                    for name, value in saved.items():
                        values[name].copy_(value)
        self.optimizer.restore([state["optimizer"] for state in states])
        self.losses.restore([state["method"] for state in states])
        torch.set_rng_state(states[0]["random"].cpu())
        if states[0]["cuda_random"] is not None:
            torch.cuda.set_rng_state(states[0]["cuda_random"].cpu(), self.device)


@contextmanager
def kernels_for(batch: int | None) -> Iterator[None]:
    """For single pictures the CPU's plain convolutions are 1.6 × as fast as oneDNN's; for more than two, slower."""
    torch._C._set_mkldnn_enabled(batch != 1)  # the public switch also sets TF32, with a warning
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Dropout off, batch statistics as learnt."""
    network.eval()
    try:
        yield
    finally:
        network.train()


def taken(targets: Leaves, rows: Tensor) -> Leaves:
    """The rows [R, B] of targets [R, n]."""
    return {name: of.gather(1, rows.to(of.device)) for name, of in targets.items()}


def joined(parts: Passes, axis: int) -> Tensor:
    """Logits of all micro-batches of a lane as one tensor, [B] or [B, C], or with R before it."""
    return torch.cat([z for z, _ in parts], axis) if len(parts) > 1 else parts[0][0].detach()


def cut(slope: Tensor, like: Sequence[Tensor], axis: int) -> Sequence[Tensor]:
    """The slope of the joined logits, for each micro-batch its own."""
    return torch.split(slope, [z.shape[axis] for z in like], axis) if len(like) > 1 else [slope]


def accuracy(logits: Tensor, y: Tensor) -> float:
    return (counting.predictions(logits).cpu() == y.cpu()).double().mean().item()


def present(value: Tensor | None, what: str) -> Tensor:
    if value is None:
        raise ValueError(f"the dataset gives no {what}")
    return value
