"""Optimizers, schedules and clipping: torch.optim's arithmetic, seed by seed, whoever trains beside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data, Split, Training
from spurbench.bench.provenance import plugin_code
from spurbench.bench.store.store import Store
from spurbench.bench.training.engine import Engine, Options
from spurbench.bench.training.optimization import LossScale, Optimization, lr_factor
from spurbench.bench.training.replica import Replica, build_network

MODERN: dict[str, Any] = {
    "optimizer": "adamw", "weight_decay": 0.1, "lr_schedule": "cosine", "warmup": 0.25, "clip_norm": 0.05,
}  # fmt: skip
OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": ({}, torch.optim.Adam, {}),
    "adamw": ({}, torch.optim.AdamW, {}),
    "sgd": ({"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9, "fused": True}),
    "nesterov": (
        {"momentum": 0.9, "nesterov": True},
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "fused": True},
    ),
}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    registry.forget_plugins()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_round_each_seed_as_if_it_were_alone(name: str) -> None:
    """Also the last values of a tensor, which do not fill a processor's register."""
    training = Training(
        optimizer="sgd" if name == "nesterov" else name, weight_decay=0.01, steps=20, **OPTIMIZERS[name][0]
    )
    torch.manual_seed(0)
    first = torch.randn(5, 507)
    together, alone = first.clone(), [own.clone() for own in first.split(1)]
    optimizations = [Optimization([[each]], training) for each in (together, *alone)]
    for _ in range(20):
        together.grad = torch.randn(5, 507)
        for own, gradient in zip(alone, together.grad.split(1), strict=True):
            own.grad = gradient.clone()
        for optimization in optimizations:
            optimization.step()
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_do_torch_optims_arithmetic(name: str) -> None:
    """The learning rate falls to a tenth after half of the steps and again after three quarters."""
    own, make, settings = OPTIMIZERS[name]
    training = Training(
        optimizer="sgd" if name == "nesterov" else name, lr=0.1, weight_decay=0.01, steps=20, drops="0.5,0.75", **own
    )
    torch.manual_seed(0)
    ours, theirs = ([torch.ones(3, 2), torch.ones(4)] for _ in range(2))
    optimization = Optimization([ours], training)
    reference = make(theirs, lr=0.1, weight_decay=0.01, **settings)
    schedule = torch.optim.lr_scheduler.MultiStepLR(reference, [10, 15])
    for _ in range(20):
        for a, b in zip(ours, theirs, strict=True):
            b.grad = torch.randn_like(b)
            a.grad = b.grad.clone()
        optimization.step()
        reference.step()
        schedule.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def engine_of(seeds: list[int], stacked: bool | None = None, method: str = "erm", **fields: Any) -> Engine:
    """An engine on random points, or small pictures, whose minorities are hard."""
    network = fields.get("network", "mlp")
    own: dict[str, Any] = {"width": 8} if network == "mlp" else {}
    training = Training(**{"steps": 12, "batch": 20, "lr": 0.05} | own | fields)
    shape = (1, 16, 16) if network == "small_conv" else (6,)
    chosen, replicas = registry.load_method(method)(), []
    for seed in seeds:
        torch.manual_seed(seed)
        y, a, x = torch.arange(60) % 2, torch.arange(60) % 6 // 5, torch.randn(60, *shape)
        networks = [build_network(shape, 1, training) for _ in range(2 if "second network" in chosen.needs else 1)]
        train = Split(x + y.view(-1, *[1] * len(shape)), y, a, a)
        replicas.append(Replica(seed, Data(train, {}, 2, 2, 2), networks))
    return Engine(chosen, training, "float32", Options(), replicas, stacked=stacked)


def weights(engine: Engine, r: int = 0) -> Tensor:
    return torch.cat([p.detach().flatten() for stack in engine.stacks for p in stack.parameters_of(r).values()])


