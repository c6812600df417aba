"""Training steps: ours, laid out as the launcher does or otherwise, against loops as the released scripts have them.

The loops are float32, on the whole batch, seed after seed, with torch's own number of threads. Those of Colored MNIST
score the test set twice a step, as the scripts do; that of CIFAR-2 takes one picture a step, here one of random pixels.
Beside the time of an MLP stands what share of it the step's matrix products take by themselves, in the same process,
shapes and precision: the rest is all that could still be saved.
"""

from __future__ import annotations

import multiprocessing as mp
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from turns import ROUNDS

from spurbench.bench.core import machine
from spurbench.bench.jobs.memory import tune_process
from spurbench.bench.launch import placement
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data, Split, Training
from spurbench.bench.training.engine import Engine, kernels_for
from spurbench.bench.training.execution import Options
from spurbench.bench.training.forward import product
from spurbench.bench.training.replica import prepare

Row = tuple[str, str]
IRM = {"penalty_weight": 1e4, "anneal": 0, "l2": 1e-3}
REPEATS = 20  # of a matrix product


# ---- loops as the released scripts have them ------------------------------------------------------------------------


def sd_loss(coef: float, z: Tensor, y: Tensor, halves: Any, weights: Any) -> Tensor:
    return binary_cross_entropy_with_logits(z, y) + coef * z.square().mean()


def erm_loss(z: Tensor, y: Tensor, halves: Any, weights: Any) -> Tensor:
    return binary_cross_entropy_with_logits(z, y)


def irm_loss(z: Tensor, y: Tensor, halves: list[Tensor], weights: list[Tensor]) -> Tensor:
    risks, penalties = [], []
    for rows in halves:
        scale = torch.ones((), requires_grad=True)
        risk = binary_cross_entropy_with_logits(z[rows] * scale, y[rows])
        (slope,) = torch.autograd.grad(risk, [scale], create_graph=True)
        risks.append(risk)
        penalties.append(slope.square())
    l2 = IRM["l2"] * sum(weight.square().sum() for weight in weights)
    weight = IRM["penalty_weight"]
    return (torch.stack(risks).mean() + l2 + weight * torch.stack(penalties).mean()) / weight


@dataclass(frozen=True)
class Case:
    """What is trained, and the loss of the straightforward loop."""

    dataset: str
    method: str
    hyper_parameters: Mapping[str, Any]
    loss: Callable[[Tensor, Tensor, list[Tensor], list[Tensor]], Tensor]
    seeds: tuple[int, ...]
    steps: int
    rows: int  # of the training set
    others: tuple[Shape, ...] = ()  # layouts beside the launcher's own

    def __str__(self) -> str:
        return f"{self.dataset}, {self.method.upper()}"

    def prepare(self, seed: int) -> Any:
        kind = registry.load_dataset(self.dataset)
        adapter = type("Noise", (kind,), {"data": random_pictures})() if self.dataset == "cifar2" else kind()
        return prepare(adapter, self.load_method(), adapter.training, seed)

    def load_method(self) -> Any:
        return registry.load_method(self.method)(**self.hyper_parameters)


