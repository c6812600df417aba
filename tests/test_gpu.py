"""Whole jobs on a simulated GPU: nothing on the wrong device, no step that waits for it, the CPU's results."""

from __future__ import annotations

import copy
import gc
import importlib
import json
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import cycle, product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from simulated_gpu import LEDGER, simulated

from spurbench.bench.evaluation.monitor import Monitor
from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid
from spurbench.bench.jobs import worker
from spurbench.bench.jobs.job import Job
from spurbench.bench.jobs.session import Stopped
from spurbench.bench.jobs.setup import set_up
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.method import send
from spurbench.bench.records.record import Record
from spurbench.bench.store import predictions
from spurbench.bench.store.store import Store
from spurbench.bench.training import engine as engine_module
from spurbench.bench.training import optimization
from spurbench.bench.training.batching import MicroBatch
from spurbench.bench.training.engine import Engine, Step
from spurbench.bench.training.execution import Options
from spurbench.bench.training.stack import ForwardPass, ReplicaStack

DATASET = '''"""A few examples of everything that methods need and networks take, and attacks.

Source: these tests.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from spurbench.bench.plugins.dataset import Data, Dataset, Margins, Pgd, Split, Training


@dataclass(frozen=True)
class Tiny(Dataset):
    kind: str = "pictures"
    pixels: int = 4
    attacked: bool = False

    provides: ClassVar[frozenset[str]] = frozenset({"groups", "environments", "colour channels"})
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    training: ClassVar[Training] = Training(network="mlp", width=8, steps=4, lr=0.01, batch=4)
    conflicting: ClassVar[tuple[int, ...]] = (1, 2)

    def load(self, seed, build):
        generator = torch.Generator().manual_seed(seed)
        train, validation, test = (self.draw(n, generator) for n in (24, 16, 16))
        torch.manual_seed(seed)
        mean, std = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)) if self.attacked else (Data.mean, Data.std)
        return Data(train, {"validation": validation, "test": test}, attributes=2, environments=2, mean=mean,
                    std=std), build(train.x)

    def draw(self, n, generator):
        y, environment = torch.arange(n) % 2, torch.arange(n) // 2 % 2
        a = torch.where(torch.arange(n) % 8 < 6, y, 1 - y)
        if self.kind == "tokens":
            ids = torch.randint(5, 90, (n, 7), generator=generator)
            ids[:, 1] = 2 + y
            return Split({"ids": ids, "mask": torch.ones_like(ids)}, y, a, environment)
        x = torch.randint(0, 160, (n, 3, self.pixels, self.pixels), generator=generator)
        x[:, 0] += 90 * y[:, None, None]
        return Split(x.to(torch.uint8), y, a, environment)

    def attacks(self):
        if not self.attacked:
            return {}
        return {"pgd": Pgd(steps=2, random_start=True), "margin": Margins(split="test", steps=4, tries=3)}
'''
GENTLE = {"optimizer": "sgd", "lr": 1e-4}  # statistics of four examples in deep networks amplify rounding
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # fields of the network, options of the dataset
    "plain": ({"network": "mlp", "width": 8, "hidden_layers": 2}, {}),
    "linear": ({"network": "mlp", "hidden_layers": 0}, {}),
    "dropout": ({"network": "mlp", "width": 8, "dropout": 0.3}, {}),
    "batch norm": ({"network": "mlp", "width": 8, "batch_norm": True}, {}),
    "small_conv": ({"network": "small_conv", "augment": "crop,flip"}, {"pixels": 16, "attacked": True}),
    "bag_of_words": ({"network": "bag_of_words", "vocabulary": 99, "embedding": 4, "depth": 1}, {"kind": "tokens"}),
    "vgg15_bn": ({"network": "vgg15_bn", **GENTLE}, {"pixels": 32}),
    "preact_resnet110": ({"network": "preact_resnet110", **GENTLE}, {"pixels": 8}),
    "timm": ({"network": "timm:resnet18", **GENTLE}, {"pixels": 32}),
    "frozen": ({"network": "small_conv", "freeze": True}, {"pixels": 16}),
}
DEEP = ("vgg15_bn", "preact_resnet110", "timm")
PRECISIONS = {"float32": 1e-4, "bf16": 0.1, "fp16": 0.02}  # how far logits may be from the CPU's
ROUGH = {("dfr_train", "small_conv"), ("ldam", "small_conv"), ("lisa", "batch norm")}  # amplify the rounding of fp16
IN_DEEP = {"float32": 5e-3, "bf16": 0.1, "fp16": 0.05}  # the same there, where batches of four amplify rounding
UNSTABLE = {"dfr", "evals"}  # there they divide by, or choose by, what in hardly trained features is all rounding
QUICK_NETWORKS = ("linear", "dropout", "batch norm", "small_conv", "bag_of_words", "frozen")
WAITS = {"cvar_dro"}  # at each step, for a copy: its file, with which committed records were made, stays as it is
SPLITS = ("validation", "test")  # each is scored in one read for each seed
IMPOSSIBLE = {  # methods that need pictures or floats, with networks that are given neither
    *product(("cutmix", "lisa", "lisa_cutmix", "mixup", "oracle"), ("bag_of_words",)),
    *product(("cutmix", "lisa_cutmix", "oracle"), ("frozen",)), *product(("oracle",), ("small_conv", *DEEP)),
}  # fmt: skip
QUICK = {"eiil": {"updates": 3}, "dfr_subpopbench": {"steps": 3}}
MORE: dict[str, dict[str, Any]] = {  # fields of training that are parts of the engine
    "all rows": {"batch": None}, "sam": {"sam": 0.05}, "clip": {"clip_norm": 0.1}, "ema": {"average": "ema"},
    "swad": {"average": "swad", "evaluate": 1}, "balanced": {"balanced": True}, "sgd": {"optimizer": "sgd"},
}  # fmt: skip
EVERYTHING = bool(os.environ.get("SPURBENCH_GPU_ALL"))