@pytest.mark.parametrize("exempt", [False, True])
@pytest.mark.parametrize("schedule", ["CosineAnnealingLR", "LambdaLR"])
def test_adamw_with_cosine_and_clipping_is_torchs_to_the_last_bit(schedule: str, exempt: bool) -> None:
    fields: dict[str, Any] = MODERN | {"warmup": 0 if schedule == "CosineAnnealingLR" else 5}
    engine = engine_of([0], network="small_conv", **fields, weight_decay_of="matrices" if exempt else "all")
    network = copy.deepcopy(engine.replicas[0].networks[0])
    parts = [[p for p in network.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)]
    groups = [{"params": parts[0]}, {"params": parts[1], "weight_decay": 0.0 if exempt else 0.1}]
    reference = torch.optim.AdamW(groups, lr=0.05, weight_decay=0.1)
    follow: Any = (
        torch.optim.lr_scheduler.CosineAnnealingLR(reference, 12)
        if schedule == "CosineAnnealingLR"
        else torch.optim.lr_scheduler.LambdaLR(reference, lambda step: lr_factor(engine.training.schedule, step))
    )
    clipped = 0
    for step in range(12):
        rows = engine.batches.rows(step)
        assert rows is not None
        train = engine.replicas[0].data.train
        reference.zero_grad()
        nn.functional.softplus(z := network(train.x[rows[0]])).sub(train.y[rows[0]] * z).mean().backward()
        clipped += int(nn.utils.clip_grad_norm_(network.parameters(), 0.05) > 0.05)
        reference.step()
        follow.step()
        engine.update()
    assert clipped > 3
    assert torch.equal(weights(engine), torch.cat([p.detach().flatten() for p in network.parameters()]))


def test_the_learning_rate_over_a_training() -> None:
    def rates(**fields: Any) -> list[float]:
        schedule = Training(steps=8, **fields).schedule
        return [round(lr_factor(schedule, step), 4) for step in range(8)]

    assert rates() == rates(lr_schedule="constant") == [1] * 8
    assert rates(warmup=4) == rates(warmup=0.5) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert rates(warmup=4, lr_schedule="linear") == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]
    assert rates(lr_schedule="cosine") == [1, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.0381]
    assert rates(warmup=2, drops="0.5") == [0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]
    assert rates(warmup=80, lr_schedule="cosine") == [round((step + 1) / 80, 4) for step in range(8)]


@pytest.mark.parametrize("method", ["erm", "group_dro", "lff"])
@pytest.mark.parametrize(("network", "optimizer"), [("mlp", "adamw"), ("small_conv", "sgd")])
def test_seeds_together_and_stacked_equal_seeds_alone(method: str, network: str, optimizer: str) -> None:
    """Also where the gradient of one seed is a thousand times as long as another's."""
    fields = MODERN | {"network": network, "optimizer": optimizer, "method": method, "weight_decay_of": "matrices"}
    together, stacked = engine_of([0, 1], **fields), engine_of([0, 1], stacked=True, **fields)
    for one in (together, stacked):
        one.replicas[0].data.train.x *= 1000
        one.batches = one._make_batches()
        one.train()
    alone = engine_of([1], **fields)
    before = weights(alone)
    alone.train()
    assert torch.equal(weights(alone), weights(together, 1)) and not torch.allclose(weights(alone), before, atol=1e-3)
    assert torch.allclose(weights(alone), weights(stacked, 1), atol=1e-5)


@pytest.mark.parametrize("method", ["erm", "lff"])
def test_dropout_draws_for_each_seed_what_it_draws_alone(method: str) -> None:
    """Also where others join halfway, as after an interruption."""
    fields: dict[str, Any] = {"method": method, "dropout": 0.5, "batch": 60, "sam": 0.05}
    alone, together = engine_of([1], **fields), engine_of([0, 1], **fields)
    alone.train(until=6)
    together.train(until=6)
    assert torch.equal(weights(alone), weights(together, 1))
    resumed = engine_of([1], **fields)
    resumed.restore([copy.deepcopy(together.state(1))])
    for one in (alone, resumed):
        one.train()
    assert torch.equal(weights(alone), weights(resumed)) and not torch.equal(weights(alone), weights(together, 1))


def test_a_checkpoint_keeps_what_an_optimizer_remembers() -> None:
    unbroken, first, second = (engine_of([0, 1], **MODERN, weight_decay_of="matrices", sam=0.05) for _ in range(3))
    unbroken.train()
    first.train(until=5)
    second.restore([copy.deepcopy(first.state(r)) for r in range(2)])
    second.train()
    assert all(torch.equal(weights(unbroken, r), weights(second, r)) for r in range(2))


SIGN = '''"""Steps of one size in the direction of the averaged gradient's sign."""
from dataclasses import dataclass
from typing import ClassVar
from spurbench.bench.plugins.optimizer import Optimizer, setting

@dataclass(frozen=True)
class Sign(Optimizer):
    buffers: ClassVar[tuple[str, ...]] = ("average",)
    inertia: float = setting(0.9, low=0.0, high=1.0)

    def update(self, parameters, gradients, kept, steps, lr):
        for p, g, average in zip(parameters, gradients, kept["average"], strict=True):
            average.lerp_(g, 1 - self.inertia)
            p.mul_(1 - lr * self.weight_decay).sub_(average.sign(), alpha=lr)
'''