def random_pictures(dataset: Any, seed: int) -> Data:
    """As many as the loops need of CIFAR-2's shape and classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (2000, 3, 32, 32), generator=generator).to(torch.uint8)
    split = Split(x, torch.arange(len(x)) % 2)
    return Data(split, {"test": split}, mean=dataset.mean, std=dataset.std)


def reference(case: Case) -> float:
    """Seconds per seed and step of the loop one would write first."""
    prepared = [case.prepare(seed) for seed in case.seeds]
    loop = picture_loop if case.dataset == "cifar2" else plain_loop
    begun = time.perf_counter()
    for replica in prepared:
        loop(case, replica.data, replica.networks[0])
    return (time.perf_counter() - begun) / (len(prepared) * case.steps)


def plain_loop(case: Case, data: Data, net: nn.Module) -> list[float]:
    x, y = as_floats(data.train.x), data.train.y.float()
    environment = data.train.environment
    halves = [] if environment is None else [(environment == e).nonzero()[:, 0] for e in range(2)]
    test = data.tests.get("test")
    held_out = (as_floats(test.x), test.y) if test else None
    weights = list(net.parameters())
    optimizer: torch.optim.Optimizer
    if held_out:
        optimizer = torch.optim.Adam(weights, lr=1e-4)
    else:
        optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9)
    scores = []
    for _ in range(case.steps):
        z = net(x)
        loss = case.loss(z, y, halves, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            scored = [(net(held_out[0]), held_out[1]) for _ in range(2)] if held_out else [(z, y)]
            scores += [((guesses > 0) == labels).float().mean().item() for guesses, labels in scored]
    return scores


def picture_loop(case: Case, data: Data, net: nn.Module) -> None:
    x, y = (as_floats(data.train.x) - 0.5) / 0.5, data.train.y
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    for i in torch.randperm(len(x))[: case.steps].tolist():
        loss = cross_entropy(net(x[i : i + 1]), y[i : i + 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def as_floats(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x.clone()


# ---- ours: processes side by side, laid out by the launcher's rule or otherwise -------------------------------------


@dataclass(frozen=True)
class Shape:
    """A layout: so many processes, threads in each, and seeds trained together."""

    processes: int
    threads: int
    height: int

    def __str__(self) -> str:
        words = ((self.processes, "process", "es"), (self.threads, "thread", "s"), (self.height, "seed", "s"))
        processes, threads, seeds = (f"{n} {one}{more if n > 1 else ''}" for n, one, more in words)
        return f"{processes} of {threads}, {seeds} a job"


def by_rule(case: Case) -> Shape:
    """The launcher's own choice."""
    chosen = placement.choose("cpu", None, None, len(case.seeds))
    flops = placement.step_flops(registry.load_dataset(case.dataset).training.flat(), case.rows)
    return Shape(len(chosen.devices), chosen.job_threads(flops), chosen.job_height(flops, len(case.seeds)))


@dataclass
class Took:
    """Seconds per seed and step; and of that the matrix products' by themselves."""

    step: float
    products: float = 0.0


def train(case: Case, precision: str, seeds: list[int], shape: Shape, start: Any, done: Any, products: Any) -> None:
    """In a process of its own: prepare, wait for the start, train the seeds as the launcher would, say so."""
    tune_process(shape.threads)
    training: Training = replace(registry.load_dataset(case.dataset).training, steps=case.steps)
    engines = []
    for at in range(0, len(seeds), shape.height):
        drawn = [case.prepare(seed) for seed in seeds[at : at + shape.height]]
        engine = Engine(case.load_method(), training, precision, Options(threads=shape.threads), drawn)
        engine.update()  # the first step pays for memory and kernels that the others have ready
        engines.append(engine)
    start.wait()
    with kernels_for(training.batch):
        for engine in engines:
            for _ in range(case.steps):
                engine.update()
    done.wait()
    products.put(sum(product_seconds(engine) for engine in engines) / len(seeds))


def product_seconds(engine: Engine) -> float:
    """What the matrix products of one step of a plain network take by themselves, of all its replicas; 0 of others."""
    stack, counts = engine.stacks[0], Counter[tuple[int, int, int]]()
    if stack.matrices is None:
        return 0.0
    widths = [layer.shape[-2] for layer in stack.matrices.layers.values()]
    for parts in engine.batches.micro_batches(0):
        for part in parts:
            assert isinstance(part.x, Tensor)
            rows, columns = part.x.shape
            dims = [columns, *widths]
            for before, after in zip(dims, dims[1:], strict=False):
                counts[rows, before, after] += 1  # forward
            back = dims[:-1] if stack.matrices.derives_last else dims
            for before, after in zip(back, back[1:], strict=False):
                counts[after, rows, before] += 1  # gradient of the weight
            for before, after in zip(back[1:], back[2:], strict=False):
                counts[rows, after, before] += 1  # gradient of the layer's input
    return sum(times * seconds_of(shape, stack.dtype) for shape, times in counts.items())


