"""The training loop: R replicas (seeds) of one cell, one loss, exact gradients from micro-batches.

Axes in names: R replicas, B examples of the batch, C classes. With R = 1 no axis R exists and nothing is lifted.
A step forwards micro-batches that fit the cache, joins their logits, asks the method for d loss / d logits once,
and hands each slice back to its micro-batch: exact for losses that do not split into sums over examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spurbench.bench import network as networks
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


@dataclass
class Chunk:
    """A micro-batch: inputs [R?, b, ...] and, where all other columns are zero, the live ones."""

    x: Tensor
    live: slice | None = None


@dataclass
class Engine:
    """R replicas in training; `state()` and `restore()` carry everything the next step depends on."""

    method: Method
    training: Training
    precision: str
    options: Options
    seeds: list[Seed]
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    diverged: dict[int, int] = field(default_factory=dict)  # seed → step

    def __post_init__(self) -> None:
        self.device, self.dtype = torch.device(self.options.device), DTYPES[self.precision]
        self.stacked = len(self.seeds) > 1
        self.first = networks.first_layer(self.seeds[0].networks[0])
        self.skeletons = [network.to(self.device).train() for network in self.seeds[0].networks]
        self.masters = [self._gather(i) for i in range(len(self.skeletons))]
        self.buffers = [dict(network.named_buffers()) for network in self.skeletons]
        if self.stacked and any(self.buffers):
            raise ValueError("networks with buffers train one seed at a time")
        self.optimizer = make_optimizer([p for leaves in self.masters for p in leaves.values()], self.training)
        self.targets = self._targets()
        self.problems = [problem_of(s.data, self.method, self.device) for s in self.seeds]
        self.chunks = self._chunks()
        states = [self.method.init_state(problem) for problem in self.problems]
        self.method_state = {name: self._stack([s[name] for s in states]) for name in states[0]}

    # ---- set-up -------------------------------------------------------------------------------------------------

    def _stack(self, tensors: Sequence[Tensor]) -> Tensor:
        return (torch.stack(list(tensors)) if self.stacked else tensors[0]).to(self.device)

    def _gather(self, i: int) -> Leaves:
        found = [dict(s.networks[i].named_parameters()) for s in self.seeds]
        return {name: self._stack([f[name].detach() for f in found]).clone().requires_grad_() for name in found[0]}

    def _targets(self) -> dict[str, Tensor]:
        """What the method may see of the training set, [R?, B] each: the declared needs and the labels."""
        splits, needs = [s.data.train for s in self.seeds], self.method.needs
        found = {"y": [s.y for s in splits]}
        if "environments" in needs:
            found["environment"] = [present(s.environment, "environments") for s in splits]
        if "groups" in needs:
            found["group"] = [s.data.train.group(s.data.attributes) for s in self.seeds]
        if "index" in needs:
            found["index"] = [torch.arange(len(s.y)) for s in splits]
        return {name: self._stack(values) for name, values in found.items()}

    def _chunks(self) -> list[Chunk]:
        """The training inputs as the network takes them, cut into micro-batches once for all steps."""
        rows = len(self.seeds[0].data.train.y)
        size = rows if any(self.buffers) else self.options.micro_batch  # batch statistics need the whole batch
        return [self._chunk(slice(at, at + size)) for at in range(0, rows, size)]

    def _chunk(self, rows: slice) -> Chunk:
        inputs = [self.method.transform(pixels(s.data.train.x[rows].to(self.device))) for s in self.seeds]
        x = self._stack(inputs)
        if self.first is None:
            return Chunk(x.to(self.dtype))
        x = x.flatten(2 if self.stacked else 1)
        columns = x.reshape(-1, x.shape[-1]).any(0).nonzero()[:, 0]
        live = slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0, 1)
        return Chunk(x[..., live].to(self.dtype).contiguous(), live)

    # ---- one step -----------------------------------------------------------------------------------------------

    def forward(self, i: int, leaves: Leaves, chunk: Chunk) -> Tensor:
        """Logits [R?, b(, C)] of network `i`; columns of the first layer that meet only zeros are left out."""
        if self.first is not None and chunk.live is not None:
            leaves = leaves | {self.first: leaves[self.first][..., chunk.live]}
        if self.stacked:
            call: Tensor = vmap(lambda p, x: functional_call(self.skeletons[i], p, (x,)))(leaves, chunk.x)
            return call
        out: Tensor = functional_call(self.skeletons[i], leaves | self.buffers[i], (chunk.x,))
        return out

    def loss(self, logits: Tensor, second: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The method's loss, [R] or scalar, and its next state."""
        lifted = self.targets | ({} if second is None else {"second_logits": second})
        counts = [p.group_counts for p in self.problems if p.group_counts is not None]

        def one(
            z: Tensor, fields: dict[str, Tensor], state: dict[str, Tensor], group_counts: dict[str, Tensor]
        ) -> tuple[Tensor, dict[str, Tensor]]:
            problem, state = Problem(**(vars(self.problems[0]) | group_counts)), dict(state)
            return self.method.loss(z, Batch(problem=problem, **fields), state, self.step), state

        arguments = (logits, lifted, self.method_state, {"group_counts": self._stack(counts)} if counts else {})
        loss, state = vmap(one)(*arguments) if self.stacked else one(*arguments)
        if loss.ndim != self.stacked:
            shape = tuple(loss.shape[int(self.stacked) :])
            raise ValueError(f"{type(self.method).__name__}.loss gave a tensor of shape {shape}; it must be a scalar")
        return loss, state

    def update(self) -> Tensor:
        """One optimisation step; the loss before it, [R] or scalar."""
        leaves = [self._cast(masters) for masters in self.masters]
        parts = [[self.forward(i, leaves[i], chunk) for chunk in self.chunks] for i in range(len(leaves))]
        axis = 1 if self.stacked else 0
        logits = [torch.cat(p, axis).detach().float().requires_grad_() for p in parts]
        loss, state = self.loss(logits[0], logits[1] if len(logits) > 1 else None)
        slopes = torch.autograd.grad(loss.sum(), logits, allow_unused=True)
        for masters, own, outputs, slope in zip(self.masters, leaves, parts, slopes, strict=True):
            accumulate(masters, own, outputs, slope, axis)
        penalty = self.method.weight_penalty(self.step)
        if penalty:
            for p in self._parameters():
                assert p.grad is not None
                p.grad.add_(p.detach(), alpha=2 * penalty)
        self.optimizer.step()
        self.method_state = {name: value.detach() for name, value in state.items()}
        self.logits = logits[0].detach()
        self.step += 1
        return loss.detach()

    def _parameters(self) -> Iterator[Tensor]:
        for masters in self.masters:
            yield from masters.values()

    def _cast(self, masters: Leaves) -> Leaves:
        if self.dtype == torch.float32:
            return masters
        return {name: p.detach().to(self.dtype).requires_grad_() for name, p in masters.items()}

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
            if not all(p[r].isfinite().all() if self.stacked else p.isfinite().all() for p in self._parameters()):
                self.diverged.setdefault(s.seed, self.step)

    def note(self, step: int, loss: Tensor) -> None:
        """Add a point to the learning curve of each replica, and notice the ones that have diverged."""
        losses, logits = loss.reshape(-1), self.logits if self.stacked else self.logits[None]
        for r, s in enumerate(self.seeds):
            if not losses[r].isfinite():
                self.diverged.setdefault(s.seed, step)
                continue
            point: dict[str, Any] = {"seed": s.seed, "step": step, "loss": losses[r].item()}
            point["train_accuracy"] = accuracy(logits[r], s.data.train)
            for name in ["test"] if "test" in s.data.tests else []:
                point[f"{name}_accuracy"] = accuracy(self.score(r)(s.data.tests[name].x), s.data.tests[name])
            self.history.append(point)

    def score(self, r: int) -> Callable[[Tensor], Tensor]:
        """Logits of replica `r` for raw inputs, float32, evaluation mode, on the CPU."""
        leaves = {n: (p[r] if self.stacked else p).detach() for n, p in self.masters[0].items()} | self.buffers[0]

        @torch.no_grad()
        def logits(x: Tensor) -> Tensor:
            self.skeletons[0].eval()
            parts = [self._score_part(leaves, part) for part in torch.split(x, self.options.micro_batch * 4)]
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
            "masters": [{n: p.detach() for n, p in leaves.items()} for leaves in self.masters],
            "buffers": self.buffers,
            "optimizer": self.optimizer.state_dict(),
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
        self.optimizer.load_state_dict(state["optimizer"])
        self.method_state = {name: value.to(self.device) for name, value in state["method"].items()}
        torch.set_rng_state(state["random"].cpu())
        if state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"].cpu(), self.device)


