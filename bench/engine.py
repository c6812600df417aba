"""The training loop: R replicas (seeds) of one cell, one loss, exact gradients from micro-batches.

Axes in names: R replicas, B examples of the batch, b of a micro-batch, C classes.
A step forwards micro-batches that fit the cache, joins their logits, asks the method for d loss / d logits once, and
hands each slice back to its micro-batch: exact for losses that do not split into sums over examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spurbench.bench import network as networks
from spurbench.bench import optimizer as optimizers
from spurbench.bench.dataset import Data, Dataset, Split, Training
from spurbench.bench.job import Options
from spurbench.bench.method import Batch, Method, Problem
from spurbench.bench.record import fingerprint

Leaves = dict[str, Tensor]
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Seed:
    """One replica before training: its data and its networks (two where the method needs a second)."""

    seed: int
    data: Data
    networks: list[nn.Module]


def prepare(dataset: Dataset, method: Method, training: Training, seed: int) -> Seed:
    """Draw data and networks of one seed; every method gets the same data and the same first weights."""

    def build(x: Tensor) -> nn.Module:
        outputs = 1 if classes == 2 else classes
        return networks.build(method.transform(x[:1]).shape[1:], outputs, training)

    classes = getattr(dataset, "classes", 2)
    data, network = dataset.load(seed, build)
    found = [network]
    if "second network" in method.needs:
        torch.manual_seed(stream(seed, "second network"))
        found.append(build(data.train.x))
    torch.manual_seed(stream(seed, "training"))  # dropout
    return Seed(seed, data, found)


def stream(seed: int, name: str) -> int:
    """The seed of a named random stream."""
    return int(fingerprint([seed, name])[:15], 16)


def pixels(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inputs as the network takes them: bytes are scaled to [0, 1]."""
    return (x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x).to(dtype)


Lane = int | slice
"""What passes through the network at once: one replica (its index on the axis R), or all of them (slice(None))."""


@dataclass
class Chunk:
    """A micro-batch: inputs [b, ...] or [R, b, ...] and, where all other columns are zero, the live ones."""

    x: Tensor
    live: slice | None = None