@torch.no_grad()
def seconds_of(shape: tuple[int, int, int], dtype: torch.dtype) -> float:
    """The median time of a product [m, k] · [k, n], by torch or by `product`, whichever is faster."""
    m, k, n = shape
    a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    out, ways = torch.empty(m, n, dtype=dtype), []
    for way in (lambda: torch.matmul(a, b.mT, out=out), lambda: product(a, b)):
        took = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            way()
            took.append(time.perf_counter() - begun)
        ways.append(statistics.median(took))
    return min(ways)


def ours(case: Case, precision: str, shape: Shape) -> Took:
    """The engine in some layout."""
    context = mp.get_context("spawn")
    start, done = context.Barrier(shape.processes + 1), context.Barrier(shape.processes + 1)
    products = context.Queue()
    parts = [list(case.seeds[i :: shape.processes]) for i in range(shape.processes)]
    workers = [
        context.Process(target=train, args=(case, precision, part, shape, start, done, products)) for part in parts
    ]
    for worker in workers:
        worker.start()
    start.wait()
    begun = time.perf_counter()
    done.wait()
    taken = time.perf_counter() - begun
    alone = statistics.mean(products.get() for _ in workers) / shape.processes
    for worker in workers:
        worker.join()
    return Took(taken / (len(case.seeds) * case.steps), alone)


# ---- what is measured -----------------------------------------------------------------------------------------------


def cases() -> list[Case]:
    cores, seeds = machine.cores(), (1234, 1235)
    layouts = (Shape(1, cores, 1), Shape(1, cores, 2))
    small = (Shape(cores, 1, 1), Shape(1, cores, 10), Shape(1, 1, 10))
    sd = {"coef": 2e-5, "delay": 450, "rescale": True}
    return [
        Case("colored_mnist", "sd", sd, partial(sd_loss, 2e-5), seeds, 6, 50_000, layouts),
        Case("colored_mnist", "erm", {}, erm_loss, seeds, 6, 50_000),
        Case("colored_mnist", "irm", IRM, irm_loss, seeds, 6, 50_000),
        Case("cifar2", "erm", {}, erm_loss, (0, 1), 2000, 2000),
        Case("two_moon", "sd", {"coef": 0.003}, partial(sd_loss, 0.003), tuple(range(10)), 300, 300, small),
    ]


def ways(case: Case) -> dict[str, Callable[[], Took]]:
    """The straightforward loop, ours by the rule in each precision, and ours in other layouts."""
    found: dict[str, Callable[[], Took]] = {"straightforward loop": lambda: Took(reference(case))}
    rule = by_rule(case)
    for precision in ["float32"] + ["bf16"] * (case.dataset == "colored_mnist" and machine.has_bf16()):
        found[f"{precision}, {rule} (the rule)"] = partial(ours, case, precision, rule)
    for shape in case.others:
        if shape != rule:
            found[f"float32, {shape}"] = partial(ours, case, "float32", shape)
    return found


def measure() -> dict[str, dict[str, list[float]]]:
    """Of every case and way, in turn, the seconds per seed and step and the share of them that products take."""
    return {str(case): timed_in_turn(ways(case)) for case in cases()}


def timed_in_turn(each: dict[str, Callable[[], Took]]) -> dict[str, list[float]]:
    found: dict[str, list[Took]] = {name: [] for name in each}
    for _ in range(ROUNDS):
        for name, way in each.items():
            found[name].append(way())
    return {
        name: [statistics.median(one.step for one in took), statistics.median(one.products / one.step for one in took)]
        for name, took in found.items()
    }


def rows(found: dict[str, dict[str, list[float]]]) -> list[Row]:
    told = []
    for case, each in found.items():
        loop = each["straightforward loop"][0]
        for way, (step, share) in each.items():
            peak = f", {share:.0%} of that its matrix products alone" if share else ""
            told.append((f"{case}, {way}", f"{step * 1e3:.3g} ms per seed and step, {loop / step:.2f} ×{peak}"))
        if case.startswith("colored_mnist") and not any(way.startswith("bf16") for way in each):
            told.append((f"{case}, bf16", "not measured: this processor has no bf16 instructions"))
    return told
