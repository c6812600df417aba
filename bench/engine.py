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
from torch.func import functional_call, vmap

from spurbench.bench import evaluate
from spurbench.bench import network as networks
from spurbench.bench import optimizer as optimizers
from spurbench.bench.dataset import Data, Dataset, Training
from spurbench.bench.errors import UserError
from spurbench.bench.inputs import Batches, Chunk, Lane, Mini, Pixels, Whole, stream
from spurbench.bench.job import Options
from spurbench.bench.method import Batch, Method, Problem

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

    classes = getattr(dataset, "classes", 2)
    if training.logits not in (None, classes, 1 if classes == 2 else None):
        needed = "2, or 1" if classes == 2 else f"{classes}"
        raise UserError(f"training.logits is {training.logits}; {classes} classes need {needed}")
    data, network = dataset.load(seed, build)
    found = [network]
    if "second network" in method.needs:
        torch.manual_seed(stream(seed, "second network"))
        found.append(build(data.train.x))
    torch.manual_seed(stream(seed, "training"))  # dropout
    return Seed(seed, data, found)


@dataclass
class Engine:
    """R replicas in training; `state()` and `restore()` carry everything the next step depends on.

    Parameters, gradients and the method's state always have the axis R. On a CPU, or with batch statistics, the
    replicas pass through networks of their own, one by one, so that their activations stay in cache; on a GPU they pass
    as one stack. The loss and the optimizer's step are taken for all of them at once.
    """

    method: Method
    training: Training
    precision: str
    options: Options
    seeds: list[Seed]
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)  # counts on the held-out splits along the way
    diverged: dict[int, int] = field(default_factory=dict)  # seed → step
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
        self.problems = [problem_of(s.data, self.method, self.device) for s in self.seeds]
        counts = [p.group_counts for p in self.problems if p.group_counts is not None]
        self.known = {"group_counts": torch.stack(counts)} if counts else {}
        self.views = [self._by_lane(masters) for masters in self.masters]
        self.grads = [self._by_lane({n: present(p.grad, "gradient") for n, p in m.items()}) for m in self.masters]
        side_by_side = networks.prefers_channels_last(self.networks[0][0], self.device)
        self.pixels = [Pixels(self.method.transform, s.data.mean, s.data.std, side_by_side) for s in self.seeds]
        self.batches = self._batches(buffers)
        states = [self.method.init_state(problem) for problem in self.problems]
        self.method_state = {name: self._stack([s[name] for s in states]) for name in states[0]}

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
        if self.training.batch is None:
            rows = self.options.micro_batch * 4 // self.dtype.itemsize  # as many bytes in bf16
            size = len(data[0].train.y) if buffers else rows  # batch statistics need all of it
            return Whole(data, self.lanes, pixels, self.device, size, self.dtype, self.first is not None)
        return Mini(data, self.lanes, pixels, self.device, self.training, [s.seed for s in self.seeds])

    # ---- one step -----------------------------------------------------------------------------------------------

    def forward(self, i: int, lane: int, leaves: Leaves, chunk: Chunk) -> tuple[Tensor, networks.Pullback]:
        """Logits of network `i` and the way back; columns of its first layer that meet only zeros are left out."""
        if self.first is not None and chunk.live is not None:
            leaves = leaves | {self.first: leaves[self.first][..., chunk.live]}
        x = chunk.x.to(self.dtype)
        return networks.forward(self.networks[lane][i], leaves, x, self.axis == 1, self.amp)

    def loss(self, targets: Leaves, logits: Tensor, second: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The method's loss, [R], and its next state; `logits` and `second` are [R, B] or [R, B, C]."""
        fields = targets | ({} if second is None else {"second_logits": second})

        def one(z: Tensor, fields: Leaves, state: Leaves, known: Leaves) -> tuple[Tensor, Leaves]:
            problem, state = Problem(**(vars(self.problems[0]) | known)), dict(state)
            loss = self.method.loss(z, Batch(problem=problem, **fields), state, self.step)
            if not isinstance(loss, Tensor) or loss.ndim:
                what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
                raise ValueError(f"{type(self.method).__name__}.loss gave {what}; it must be a scalar tensor")
            return loss, state

        arguments = (fields, self.method_state, self.known)
        if len(self.seeds) > 1 and self.method.stackable:
            lifted: tuple[Tensor, Leaves] = vmap(one)(logits, *arguments)
            return lifted
        each = [one(z, *({n: t[r] for n, t in a.items()} for a in arguments)) for r, z in enumerate(logits)]
        return torch.stack([x for x, _ in each]), {n: torch.stack([s[n] for _, s in each]) for n in each[0][1]}

    def update(self) -> Tensor:
        """One optimisation step; the loss before it, [R]."""
        rows, chunks = self.batches.rows(self.step), self.batches.chunks(self.step)
        targets = self.targets if rows is None else {n: t.gather(1, rows.to(t.device)) for n, t in self.targets.items()}
        with torch.no_grad():
            passes = [
                [[self.forward(i, at, own, chunk) for chunk in chunks[at]] for at, own in enumerate(lanes)]
                for i, lanes in enumerate(self._leaves())
            ]
        logits = [joined(lanes, self.stacked).float().requires_grad_() for lanes in passes]
        loss, state = self.loss(targets, logits[0], logits[1] if len(logits) > 1 else None)
        slopes = torch.autograd.grad(loss.sum(), logits, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for i, (lanes, slope) in enumerate(zip(passes, slopes, strict=True)):
                self._backward(i, lanes, chunks, slope)
        self.optimizer.step()
        self.method_state = {name: value.detach() for name, value in state.items()}
        self.shown = logits[0].detach(), targets["y"]
        self.step += 1
        return loss.detach()

    def _backward(self, i: int, lanes: list[Passes], chunks: list[list[Chunk]], slope: Tensor) -> None:
        """Hand each micro-batch its slice of d loss / d logits; gradients are summed in float32."""
        penalty = self.method.weight_penalty(self.step)
        for master in self.masters[i].values():
            grad = present(master.grad, "gradient")
            torch.mul(master, 2 * penalty, out=grad) if penalty else grad.zero_()
        for r, (parts, grads, inputs) in enumerate(zip(lanes, self.grads[i], chunks, strict=True)):
            slices = torch.split(slope[self.lanes[r]].to(self.dtype), [z.shape[self.axis] for z, _ in parts], self.axis)
            # backwards: the last micro-batches are still in cache
            for chunk, (z, pullback), piece in reversed(list(zip(inputs, parts, slices, strict=True))):
                found = pullback(piece.to(z.dtype))
                if not found:  # they are in the parameters' own .grad
                    continue
                if self.first is not None and chunk.live is not None:
                    grads[self.first][..., chunk.live].add_(found.pop(self.first))
                torch._foreach_add_([grads[name] for name in found], list(found.values()))

    def _parameters(self) -> Iterator[Tensor]:
        for masters in self.masters:
            yield from masters.values()

    def _buffers(self) -> list[Leaves]:
        """Batch statistics and the like, network by network; only replicas with networks of their own have them."""
        return [dict(network.named_buffers()) for own in self.networks for network in own]

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
        for r, s in enumerate(self.seeds):
            if not all(p[r].isfinite().all() for p in self._parameters()):
                self.diverged.setdefault(s.seed, self.step)

    def _train(self, watch: Callable[[Engine], None]) -> None:
        every = max(1, self.training.steps // self.options.history)
        started, before = time.perf_counter(), self.seconds
        while self.step < self.training.steps and len(self.diverged) < len(self.seeds):
            self.seconds = before + time.perf_counter() - started
            watch(self)
            at = self.step
            loss = self.update()
            if at % every == 0:
                self.note(at, loss)
            if self.training.evaluate and self.step % self.training.evaluate == 0:
                self.look()
        self.seconds = before + time.perf_counter() - started

    def note(self, step: int, loss: Tensor) -> None:
        """Add a point to the learning curve of each replica, and notice those that have diverged; `loss` is [R]."""
        for r, s in enumerate(self.seeds):
            if not loss[r].isfinite():
                self.diverged.setdefault(s.seed, step)
                continue
            point: dict[str, Any] = {"seed": s.seed, "step": step, "loss": loss[r].item()}
            logits, y = self.shown
            point["train_accuracy"] = accuracy(logits[r], y[r])  # of the step's batch
            if "test" in s.data.tests and not self.training.evaluate:
                point["test_accuracy"] = accuracy(self.score(r)(s.data.tests["test"].x), s.data.tests["test"].y)
            self.history.append(point)

    def look(self) -> None:
        """Count right answers on every held-out split, so that a rule may choose a step afterwards."""
        for r, s in enumerate(self.seeds):
            score = self.score(r)
            splits = {name: evaluate.count(score(split.x), split, s.data) for name, split in s.data.tests.items()}
            self.looks.append({"seed": s.seed, "step": self.step, "splits": splits})

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

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors, numbers and strings only."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "looks": self.looks,
            "diverged": self.diverged,
            "masters": self.masters,
            "buffers": self._buffers(),
            "optimizer": self.optimizer.state(),
            "method": self.method_state,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state()` of the same runs under the same options."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.history, self.looks, self.diverged = state["history"], state["looks"], state["diverged"]
        with torch.no_grad():
            everything = state["masters"] + state["buffers"]
            for own, saved in zip(self.masters + self._buffers(), everything, strict=True):
                for name, value in saved.items():
                    own[name].copy_(value)
        self.optimizer.restore(**state["optimizer"])
        self.method_state = {name: value.to(self.device) for name, value in state["method"].items()}
        torch.set_rng_state(state["random"].cpu())
        if state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"].cpu(), self.device)


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


def joined(lanes: list[Passes], stacked: bool | None) -> Tensor:
    """Logits of all micro-batches and lanes as one tensor [R, B] or [R, B, C]."""
    if stacked:
        return torch.cat([z for z, _ in lanes[0]], 1)
    return torch.stack([torch.cat([z for z, _ in parts]) for parts in lanes])


def accuracy(logits: Tensor, y: Tensor) -> float:
    return (evaluate.predictions(logits).cpu() == y.cpu()).double().mean().item()


def present(value: Tensor | None, what: str) -> Tensor:
    if value is None:
        raise ValueError(f"the dataset gives no {what}")
    return value


def problem_of(data: Data, method: Method, device: torch.device) -> Problem:
    """What the method is told of the training set: group counts and environments only if declared."""
    groups = None
    if "groups" in method.needs:
        groups = data.train.group(data.attributes).bincount(minlength=len(data.groups)).to(device)
    environments = data.environments if "environments" in method.needs else 0
    return Problem(len(data.train.y), data.classes, environments, groups, device)
