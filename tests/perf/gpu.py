"""Does training on this machine's GPU give the CPU's numbers, twice the same, and how fast? `make gpu`, eight minutes.

It needs a checkout and a Python with torch and numpy, nothing else: where nothing can be installed, run this file with
the Python that has torch. With pytest and the packages of pyproject.toml the project's own tests on the GPU are run as
well. What was found is written after every section to results/perf/gpu-NAME.json, which is what to send back; the exit
code is 1 if something is not as it should be. `--device cpu --tiny` tries this file without a GPU.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import io
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
if importlib.util.find_spec("spurbench") is None:
    sys.path.insert(0, str(ROOT / ".typecheck"))

from spurbench.bench.jobs.memory import peak_memory, reset_peak_memory, tune_process  # noqa: E402
from spurbench.bench.plugins import registry  # noqa: E402
from spurbench.bench.plugins.dataset import Data, Split, Training  # noqa: E402
from spurbench.bench.training.engine import Engine  # noqa: E402
from spurbench.bench.training.execution import Options  # noqa: E402
from spurbench.bench.training.replica import Replica, build_network  # noqa: E402

SECONDS = {"tests": 150, "speed": 150}  # the most that a section takes
STEPS = 20  # of trainings that are compared
TOLERANCE = {"float32": 2e-3, "bf16": 0.15, "fp16": 0.05}  # of logits after these steps, as a share of their largest
MEMORY = 2.0  # how many times the predicted memory the measured may be


@dataclass(frozen=True)
class Cell:
    """What is trained: examples of this shape, some seeds, a method, a network."""

    method: str
    shape: tuple[int, ...]
    examples: int
    seeds: int
    training: dict[str, Any]

    def data(self, seed: int) -> Data:
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(self.examples) % 2
        x = torch.randint(0, 200, (self.examples, *self.shape), generator=generator)
        x[:, 0] += 55 * y.view(-1, *[1] * (x.ndim - 2))
        part = torch.arange(self.examples) // 2 % 2
        split = Split(x.to(torch.uint8), y, part, part)
        return Data(split, {}, attributes=2, environments=2)

    def engine(self, device: str, precision: str = "float32", stacked: bool | None = None, seeds: int = 0) -> Engine:
        training, replicas = Training(steps=STEPS, **self.training), []
        for seed in range(seeds or self.seeds):
            torch.manual_seed(seed)
            replicas.append(Replica(seed, self.data(seed), [build_network(self.shape, 1, training) for _ in range(2)]))
            if "second network" not in registry.load_method(self.method).needs:
                replicas[-1].networks.pop()
        rows = 1000 if device == "cpu" else 50_000
        options = Options(device=device, micro_batch=rows)
        return Engine(registry.load_method(self.method)(), training, precision, options, replicas, stacked=stacked)


MLP = {"network": "mlp", "width": 300, "optimizer": "sgd", "lr": 0.01, "momentum": 0.9}
CONV = {"network": "small_conv", "optimizer": "sgd", "lr": 0.01, "augment": "crop,flip"}
CELLS = {
    "full batch, sd": Cell("sd", (2, 14, 14), 5000, 4, MLP),
    "full batch, irm": Cell("irm", (2, 14, 14), 5000, 4, MLP),
    "minibatches, group_dro": Cell("group_dro", (2, 14, 14), 5000, 4, MLP | {"batch": 128}),
    "two networks, lff": Cell("lff", (2, 14, 14), 5000, 4, MLP | {"batch": 128}),
    "dropout": Cell("erm", (2, 14, 14), 5000, 2, MLP | {"dropout": 0.2, "batch": 128}),
    "batch statistics": Cell("erm", (3, 16, 16), 2000, 2, MLP | {"batch_norm": True, "batch": 128}),
    "convolutions": Cell("erm", (3, 32, 32), 5000, 4, CONV | {"batch": 128}),
    "mixup": Cell("mixup", (3, 32, 32), 5000, 2, CONV | {"batch": 128}),
    "adamw, sam": Cell(
        "erm", (3, 32, 32), 2000, 2, CONV | {"batch": 64, "optimizer": "adamw", "lr": 1e-3, "sam": 0.05}
    ),
}
ROUGH = {"adamw, sam"}  # whose first steps take the signs of gradients: compared in float32 alone
RANDOM = {"dropout"}  # whose random numbers are the device's own
SPEED = {
    "small steps: 300 points, width 500, 10 seeds": Cell("sd", (2,), 300, 10, MLP | {"width": 500}),
    "large steps: 50,000 × 392, width 300, 2 seeds": Cell("sd", (2, 14, 14), 50_000, 2, MLP | {"hidden_layers": 2}),
    "CIFAR, small_conv, batches of 1, 8 seeds": Cell("erm", (3, 32, 32), 5000, 8, CONV | {"batch": 1}),
    "CIFAR, small_conv, batches of 128, 8 seeds": Cell("erm", (3, 32, 32), 5000, 8, CONV | {"batch": 128}),
    "CIFAR, vgg15_bn, batches of 128, 2 seeds": Cell(
        "erm", (3, 32, 32), 5000, 2, CONV | {"network": "vgg15_bn", "batch": 128}
    ),
}
Found = dict[str, Any]


@dataclass
class Bench:
    """The device, the size of what is trained, and what has been found so far, which is kept in a file."""

    device: str
    tiny: bool
    file: Path
    found: Found

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def sized(self, cell: Cell) -> Cell:
        """The cell, or one of few examples and narrow layers."""
        if not self.tiny:
            return cell
        width = {"width": 8} if cell.training["network"] == "mlp" else {}
        batch = {"batch": min(cell.training["batch"], 8)} if "batch" in cell.training else {}
        return replace(cell, examples=32, seeds=2, training=cell.training | width | batch)

    def cells(self) -> Iterator[tuple[str, Cell]]:
        return ((name, self.sized(cell)) for name, cell in CELLS.items())

    def finish(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


def outcome(engine: Engine) -> Tensor:
    """The logits of every replica on its training set, [R, n]."""
    return torch.stack([engine.model(r).score(replica.data.train.x) for r, replica in enumerate(engine.replicas)])


def train(engine: Engine, until: int = STEPS) -> Engine:
    engine.train(until=until)
    return engine


# ---- what is asked --------------------------------------------------------------------------------------------------


def tests(bench: Bench) -> Found:
    """The project's tests on CUDA; they need pytest."""
    if importlib.util.find_spec("pytest") is None or not bench.cuda or bench.tiny:
        return {"skipped": "they need a GPU, pytest and the packages of pyproject.toml"}
    line = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", str(ROOT / "tests" / "test_engine.py")]
    try:
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS["tests"])
    except subprocess.TimeoutExpired:
        return {"ok": False, "said": f"not done after {SECONDS['tests']} s"}
    return {"ok": done.returncode == 0, "said": done.stdout.splitlines()[-15:]}