def test_an_optimizer_of_a_users(tmp_path: Path, command: Any) -> None:
    file = tmp_path / "sign.py"
    file.write_text(SIGN)
    with pytest.raises(UserError, match="optimizer of training must be sgd or adam or adamw, not 'sign'"):
        Training(optimizer="sign")
    registry.add_plugin(file)
    fields = {"weight_decay": 0.1, "weight_decay_of": "matrices", "lr_schedule": "linear", "lr": 0.25, "steps": 4}
    engine = engine_of([0], optimizer="sign", inertia=0.0, **fields)
    before = engine.stacks[0].parameters_of(0)
    biases = {name: p.clone() for name, p in before.items() if p.ndim == 1}
    engine.train()
    for name, was in biases.items():
        steps = (before[name] - was) / (0.25 / 4)  # of sizes 4, 3, 2, 1, and no decay
        assert torch.allclose(steps, steps.round(), atol=1e-4) and (steps.abs() <= 10 + 1e-4).all()
    registry.forget_plugins()
    sets = ["training.optimizer=sign", "training.inertia=0.5", "training.steps=3", "training.warmup=2"]
    line = [word for one in sets for word in ("--set", one)]
    where = ["--dataset", "two_moon", "--method", "erm", "--seeds", "0", "--store", tmp_path / "store"]
    command("run", "--plugin", file, *where, *line)
    (record,), _ = Store.open(tmp_path / "store").records()
    assert record.done and (record.training["inertia"], record.training["warmup"]) == (0.5, 2)
    assert record.provenance.code["optimizer"] == plugin_code.code(file)


# ---- parameters that do not require gradients -----------------------------------------------------------------------


HALF = '''"""A network whose first layer is not trained."""
from dataclasses import dataclass
from torch import nn
from spurbench.bench.plugins.network import Network, setting
from spurbench.bench.training.networks.mlp import Layers

@dataclass(frozen=True)
class Half(Network):
    trained: bool = setting(False)

    def build(self, shape, outputs):
        layers = Layers(nn.Linear(shape[0], 8), nn.ReLU(), nn.Linear(8, outputs))
        layers[0].requires_grad_(self.trained)
        layers[2].weight.requires_grad_(self.trained or outputs < 5)
        layers[2].bias.requires_grad_(self.trained or outputs < 5)
        return layers

    def head(self, module):
        return "2"
'''


@pytest.fixture
def half(tmp_path: Path) -> Path:
    file = tmp_path / "half.py"
    file.write_text(HALF)
    registry.add_plugin(file)
    return file


@pytest.mark.parametrize(
    "fields",
    [{"optimizer": name, "weight_decay": 0.5} for name in ("sgd", "adam", "adamw")]
    + [{"sam": 0.5}, {"average": "ema", "decay": 0.5}, {"clip_norm": 0.1, "method": "rex"}],
)
@pytest.mark.parametrize("stacked", [False, True])
def test_what_requires_no_gradient_does_not_move(half: Path, fields: dict[str, Any], stacked: bool) -> None:
    """Not by weight decay, a penalty on the weights, an average or SAM; and all else moves as if it were not there."""
    engine = engine_of([0, 1], stacked, network="half", **fields)
    before = [{name: p.clone() for name, p in engine.stacks[0].all_parameters_of(r).items()} for r in range(2)]
    given = engine.replicas[1].data.train.x.clone()
    engine.train()
    for r in range(2):
        after, scored = engine.stacks[0].all_parameters_of(r), engine.networks(r)[0]["parameters"]
        moved = {name for name, p in after.items() if not torch.equal(p, before[r][name])}
        assert moved == {"body.2.weight", "body.2.bias"} == set(engine.stacks[0].parameters)
        assert {name for name, p in scored.items() if not torch.equal(p, before[r][name])} == moved
        hidden = torch.relu(given @ before[1]["body.0.weight"].T + before[1]["body.0.bias"])
    if "average" not in fields:
        z = hidden @ after["body.2.weight"].T[:, 0] + after["body.2.bias"]
        assert torch.allclose(engine.model(1).score(given), z, atol=1e-5)


def test_a_partly_frozen_network_is_restored_and_counted(half: Path) -> None:
    unbroken, first, second = (engine_of([0, 1], network="half", **MODERN) for _ in range(3))
    unbroken.train()
    first.train(until=5)
    for p in second.replicas[0].networks[0].parameters():
        p.data.zero_()
    second.restore([copy.deepcopy(first.state(r)) for r in range(2)])
    second.train()
    whole = [
        torch.cat([p.flatten() for p in one.stacks[0].all_parameters_of(0).values()]) for one in (unbroken, second)
    ]
    assert torch.equal(*whole)
    assert sum(p[0].numel() for p in unbroken.stacks[0].parameters.values()) == 9