@dataclass(frozen=True)
class Case:
    method: str
    network: str = "plain"
    precision: str = "float32"
    seeds: int = 2  # more than one are stacked where that is possible
    more: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.method, self.network, self.precision, str(self.seeds), self.more)))


def cases() -> Iterator[Case]:
    """Every method, network, precision and part of the engine; all combinations where they are asked for."""
    methods = [name for name, info in registry.methods().items() if info.trains or info.base]
    if EVERYTHING:
        possible = (pair for pair in product(methods, NETWORKS) if pair not in IMPOSSIBLE)
        yield from (Case(*pair, *how) for pair, how in product(possible, product(PRECISIONS, (1, 2))))
        return
    for method, (precision, seeds) in zip(methods, cycle(product(PRECISIONS, (2, 1))), strict=False):
        yield Case(method, "plain", precision, seeds)
    for network, precision in zip(QUICK_NETWORKS, cycle(PRECISIONS), strict=False):
        yield Case("group_dro", network, precision, 2)
    yield Case("coral", "small_conv", "float32", 2)
    yield from (Case("sd", more=more) for more in MORE)


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(DATASET)
    registry.add_plugin(tmp_path / "tiny.py")
    yield
    registry.forget_plugins()


def jobs_of(case: Case, device: str, precision: str) -> Job:
    network, options = NETWORKS[case.network]
    training = {"evaluate": 2, "batch": 4} | network | MORE.get(case.more, {})
    given = {key: value for key, value in training.items() if value is not None or key == "batch"}
    row = {"method": case.method, "hyper_parameters": QUICK.get(case.method, {})}
    dataset = {"dataset": "tiny", "options": options, "training": given, "methods": [row]}
    grid = {"seeds": f"0-{case.seeds - 1}", "precision": precision, "datasets": [dataset]}
    Path("g.yaml").write_text(yaml.safe_dump(grid))
    runs = [run for run, _ in expand(load_grid(Path("g.yaml")), {}).runs()]
    return Job(runs, case.method, Options(device=device, threads=1, history=1, micro_batch=9))


def finish(job: Job, name: str, interrupted: bool = False) -> tuple[list[Record], Store]:
    """The records of a job's runs; `interrupted` it goes on from a checkpoint after the first look."""
    store = Store.open(Path(name), create=True)
    calls = iter([False] * 3 + [True] + [False] * 1000)
    if interrupted:
        with suppress(Stopped):  # one that trains nothing comes to its end
            worker.run_job(job, store, lambda step: None, lambda: next(calls))
    worker.run_job(job, store, lambda step: None, lambda: False)
    found = [store.record(run.id) for run in job.runs]
    return [record for record in found if record], store