def agreement(bench: Bench) -> Found:
    """Logits after some steps against those of the CPU in float32, as shares of the largest."""
    found: Found = {}
    for name, cell in bench.cells():
        here = outcome(train(cell.engine("cpu")))
        for precision, tolerance in TOLERANCE.items():
            if name in RANDOM or (name in ROUGH and precision != "float32"):
                continue
            engine = cell.engine(bench.device, precision)
            if engine.scale:
                engine.scale.factors.fill_(2.0**8)  # so that no step is left out
            there = outcome(train(engine))
            off = float((there - here).abs().max() / here.abs().max())
            found[f"{name}, {precision}"] = {"ok": off <= tolerance, "off": off, "tolerance": tolerance}
    return found


def determinism(bench: Bench) -> Found:
    """Whether two trainings give the same logits, to the last bit."""
    return {
        name: {"ok": torch.equal(*(outcome(train(cell.engine(bench.device))) for _ in range(2)))}
        for name, cell in bench.cells()
    }


def resume(bench: Bench) -> Found:
    """Whether a training that goes on from a file is the one that was not interrupted, to the last bit."""
    found: Found = {}
    for name, cell in bench.cells():
        unbroken, first, second = outcome(train(cell.engine(bench.device))), cell.engine(bench.device), None
        train(first, STEPS // 2)
        file = io.BytesIO()
        torch.save([first.state(r) for r in range(cell.seeds)], file)
        file.seek(0)
        second = cell.engine(bench.device)
        second.restore(torch.load(file, weights_only=True, map_location="cpu"))
        found[name] = {"ok": torch.equal(unbroken, outcome(train(second)))}
    return found


def waits(bench: Bench) -> Found:
    """Whether no step waits for the device, after the first two; torch raises where one does."""
    found: Found = {}
    for name, cell in bench.cells():
        engine, why = train(cell.engine(bench.device, "bf16"), 2), ""
        try:
            with forbidding_waits() if bench.cuda else nullcontext():
                for _ in range(3):
                    engine.update()
        except RuntimeError as error:
            why = str(error).splitlines()[0]
        found[name] = {"ok": not why, "why": why}
    return found


@contextmanager
def forbidding_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def memory(bench: Bench) -> Found:
    """Peak memory beside what follows from the sizes of parameters, inputs and layers; of the process on a CPU."""
    found: Found = {}
    for name, cell in bench.cells():
        predicted = predict(cell)
        reset_peak_memory(bench.device)
        train(cell.engine(bench.device), 3)
        measured = peak_memory(bench.device)
        fits = measured <= MEMORY * predicted + 2**26 or not bench.cuda  # and the libraries' own workspaces
        found[name] = {"ok": fits, "measured_mb": measured / 2**20, "predicted_mb": predicted / 2**20}
    return found


def predict(cell: Cell) -> int:
    """Bytes: parameters four times (gradients, two of the optimizer), inputs, and twice what all layers put out."""
    engine, sizes = cell.engine("cpu", seeds=1), list[int]()
    network, train = copy.deepcopy(engine.stacks[0].networks[0]), engine.replicas[0].data.train
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, given, out: sizes.append(out[0].numel()))
    network(engine.batches.preprocessing[0](train.x[:2]))
    rows = cell.training.get("batch", len(train.y))
    parameters = sum(p.numel() for stack in engine.stacks for p in stack.parameters.values())
    inputs = train.x[0].numel()
    return cell.seeds * (16 * parameters + len(train.y) * inputs + 4 * rows * (2 * inputs + 2 * sum(sizes)))