def accumulate(masters: Leaves, leaves: Leaves, outputs: list[Tensor], slope: Tensor | None, axis: int) -> None:
    """Backpropagate each micro-batch's slice of d loss / d logits; sums are kept in float32."""
    names = list(leaves)
    for p in masters.values():
        p.grad = None if slope is not None else torch.zeros_like(p)
    if slope is None:
        return
    slices = torch.split(slope.to(outputs[0].dtype), [part.shape[axis] for part in outputs], axis)
    for part, piece in zip(outputs, slices, strict=True):
        for name, grad in zip(names, torch.autograd.grad(part, list(leaves.values()), piece), strict=True):
            p = masters[name]
            if p.grad is None:
                p.grad = grad.to(p.dtype).contiguous()  # fused optimizers take no note of strides
            else:
                p.grad.add_(grad)


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


def make_optimizer(parameters: list[Tensor], training: Training) -> torch.optim.Optimizer:
    """The optimizer of the protocol; all are elementwise, so stacked replicas do not touch each other."""
    fields = asdict(training)
    if fields["optimizer"] == "adam":
        return torch.optim.Adam(parameters, lr=training.lr, weight_decay=training.weight_decay, fused=True)
    if fields["optimizer"] == "sgd":
        return torch.optim.SGD(
            parameters, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay, fused=True
        )
    raise ValueError(f"no optimizer '{training.optimizer}'; there are: adam, sgd")