@dataclass
class Waits:
    """What was waited for, within each step but the first of an engine, and at each look."""

    within: list[list[str]] = field(default_factory=list)
    looks: list[list[str]] = field(default_factory=list)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    found, begun, update, after = Waits(), set[int](), Engine.update, Monitor.after_step

    def watched_update(engine: Engine) -> Step:
        before = len(LEDGER.waits)
        step = update(engine)
        asked = engine.training.schedule.split and engine.step % (engine.training.evaluate or 1) == 0
        if id(engine.replicas) in begun and not asked:  # the first makes what the others use
            found.within.append(LEDGER.waits[before:])
        begun.add(id(engine.replicas))
        return step

    def watched_look(monitor: Monitor, engine: Engine, step: Step) -> None:
        before = len(LEDGER.waits)
        after(monitor, engine, step)
        found.looks.append([wait for wait in LEDGER.waits[before:] if wait.startswith("read")])

    monkeypatch.setattr(Engine, "update", watched_update)
    monkeypatch.setattr(Monitor, "after_step", watched_look)
    return found


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_a_job_there_is_the_job_here(case: Case, waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    here, store = finish(jobs_of(case, "cpu", "float32" if case.precision == "fp16" else case.precision), "cpu")
    assert not any(waits.within)
    waits.within.clear()
    monkeypatch.setattr(optimization, "FIRST_SCALE", 2.0**8)  # so that no step of so few is left out
    with simulated():
        there, other = finish(jobs_of(case, "cuda:0", case.precision), "gpu", interrupted=True)
    assert [r.cause for r in there] == [r.cause for r in here] == [None] * case.seeds, [r.cause for r in there]
    deep = case.network in DEEP
    tolerance = (IN_DEEP if deep else PRECISIONS)[case.precision]
    if (case.method, case.network) in ROUGH and case.precision == "fp16":
        tolerance = 0.2
    for ours, theirs in zip(here, there, strict=True):
        if not (deep and case.method in UNSTABLE):
            close(predictions.load_arrays(store, ours.id), predictions.load_arrays(other, theirs.id), tolerance)
        assert ours.measures.keys() == theirs.measures.keys()
        assert theirs.cost.replicas == (case.seeds if registry.load_method(case.method).stackable else 1)
        assert theirs.cost.resumed == (0 if registry.methods()[case.method].base else 1)
    assert all(bool(each) == (case.method in WAITS) for each in waits.within), waits.within
    assert all(len(reads) <= 1 + case.seeds * len(SPLITS) for reads in waits.looks), waits.looks


def close(here: dict[str, Any], there: dict[str, Any], tolerance: float) -> None:
    assert here.keys() == there.keys()
    for name, values in here.items():
        pair = (torch.as_tensor(each).double() for each in (values, there[name]))
        assert torch.allclose(*pair, rtol=tolerance, atol=tolerance), name


def test_large_steps_are_not_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = set_up(job := jobs_of(Case("erm"), "cuda:0", "float32"))
    replicas = [setup.draw(run) for run in job.runs]
    flops = replicas[0].step_flops(setup.method, setup.training)
    assert flops == 3 * 2 * 4 * (48 * 8 + 8 * 8 + 8)  # forward and twice backward, 4 examples of 48 numbers
    for limit, stacked in ((flops, False), (flops + 1, True)):
        monkeypatch.setattr(engine_module, "BIG_GPU_STEP", limit)
        with simulated():
            assert setup.make_engine(copy.deepcopy(replicas)).stacks[0].stacked == stacked


def test_of_seeds_one_by_one_one_keeps_its_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, passes, kept = ReplicaStack.forward, list[weakref.ref[ForwardPass]](), list[int]()

    def watched(stack: ReplicaStack, i: int, inputs: list[MicroBatch]) -> ForwardPass:
        kept.append(sum(of() is not None for of in passes))
        done = forward(stack, i, inputs)
        passes.append(weakref.ref(done))
        return done

    monkeypatch.setattr(ReplicaStack, "forward", watched)
    monkeypatch.setattr(engine_module, "BIG_GPU_STEP", 0)
    with simulated():
        found, _ = finish(jobs_of(Case("erm", "small_conv"), "cuda:0", "float32"), "gpu")
    assert [(record.status, record.cost.replicas) for record in found] == [("done", 2)] * 2
    assert len(kept) == 2 * 4 and not any(kept), "two seeds, four steps"


def test_seeds_that_do_not_fit_together_leave_no_memory_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    engines, update = list[weakref.ref[Engine]](), Engine.update

    def short_of_memory(engine: Engine) -> Step:
        if len(engine.replicas) > 1:
            engines.append(weakref.ref(engine))
            raise torch.OutOfMemoryError("CUDA out of memory")
        gc.collect()
        assert engines and engines[0]() is None, "what failed is still there"
        return update(engine)

    monkeypatch.setattr(Engine, "update", short_of_memory)
    found, _ = finish(jobs_of(Case("erm"), "cpu", "float32"), "cpu")
    assert [(record.status, record.cost.replicas) for record in found] == [("done", 1)] * 2


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What `make gpu` runs, on few of its cells."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "perf"))
    found = importlib.import_module("gpu")
    monkeypatch.setattr(found, "STEPS", 4)
    monkeypatch.setattr(found, "CELLS", {name: found.CELLS[name] for name in ("full batch, irm", "two networks, lff")})
    monkeypatch.setattr(found, "TOLERANCE", {"float32": 1e-5, "fp16": 0.05})
    monkeypatch.setattr(found, "SPEED", dict(list(found.SPEED.items())[:1]))
    return found


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_what_a_person_with_a_gpu_runs(device: str, measured: ModuleType, tmp_path: Path) -> None:
    with simulated() if device != "cpu" else nullcontext(), pytest.raises(SystemExit) as ended:
        measured.main(["--device", device, "--tiny", "--name", "here", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "gpu-here.json").read_text())
    assert ended.value.code == 0 and set(measured.SECTIONS) <= found.keys()
    assert found["agreement"]["full batch, irm, float32"]["off"] < 1e-5
    assert found["waits"] == dict.fromkeys(measured.CELLS, {"ok": True, "why": ""})
    assert found["speed"] and all(isinstance(one["ms"], float) for one in found["speed"].values())


def test_what_is_wrong_on_a_gpu_is_named(
    measured: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def waiting(engine: Engine) -> Step:
        step = update(engine)
        step.losses[0].item()
        return step

    update = Engine.update
    monkeypatch.setattr(Engine, "update", waiting)
    monkeypatch.setattr(measured, "TOLERANCE", {"float32": -1.0})
    monkeypatch.setattr(measured, "SECTIONS", {name: measured.SECTIONS[name] for name in ("agreement", "waits")})
    with simulated(), pytest.raises(SystemExit) as ended:
        measured.main(["--device", "cuda:0", "--tiny", "--name", "here", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert ended.value.code == 1 and "lff, float32; waits: full batch, irm; waits: two networks, lff" in said


def test_the_simulated_gpu_refuses_what_a_gpu_refuses() -> None:
    host = torch.arange(6.0)
    with simulated() as ledger:
        card, index = host.to("cuda"), torch.arange(3, device="cuda")
        assert card.device.type == "cuda" and card.is_cuda and (card * 2.0)[index].sum().device == card.device
        for mixed in (lambda: card + host, lambda: host[index], lambda: torch.stack([card[0], host[0]])):
            with pytest.raises(RuntimeError, match="on the same device"):
                mixed()
        with pytest.raises(TypeError, match="cuda:0 device type tensor to numpy"):
            card.numpy()
        ledger.waits.clear()
        batched = torch.func.vmap(lambda x: x * torch.ones(6, device=x.device))(torch.stack([card, card]))
        send(host, card.device)
        assert batched.device.type == "cuda" and not ledger.waits
        for waits in (card.sum().item, lambda: bool(card[0] > 0), card.cpu, card.tolist, lambda: card[card > 1],
                      card.nonzero, lambda: float(card[0]), lambda: host.to("cuda"), lambda: card[torch.arange(2)],
                      lambda: card.new_tensor([1.0]), lambda: card.copy_(host)):  # fmt: skip
            ledger.waits.clear()
            waits()
            assert len(ledger.waits) == 1, ledger.waits