def test_a_network_that_cannot_be_trained_is_refused(half: Path) -> None:
    method, training = registry.load_method("erm")(), Training(network="half", steps=3, batch=20)
    data = Data(Split(torch.zeros(60, 6), torch.arange(60) % 5), {}, 5)
    with pytest.raises(UserError, match="the network half has no parameter that requires a gradient"):
        Engine(method, training, "float32", Options(), [Replica(0, data, [build_network((6,), 5, training)])])


# ---- fp16 -----------------------------------------------------------------------------------------------------------


def in_fp16(seeds: list[int], stacked: bool | None = None, **fields: Any) -> Engine:
    """An engine in fp16, on the CPU, which can do it, though no one would want to."""
    engine = engine_of(seeds, **fields)
    return Engine(engine.method, engine.training, "fp16", Options(), engine.replicas, stacked=stacked)


def overflown(engine: Engine) -> list[bool]:
    """Which replicas were left out of the last step."""
    assert engine.overflown is not None
    return engine.overflown.tolist()


@pytest.mark.parametrize("network", ["mlp", "small_conv"])
@pytest.mark.parametrize("method", ["erm", "rex"])
def test_fp16_follows_float32(network: str, method: str) -> None:
    fields: dict[str, Any] = {"network": network, "method": method, "sam": 0.05, "optimizer": "sgd"}
    low, exact = in_fp16([0], **fields), engine_of([0], **fields)
    for one in (low, exact):
        one.train()
    assert all(p.dtype == torch.float32 for p in low.stacks[0].parameters.values())
    assert 0 < (weights(low) - weights(exact)).abs().max() < 2e-2


@pytest.mark.parametrize("stacked", [False, True])
def test_a_step_that_overflows_in_fp16_is_left_out_for_that_seed_alone(stacked: bool) -> None:
    def engine(seeds: list[int]) -> Engine:
        made = in_fp16(seeds, stacked, optimizer="adamw", weight_decay=0.1, average="ema", decay=0.5)
        assert made.scale is not None
        for r, seed in enumerate(seeds):
            made.scale.factors[r] = 2.0 ** (24 if seed == 0 else 14)
        return made

    both, alone = engine([0, 1]), engine([1])
    before, lr = weights(both), both.optimizer.lr()
    for one in (both, alone):
        one.update()
    assert torch.equal(weights(both), before) and overflown(both) == [True, False] and overflown(alone) == [False]
    assert torch.equal(weights(both, 1), weights(alone)) and not torch.equal(weights(alone), before)
    assert both.optimizer.lr() == lr and not any(t[0].any() for of in both.optimizer.kept.values() for t in of)
    assert both.scale and both.scale.factors.tolist() == [2.0**23, 2.0**14]
    for one in (both, alone):
        one.train(until=10)
    assert not torch.equal(weights(both), before) and overflown(both) == [False, False]
    assert torch.equal(weights(both, 1), weights(alone))
    again = engine([0, 1])
    again.restore([copy.deepcopy(both.state(r)) for r in range(2)])
    for one in (both, again):
        one.train()
    assert all(torch.equal(weights(both, r), weights(again, r)) for r in range(2))
    assert again.scale and again.scale.state(0) == both.scale.state(0)


def test_a_reset_holds_for_a_seed_whose_step_is_left_out() -> None:
    parameter = torch.zeros(2, 3)
    optimization = Optimization([[parameter]], Training(optimizer="adam"), resets=(3,))
    for left_out in [[False, False]] * 3 + [[True, False]]:
        parameter.grad = torch.ones(2, 3)
        optimization.step(torch.tensor(left_out))
    assert [mean[:, 0].tolist() for mean in optimization.kept["mean"]] == [[0, pytest.approx(0.1)]]


def test_the_scale_of_a_loss_grows_when_nothing_overflows() -> None:
    scale = LossScale(2, torch.device("cpu"))
    for step in range(2000):
        scale.adapt(torch.tensor([False, step == 1000]))
    assert scale.factors.tolist() == [2.0**17, 2.0**15] and scale.steps.tolist() == [0, 999]


def test_fp16_is_refused_on_a_cpu(command: Any, tmp_path: Path) -> None:
    line = ["--dataset", "two_moon", "--method", "erm", "--precision", "fp16", "--device", "cpu"]
    for verb in (["run", "--seeds", 0, "--store", tmp_path / "store"], ["estimate"]):
        said = command(*verb, *line, code=2)
        assert "fp16 needs a GPU: on a CPU take bf16 or float32" in said.stderr