@dataclass
class Engine:
    """R replicas in training; `state()` and `restore()` carry everything the next step depends on.

    Parameters, gradients, labels and the method's state always have the axis R. On a CPU the replicas pass through
    the network one by one, so that their activations stay in cache; on a GPU they pass as one stack. The loss and the
    optimizer's step are taken for all of them at once.
    """

    method: Method
    training: Training
    precision: str
    options: Options
    seeds: list[Seed]
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    diverged: dict[int, int] = field(default_factory=dict)  # seed → step
    stacked: bool | None = None  # all replicas through the network at once; None: on a GPU, not on a CPU

    def __post_init__(self) -> None:
        self.device, self.dtype = torch.device(self.options.device), DTYPES[self.precision]
        if self.stacked is None:
            self.stacked = self.device.type != "cpu" and len(self.seeds) > 1
        self.lanes: list[Lane] = [slice(None)] if self.stacked else list(range(len(self.seeds)))
        self.axis = 1 if self.stacked else 0  # of the examples in a lane's logits
        self.skeletons = [network.to(self.device).train() for network in self.seeds[0].networks]
        self.first = networks.first_layer(self.skeletons[0])
        self.masters = [self._gather(i) for i in range(len(self.skeletons))]
        self.buffers = [dict(network.named_buffers()) for network in self.skeletons]
        if len(self.seeds) > 1 and any(self.buffers):
            raise ValueError("networks with buffers train one seed at a time")
        self.optimizer = optimizers.make(list(self._parameters()), self.training)
        self.targets = self._targets()
        self.problems = [problem_of(s.data, self.method, self.device) for s in self.seeds]
        counts = [p.group_counts for p in self.problems if p.group_counts is not None]
        self.known = {"group_counts": torch.stack(counts)} if counts else {}
        self.views = [self._by_lane(masters) for masters in self.masters]
        self.grads = [self._by_lane({n: present(p.grad, "gradient") for n, p in m.items()}) for m in self.masters]
        self.chunks = [self._chunks(lane) for lane in self.lanes]
        states = [self.method.init_state(problem) for problem in self.problems]
        self.method_state = {name: self._stack([s[name] for s in states]) for name in states[0]}

    # ---- set-up -------------------------------------------------------------------------------------------------

    def _stack(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).to(self.device)

    def _gather(self, i: int) -> Leaves:
        """Parameters of network `i` of every seed, [R, ...] each, with room for their gradients."""
        found = [dict(s.networks[i].named_parameters()) for s in self.seeds]
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

    def _chunks(self, lane: Lane) -> list[Chunk]:
        """The training inputs of a lane as the network takes them, cut into micro-batches once for all steps."""
        rows = len(self.seeds[0].data.train.y)
        size = rows if any(self.buffers) else self.options.micro_batch  # batch statistics need the whole batch
        return [self._chunk(lane, slice(at, at + size)) for at in range(0, rows, size)]

    def _chunk(self, lane: Lane, rows: slice) -> Chunk:
        chosen = self.seeds[lane] if isinstance(lane, slice) else [self.seeds[lane]]
        inputs = [self.method.transform(pixels(s.data.train.x[rows].to(self.device))) for s in chosen]
        x = torch.stack(inputs) if isinstance(lane, slice) else inputs[0]
        if self.first is None:
            return Chunk(x.to(self.dtype))
        x = x.flatten(2 if isinstance(lane, slice) else 1)
        columns = x.reshape(-1, x.shape[-1]).any(0).nonzero()[:, 0]
        live = slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0, 1)
        whole = live == slice(0, x.shape[-1])
        return Chunk(x[..., live].to(self.dtype).contiguous(), None if whole else live)

    # ---- one step -----------------------------------------------------------------------------------------------

    def forward(self, i: int, leaves: Leaves, chunk: Chunk) -> tuple[Tensor, networks.Pullback]:
        """Logits of network `i` and the way back; columns of its first layer that meet only zeros are left out."""
        if self.first is not None and chunk.live is not None:
            leaves = leaves | {self.first: leaves[self.first][..., chunk.live]}
        return networks.forward(self.skeletons[i], leaves, self.buffers[i], chunk.x, self.axis == 1)

    def loss(self, logits: Tensor, second: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The method's loss, [R], and its next state; `logits` and `second` are [R, B] or [R, B, C]."""
        fields = self.targets | ({} if second is None else {"second_logits": second})

        def one(z: Tensor, fields: Leaves, state: Leaves, known: Leaves) -> tuple[Tensor, Leaves]:
            problem, state = Problem(**(vars(self.problems[0]) | known)), dict(state)
            loss = self.method.loss(z, Batch(problem=problem, **fields), state, self.step)
            if loss.ndim:
                name, shape = type(self.method).__name__, tuple(loss.shape)
                raise ValueError(f"{name}.loss gave a tensor of shape {shape}; it must be a scalar")
            return loss, state

        arguments = (fields, self.method_state, self.known)
        if len(self.seeds) > 1 and self.method.stackable:
            lifted: tuple[Tensor, Leaves] = vmap(one)(logits, *arguments)
            return lifted
        each = [one(z, *({n: t[r] for n, t in a.items()} for a in arguments)) for r, z in enumerate(logits)]
        return torch.stack([x for x, _ in each]), {n: torch.stack([s[n] for _, s in each]) for n in each[0][1]}

    def update(self) -> Tensor:
        """One optimisation step; the loss before it, [R]."""
        with torch.no_grad():
            passes = [
                [[self.forward(i, own, chunk) for chunk in self.chunks[at]] for at, own in enumerate(lanes)]
                for i, lanes in enumerate(self._leaves())
            ]
        logits = [joined(lanes, self.stacked).float().requires_grad_() for lanes in passes]
        loss, state = self.loss(logits[0], logits[1] if len(logits) > 1 else None)
        slopes = torch.autograd.grad(loss.sum(), logits, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for i, (lanes, slope) in enumerate(zip(passes, slopes, strict=True)):
                self._backward(i, lanes, slope)
        self.optimizer.step()
        self.method_state = {name: value.detach() for name, value in state.items()}
        self.logits = logits[0].detach()
        self.step += 1
        return loss.detach()

    def _backward(self, i: int, lanes: list[list[tuple[Tensor, networks.Pullback]]], slope: Tensor) -> None:
        """Hand each micro-batch its slice of d loss / d logits; gradients are summed in float32."""
        penalty = self.method.weight_penalty(self.step)
        for master in self.masters[i].values():
            grad = present(master.grad, "gradient")
            torch.mul(master, 2 * penalty, out=grad) if penalty else grad.zero_()
        for r, (parts, grads, chunks) in enumerate(zip(lanes, self.grads[i], self.chunks, strict=True)):
            slices = torch.split(slope[self.lanes[r]].to(self.dtype), [z.shape[self.axis] for z, _ in parts], self.axis)
            for chunk, (_, pullback), piece in zip(chunks, parts, slices, strict=True):
                found = pullback(piece)
                if self.first is not None and chunk.live is not None:
                    grads[self.first][..., chunk.live].add_(found.pop(self.first))
                torch._foreach_add_([grads[name] for name in found], list(found.values()))

    def _parameters(self) -> Iterator[Tensor]:
        for masters in self.masters:
            yield from masters.values()

    def _leaves(self) -> list[list[Leaves]]:
        """The parameters of each network and lane in the precision of the forward pass."""
        if self.dtype == torch.float32:
            return self.views
        return [self._by_lane({name: p.to(self.dtype) for name, p in masters.items()}) for masters in self.masters]

    # ---- the run ------------------------------------------------------------------------------------------------

    def train(self, watch: Callable[[Engine], None]) -> None:
        """Train to the last step; `watch` is called before every step and may raise to stop."""
        every = max(1, self.training.steps // self.options.history)
        started, before = time.perf_counter(), self.seconds
        while self.step < self.training.steps and len(self.diverged) < len(self.seeds):
            self.seconds = before + time.perf_counter() - started
            watch(self)
            at = self.step
            loss = self.update()
            if at % every == 0:
                self.note(at, loss)
        self.seconds = before + time.perf_counter() - started
        for r, s in enumerate(self.seeds):
            if not all(p[r].isfinite().all() for p in self._parameters()):
                self.diverged.setdefault(s.seed, self.step)

    def note(self, step: int, loss: Tensor) -> None:
        """Add a point to the learning curve of each replica, and notice those that have diverged; `loss` is [R]."""
        for r, s in enumerate(self.seeds):
            if not loss[r].isfinite():
                self.diverged.setdefault(s.seed, step)
                continue
            point: dict[str, Any] = {"seed": s.seed, "step": step, "loss": loss[r].item()}
            point["train_accuracy"] = accuracy(self.logits[r], s.data.train)
            for name in ["test"] if "test" in s.data.tests else []:
                point[f"{name}_accuracy"] = accuracy(self.score(r)(s.data.tests[name].x), s.data.tests[name])
            self.history.append(point)

    def score(self, r: int) -> Callable[[Tensor], Tensor]:
        """Logits of replica `r` for raw inputs, float32, evaluation mode, on the CPU."""
        leaves = {name: p[r] for name, p in self.masters[0].items()} | self.buffers[0]

        @torch.no_grad()
        def logits(x: Tensor) -> Tensor:
            self.skeletons[0].eval()
            parts = [self._score_part(leaves, part) for part in torch.split(x, self.options.micro_batch)]
            self.skeletons[0].train()
            return torch.cat(parts).cpu()

        return logits

    def _score_part(self, leaves: Leaves, x: Tensor) -> Tensor:
        out: Tensor = functional_call(self.skeletons[0], leaves, (self.method.transform(pixels(x.to(self.device))),))
        return out

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors, numbers and strings only."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "diverged": self.diverged,
            "masters": self.masters,
            "buffers": self.buffers,
            "optimizer": self.optimizer.state(),
            "method": self.method_state,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state()` of the same runs under the same options."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.history, self.diverged = state["history"], state["diverged"]
        with torch.no_grad():
            for own, saved in zip(self.masters + self.buffers, state["masters"] + state["buffers"], strict=True):
                for name, value in saved.items():
                    own[name].copy_(value)
        self.optimizer.restore(**state["optimizer"])
        self.method_state = {name: value.to(self.device) for name, value in state["method"].items()}
        torch.set_rng_state(state["random"].cpu())
        if state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"].cpu(), self.device)


def joined(lanes: list[list[tuple[Tensor, networks.Pullback]]], stacked: bool | None) -> Tensor:
    """Logits of all micro-batches and lanes as one tensor [R, B] or [R, B, C]."""
    if stacked:
        return torch.cat([z for z, _ in lanes[0]], 1)
    return torch.stack([torch.cat([z for z, _ in parts]) for parts in lanes])


def accuracy(logits: Tensor, split: Split) -> float:
    right = (logits > 0).long() if logits.ndim == 1 else logits.argmax(-1)
    return (right.cpu() == split.y).double().mean().item()


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