def speed(bench: Bench) -> Found:
    """Milliseconds per seed and step of each precision, seeds stacked, by the rule, and one by one."""
    found, begun = Found(), time.perf_counter()
    for name, cell in SPEED.items() if not bench.tiny else list(SPEED.items())[:4:3]:
        for precision in TOLERANCE if bench.cuda and not bench.tiny else ("float32",):
            for way, stacked in {"by the rule": None, "stacked": True, "one by one": False}.items():
                if time.perf_counter() - begun < SECONDS["speed"]:
                    found[f"{name}, {precision}, {way}"] = {"ms": milliseconds(bench, cell, precision, stacked)}
    return found


def milliseconds(bench: Bench, cell: Cell, precision: str, stacked: bool | None) -> float | str:
    """Of one seed's step; in words why there is none."""
    cell = bench.sized(cell)
    try:
        engine = cell.engine(bench.device, precision, stacked)
        train(engine, 3)
        bench.finish()
        begun, steps = time.perf_counter(), 0
        while steps < 3 or (steps < 200 and time.perf_counter() - begun < 1 and not bench.tiny):
            engine.update()
            steps += 1
        bench.finish()
        return (time.perf_counter() - begun) * 1e3 / steps / cell.seeds
    except (RuntimeError, ValueError) as error:  # vmap refuses some networks; memory may be short
        return f"not possible: {str(error).splitlines()[0][:100]}"


SECTIONS: dict[str, Callable[[Bench], Found]] = {
    "tests": tests, "agreement": agreement, "determinism": determinism, "resume": resume, "waits": waits,
    "memory": memory, "speed": speed,
}  # fmt: skip


def failures(found: Found) -> list[str]:
    """What is not as it should be, by section and name."""
    each = [(section, name, one) for section in SECTIONS for name, one in found.get(section, {}).items()]
    bad = [f"{section}: {name}" for section, name, one in each if isinstance(one, dict) and one.get("ok") is False]
    return bad + [section for section in SECTIONS if found.get(section, {}).get("ok") is False]


def run(bench: Bench) -> list[str]:
    tune_process(1, bench.device)
    for name, section in SECTIONS.items():
        begun = time.perf_counter()
        try:
            bench.found[name] = section(bench)
        except Exception as error:  # the others may still tell something
            bench.found[name] = {"ok": False, "said": f"{type(error).__name__}: {error}"}
        bench.found["seconds"][name] = round(time.perf_counter() - begun, 1)
        bench.file.parent.mkdir(parents=True, exist_ok=True)
        bench.file.write_text(json.dumps(bench.found, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}: {bench.found['seconds'][name]} s", file=sys.stderr)
    return failures(bench.found)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="the device that is compared with the CPU (cuda:0)")
    parser.add_argument("--name", help="NAME of gpu-NAME.json; by default the GPU's")
    parser.add_argument("--tiny", action="store_true", help="few examples and narrow layers: to try this file")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "perf", help="folder of the file")
    given = parser.parse_args(argv)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --device cpu --tiny tries this file without one")
    card = torch.cuda.get_device_name(given.device) if given.device != "cpu" else "cpu"
    name = given.name or card.replace(" ", "-").replace("/", "-")
    machine = {
        "device": card,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }
    bench = Bench(given.device, given.tiny, given.out / f"gpu-{name}.json", {"machine": machine, "seconds": {}})
    bad = run(bench)
    print(f"{bench.file}: {'all as it should be' if not bad else 'NOT as it should be: ' + '; '.join(bad)}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
