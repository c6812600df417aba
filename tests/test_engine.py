"""The engine's promises: seeds together = seeds alone, micro-batches = whole batch, killed and resumed = unbroken."""

from __future__ import annotations

import copy
import io
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from spurbench.bench.core.errors import UserError
from spurbench.bench.evaluation import counting
from spurbench.bench.evaluation.monitor import Monitor, Progress
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data, Dataset, Split, Training
from spurbench.bench.plugins.method import Method
from spurbench.bench.plugins.training_settings import Schedule
from spurbench.bench.training import forward
from spurbench.bench.training.engine import Engine, Options
from spurbench.bench.training.losses import problem_of
from spurbench.bench.training.optimization import average_of
from spurbench.bench.training.replica import Replica, prepare

METHODS = [name for name, info in registry.methods().items() if info.trains and not info.base]
SMALL = {"colored_mnist": {"train_size": 300}, "two_moon": {}}
SHORT = {
    "irm": {"anneal": 3, "penalty_weight": 100.0},
    "rex": {"anneal": 3, "penalty_weight": 100.0},
    "sd": {"delay": 3, "rescale": True},
    "group_dro": {"adjustment": 1.0},
    "irm_domainbed": {"anneal": 3},
    "rex_domainbed": {"anneal": 3},
}


@pytest.fixture(scope="module", autouse=True)
def few_pictures() -> Iterator[None]:
    """Fifty test pictures: to draw, check and score 10,000 would take most of a test's time."""
    module = sys.modules[registry.load_dataset("colored_mnist").__module__]
    fewer = tuple(each[: module.TRAIN + 50] for each in module.mnist14())
    with pytest.MonkeyPatch.context() as here:
        here.setattr(module, "mnist14", lambda: fewer)
        yield


def method_named(name: str) -> Method:
    return registry.load_method(name)(**SHORT.get(name, {}))


DRAWING = [name for name in METHODS if registry.load_method(name).draw is not Method.draw]
MIXING = [name for name in METHODS if registry.load_method(name).mixes()]


def dataset_for(name: str) -> Dataset:
    pictures = registry.methods()[name].needs - registry.INNATE or name in MIXING
    chosen = "colored_mnist" if pictures else "two_moon"
    return registry.load_dataset(chosen)(**SMALL[chosen])


def engine_of(name: str, seeds: list[int], device: str, micro_batch: int = 170, **changes: Any) -> Engine:
    method, dataset = method_named(name), dataset_for(name)
    batch = {"batch": 40} if name in {*DRAWING, *MIXING} else {}
    training = replace(dataset.training, **{"width": 16, "steps": 8} | batch | changes)
    drawn = [prepare(dataset, method, training, seed) for seed in seeds]
    if changes.get("average") == "swad":
        for one in drawn:
            one.data.tests["validation"] = one.data.train.take(torch.arange(50))
    options = Options(device=device, micro_batch=micro_batch, history=4)
    return Engine(method, training, "float32", options, drawn, Monitor(len(seeds)))


def progress(engine: Engine) -> list[Progress]:
    """What was noted of each replica."""
    assert isinstance(engine.observer, Monitor)
    return engine.observer.progress


def weights(engine: Engine, r: int) -> torch.Tensor:
    own = [parameter for stack in engine.stacks for parameter in stack.parameters_of(r).values()]
    return torch.cat([parameter.detach().flatten() for parameter in own]).cpu()


@pytest.mark.parametrize("name", METHODS)
def test_seeds_together_equal_seeds_alone(name: str, device: str) -> None:
    together = engine_of(name, [3, 4], device)
    together.train()
    for r, seed in enumerate([3, 4]):
        alone = engine_of(name, [seed], device)
        before = weights(alone, 0)
        alone.train()
        assert not torch.allclose(before, weights(alone, 0), atol=1e-4)  # it has learned something
        assert torch.allclose(weights(together, r), weights(alone, 0), atol=1e-5)
        if device == "cpu":
            assert torch.equal(weights(together, r), weights(alone, 0))
            assert progress(together)[r] == progress(alone)[0]


@pytest.mark.parametrize("name", METHODS)
def test_stacked_through_the_network_equals_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, on the CPU; plain networks are differentiated by hand, others by autograd."""
    one_by_one, *both = (engine_of(name, [3, 4, 5], "cpu") for _ in range(3))
    assert not one_by_one.stacks[0].stacked
    one_by_one.train()
    for by_hand, drawn in zip((True, False), both, strict=True):
        if not by_hand:
            monkeypatch.setattr(forward, "is_plain", lambda network: False)
        stacked = Engine(drawn.method, drawn.training, "float32", drawn.options, drawn.replicas, stacked=True)
        assert all(stack.stacked and (stack.matrices is not None) == by_hand for stack in stacked.stacks)
        stacked.train()
        for r in range(3):
            assert torch.allclose(weights(one_by_one, r), weights(stacked, r), atol=1e-5)


@pytest.mark.parametrize("name", sorted({*METHODS} - {*DRAWING, *MIXING}))
def test_micro_batches_equal_the_whole_batch(name: str, device: str) -> None:
    whole, parts = engine_of(name, [0], device, 10_000), engine_of(name, [0], device, 77)
    assert len(whole.batches.micro_batches(0)[0]) == 1 < len(parts.batches.micro_batches(0)[0])
    for engine in (whole, parts):
        engine.train()
    assert torch.allclose(weights(whole, 0), weights(parts, 0), atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_interrupted_equals_unbroken(name: str) -> None:
    """State goes through a file at step 5; the rest is bit-identical on the CPU."""
    unbroken = engine_of(name, [0, 1], "cpu")
    unbroken.train()

    class Halt(Exception):
        pass

    def at_five(engine: Engine) -> None:
        if engine.step == 5:
            raise Halt

    first = engine_of(name, [0, 1], "cpu")
    with pytest.raises(Halt):
        first.train(at_five)
    file = io.BytesIO()
    torch.save([first.state(r) for r in (0, 1)], file)
    file.seek(0)
    second = engine_of(name, [0, 1], "cpu")
    second.restore(torch.load(file, weights_only=True))
    second.train()
    assert all(torch.equal(weights(unbroken, r), weights(second, r)) for r in (0, 1))
    assert progress(unbroken) == progress(second)


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"batch_norm": True}])
def test_noise_and_buffers_survive_a_restore(changes: dict[str, Any]) -> None:
    unbroken, first, second = (engine_of("erm", [0], "cpu", **changes) for _ in range(3))

    def run(engine: Engine, steps: int) -> torch.Tensor:
        for _ in range(steps):
            engine.update()
        return weights(engine, 0)

    start = torch.get_rng_state()
    run(unbroken, 8)
    torch.set_rng_state(start)
    run(first, 5)
    kept = copy.deepcopy(first.state(0))
    run(first, 1)  # moves the generator on
    second.restore([kept])
    assert torch.equal(run(second, 3), weights(unbroken, 0))
    ours, theirs = (one.state(0)["networks"][0]["buffers"] for one in (second, unbroken))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("name", ["erm", "lff"])
def test_batch_statistics_stack(name: str) -> None:
    """Stacked equals one by one, running statistics included, also after a restore."""
    one_by_one, drawn, resumed = (engine_of(name, [3, 4], "cpu", batch_norm=True) for _ in range(3))
    stacked, later = (
        Engine(each.method, each.training, "float32", each.options, each.replicas, stacked=True)
        for each in (drawn, resumed)
    )
    one_by_one.train()
    stacked.train(until=5)
    later.restore(copy.deepcopy([stacked.state(r) for r in (0, 1)]))
    for each in (stacked, later):
        each.train()
        for r in (0, 1):
            pairs = zip(one_by_one.networks(r), each.networks(r), strict=True)
            for (a, b), kind in itertools.product(pairs, ("parameters", "buffers")):
                assert a[kind].keys() == b[kind].keys() and a[kind]
                assert all(torch.allclose(value, b[kind][name], atol=1e-4) for name, value in a[kind].items())
            x = one_by_one.replicas[r].data.train.x
            assert torch.allclose(one_by_one.model(r).score(x), each.model(r).score(x), atol=1e-3)


def test_a_buffer_that_is_replaced_is_refused_in_a_stack() -> None:
    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return (x - self.mean).sum(1) * self.scale

    drawn = engine_of("erm", [3, 4], "cpu")
    for replica in drawn.replicas:
        replica.networks = [Mean()]
    with pytest.raises(ValueError, match="the network replaces its buffer mean: change it in place"):
        Engine(drawn.method, drawn.training, "float32", drawn.options, drawn.replicas, stacked=True).update()


@pytest.mark.parametrize("network", [{"hidden_layers": 0}, {"hidden_layers": 1, "width": 16}, {"width": 16}], ids=str)
def test_zero_columns_are_left_out_and_change_nothing(network: dict[str, Any]) -> None:
    """Also not the order of the examples, although those that are zero in the same columns go through together."""
    cm = registry.load_dataset("colored_mnist")(train_size=1000)
    method = method_named("irm_domainbed")  # its penalty is of every second example
    training = replace(cm.training, steps=4, **network)
    engine = Engine(method, training, "float32", Options(micro_batch=100), [prepare(cm, method, training, 0)])
    widths = [part.x.shape[-1] for part in engine.batches.micro_batches(0)[0]]
    assert sum(widths) / len(widths) < 120 and not any(width % 16 for width in widths)  # of 392
    full = Engine(method, training, "float32", Options(micro_batch=100), [prepare(cm, method, training, 0)])
    full.stacks[0].skips_zeros = False
    full.batches = full._make_batches()
    assert all(part.columns is None for part in full.batches.micro_batches(0)[0])
    for one in (engine, full):
        one.train()
    assert torch.allclose(weights(engine, 0), weights(full, 0), atol=1e-6)


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"batch_norm": True}])
def test_networks_that_autograd_differentiates_see_the_zero_columns_too(changes: dict[str, Any]) -> None:
    """Colored MNIST's margins are black in every picture."""
    cm, method = registry.load_dataset("colored_mnist")(train_size=600), method_named("erm")
    training = replace(cm.training, width=16, steps=2, **changes)
    engine = Engine(method, training, "float32", Options(), [prepare(cm, method, training, 0)])
    before = weights(engine, 0)
    engine.train()
    assert not torch.equal(weights(engine, 0), before) and engine.is_finite(0)


def test_only_what_is_declared_is_handed_over() -> None:
    data = registry.load_dataset("colored_mnist")(train_size=100)
    for name, seen in {"erm": set(), "irm": {"environment"}, "group_dro": {"group"}, "lff": {"index"}}.items():
        method = method_named(name)
        engine = Engine(method, data.training, "float32", Options(), [prepare(data, method, data.training, 0)])
        assert set(engine.targets.every) == {"y"} | seen
        problem = engine.losses.problems[0]
        assert (problem.group_counts is not None) == ("groups" in method.needs)
        assert bool(problem.environments) == ("environments" in method.needs)


def test_same_data_and_first_weights_for_every_method() -> None:
    data = registry.load_dataset("two_moon")()
    drawn = [prepare(data, method_named(name), data.training, 3) for name in ("erm", "sd", "lff")]
    for other in drawn[1:]:
        assert torch.equal(drawn[0].data.train.x, other.data.train.x)
        for a, b in zip(drawn[0].networks[0].parameters(), other.networks[0].parameters(), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(*(next(network.parameters()) for network in drawn[2].networks))


def test_one_diverged_seed_does_not_touch_the_others() -> None:
    engine, alone = engine_of("erm", [0, 1], "cpu"), engine_of("erm", [1], "cpu")
    with torch.no_grad():
        next(iter(engine.stacks[0].parameters.values()))[0] = float("nan")
    for one in (engine, alone):
        one.train()
    assert [one.diverged for one in progress(engine)] == [0, None]
    assert torch.equal(weights(engine, 1), weights(alone, 0))


def test_weight_penalty_is_the_squared_norm_of_all_parameters() -> None:
    x, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    oracle = registry.load_method("oracle")(l2=0.1)
    data = Data(Split(x[:, None].expand(-1, 2, -1) / 2, y), {})
    network = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0))
    training = Training(optimizer="sgd", lr=1.0, steps=1)
    before = [p.detach().clone().requires_grad_() for p in network.parameters()]
    engine = Engine(oracle, training, "float32", Options(), [Replica(0, data, [network])])
    engine.update()
    z = x @ before[0].T[:, 0] + before[1]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z, y.float())
    (loss + 0.1 * sum(p.square().sum() for p in before)).backward()
    for p, parameter in zip(before, engine.stacks[0].parameters.values(), strict=True):
        assert p.grad is not None
        assert torch.allclose(p - p.grad, parameter[0], atol=1e-6)


def test_loss_of_wrong_shape_is_named() -> None:
    class PerExample(type(method_named("erm"))):  # type: ignore[misc]
        def loss(self, logits: Any, batch: Any, state: Any, step: int) -> Any:
            return batch.losses(logits)

    data = registry.load_dataset("two_moon")()
    seed = prepare(data, PerExample(), data.training, 0)
    with pytest.raises(ValueError, match=r"PerExample.loss gave a tensor of shape \(300,\); it must be a scalar"):
        Engine(PerExample(), data.training, "float32", Options(), [seed]).update()


def test_problem_counts_groups() -> None:
    replica = prepare(dataset_for("group_dro"), method_named("group_dro"), Training(hidden_layers=2), 0)
    counts = problem_of(replica, method_named("group_dro"), torch.device("cpu")).group_counts
    assert counts is not None and counts.sum() == 300 and len(counts) == 4


def test_bf16_follows_float32() -> None:
    runs = {}
    for precision in ("float32", "bf16"):
        engine = engine_of("erm", [0], "cpu")
        engine = Engine(engine.method, engine.training, precision, engine.options, engine.replicas)
        engine.train()
        assert all(p.dtype == torch.float32 for p in engine.stacks[0].parameters.values())
        runs[precision] = weights(engine, 0)
    assert 0 < (runs["float32"] - runs["bf16"]).abs().max() < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_relu_is_torchs(dtype: torch.dtype) -> None:
    """Forward and backward, in place."""
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-40, -1e-40])
    z = torch.cat([special, torch.randn(500)]).to(dtype)
    g, h = torch.randn(len(z)).to(dtype), z.clone()
    forward.relu_(h)
    assert torch.equal(h, z.relu())
    expected = torch.where(z > 0, g, 0.0)
    assert torch.equal(forward.relu_backward(g, h, torch.empty_like(g)), expected)
    forward.relu_backward(g, h, g)
    assert torch.equal(g, expected)


def test_a_loss_that_edits_labels_in_place_is_named() -> None:
    class Editing(type(method_named("erm"))):  # type: ignore[misc]
        def loss(self, logits: Any, batch: Any, state: Any, step: int) -> Any:
            batch.y.fill_(1)
            return batch.losses(logits).mean()

    data = registry.load_dataset("two_moon")()
    seeds = [prepare(data, Editing(), data.training, seed) for seed in (0, 1)]
    for stacked in (False, True):
        with pytest.raises(ValueError, match=r"Editing.loss changes y in place: make a new tensor of it"):
            Engine(Editing(), data.training, "float32", Options(), seeds, stacked=stacked).update()


# ---- averaged weights, and SAM --------------------------------------------------------------------------------------


def averaged(engine: Engine, r: int = 0) -> torch.Tensor:
    """The weights that a replica is scored with."""
    return torch.cat([p.flatten() for p in engine.model(r).parameters.values()])


def test_averages_are_those_of_the_weights_after_each_step() -> None:
    for kind in ("ema", "swa"):
        more = {"decay": 0.9} if kind == "ema" else {"average_from": 0.5}
        engine, each = engine_of("erm", [0, 1], "cpu", steps=8, average=kind, **more), list[torch.Tensor]()
        expected = weights(engine, 1)
        for _ in range(8):
            engine.train(until=engine.step + 1)
            each.append(weights(engine, 1))
        for one in each:
            expected = torch.lerp(expected, one, 0.1)
        if kind == "swa":
            expected = torch.stack(each[4:]).mean(0)
        assert torch.allclose(averaged(engine, 1), expected, atol=1e-6)
        x = engine.replicas[1].data.train.x
        plain = engine_of("erm", [0, 1], "cpu", steps=8)
        plain.train()
        assert torch.equal(weights(plain, 1), weights(engine, 1)), "training itself is as without"
        assert not torch.equal(plain.model(1).score(x), engine.model(1).score(x))
        assert torch.equal(
            engine.networks(1)[0]["parameters"].popitem()[1], list(engine.model(1).parameters.values())[-1]
        )


def valley(losses: list[float], n_converge: int = 3, n_tolerance: int = 6, ratio: float = 0.3) -> tuple[int, int]:
    """First and last look of SWAD's average, as algorithm 1 of the paper writes it; looks are numbered from 1."""
    start, end, threshold = 0, len(losses), math.inf
    for i in range(1, len(losses) + 1):
        window = losses[max(0, i - n_converge) : i]
        if threshold == math.inf and len(window) == n_converge and window[0] == min(window):
            start, threshold = i - n_converge + 1, (1 + ratio) * sum(window) / n_converge
        elif threshold < min(losses[max(0, i - n_tolerance) : i]):
            return start, i - n_tolerance
    return start, end


def averaged_steps(losses: list[float], every: int = 1, **settings: Any) -> tuple[int, int]:
    """First and last step of the average that the engine takes; each step is a power of two."""
    tensors = {"w": torch.zeros(1, dtype=torch.float64)}
    schedule = Schedule(steps=len(losses) * every, evaluate=every, average="swad", **settings)
    average, steps = average_of(tensors, schedule), range(1, len(losses) * every + 1)
    for step in steps:
        tensors["w"].fill_(2.0**step)
        average.follow(step)
        if step % every == 0:
            average.look(step, losses[step // every - 1])
    means = {(a, b): sum(2.0**s for s in range(a, b + 1)) / (b - a + 1) for a in steps for b in steps if a <= b}
    return next(pair for pair, mean in means.items() if mean == pytest.approx(average.means["w"].item(), rel=1e-12))


@pytest.mark.parametrize(
    ("losses", "settings", "expected"),
    [
        ([3, 2, 1, 2, 3, 4, 5, 6, 7, 8], {}, (3, 4)),  # threshold 1.3 × 2; six looks above it
        ([3, 2, 1, 2, 3, 2, 2, 4, 4, 4, 4, 4, 4, 1], {}, (3, 7)),  # what comes after the end counts no more
        ([3, 2, 1, 2, 3, 4, 5, 6, 7], {}, (3, 9)),  # five are not enough: to the last step
        ([1, 1, 1, 1.2, 1.4, 1.4], {"n_tolerance": 2}, (1, 4)),  # of equal losses the first is the least
        ([1, 1, 10, 11], {"n_tolerance": 2}, (1, 2)),  # threshold 1.3 × 4: the third look is above it
        ([5, 4, 4.5, 6, 6], {"n_converge": 2, "n_tolerance": 2, "tolerance_ratio": 0.0}, (2, 2)),
        ([1, 2, 2.5, 9, 9], {"n_tolerance": 2, "tolerance_ratio": 4.0}, (1, 5)),
        ([0.3915906845956697] * 4, {"tolerance_ratio": 0.0}, (1, 4)),  # whose mean of three is less than each
        ([5, 4, 3, 2], {}, (4, 4)),  # no valley yet: since the look with the least loss
        ([5, 4, 3, 2, math.nan, math.inf, 4], {}, (4, 7)),  # what is no number is no look
    ],
)
def test_swad_averages_the_valley(losses: list[float], settings: dict[str, Any], expected: tuple[int, int]) -> None:
    assert averaged_steps(losses, **settings) == expected
    first, last = expected
    assert averaged_steps(losses, every=3, **settings) == (3 * first, 3 * last)


def test_swad_is_the_rule_of_the_paper() -> None:
    generator, ends = torch.Generator().manual_seed(0), set()
    for _ in range(100):
        losses = (1 + torch.rand(14, generator=generator)).cumprod(0)[torch.randperm(14, generator=generator)].tolist()
        start, end = valley(losses)
        if start:
            assert averaged_steps(losses) == (start, end)
            ends.add((start, end))
    assert len(ends) > 5 and min(end for _, end in ends) < 14


def test_swad_gives_each_seed_the_valley_of_its_own() -> None:
    settings: dict[str, Any] = {"evaluate": 2, "n_converge": 2, "n_tolerance": 2, "tolerance_ratio": 0.0}
    plain = engine_of("erm", [0, 1, 2], "cpu", steps=30, lr=3.0, width=4)
    engine = engine_of("erm", [0, 1, 2], "cpu", steps=30, lr=3.0, width=4, average="swad", **settings)
    each, losses = list[list[torch.Tensor]](), list[list[float]]()
    for step in range(1, 31):
        plain.train(until=step)
        each.append([weights(plain, r) for r in range(3)])
        if step % 2 == 0:
            held_out = [one.data.tests["validation"] for one in engine.replicas]
            logits = [plain.model(r).score(split.x) for r, split in enumerate(held_out)]
            found = zip(logits, held_out, strict=True)
            losses.append([counting.cross_entropy(z, split.y).mean().item() for z, split in found])
    engine.train()
    valleys = [valley([loss[r] for loss in losses], 2, 2, 0.0) for r in range(3)]
    assert len(set(valleys)) == 3 and len([end for start, end in valleys if start and end < 15]) == 1
    for r, (start, end) in enumerate(valleys):
        start = start or 1 + min(range(15), key=lambda at, r=r: losses[at][r])  # type: ignore[misc]
        expected = torch.stack([of[r] for of in each[2 * start - 1 : 2 * end]]).mean(0)
        assert torch.allclose(averaged(engine, r), expected, atol=1e-6)


def test_swad_needs_validation() -> None:
    engine = engine_of("erm", [0], "cpu")
    training = Training(**engine.training.flat(), average="swad", evaluate=2)
    with pytest.raises(UserError, match="average swad goes by the split 'validation', which the data lack"):
        Engine(engine.method, training, "float32", engine.options, engine.replicas)


def test_sam_takes_its_gradient_uphill() -> None:
    """One step of SGD by hand: the gradient at the weights plus ρ times the unit gradient there."""
    engine = engine_of("erm", [0, 1], "cpu", steps=1, sam=0.3, optimizer="sgd", lr=0.5)
    twin = engine_of("erm", [0, 1], "cpu", steps=1, optimizer="sgd", lr=0.5)
    before = [weights(engine, r) for r in range(2)]
    stack = twin.stacks[0]
    twin.optimizer.step = lambda left_out: None  # type: ignore[assignment,misc]
    twin.update()
    for r in range(2):
        norm = torch.cat([g[r].flatten() for g in stack.gradients.values()]).norm()
        for name, parameter in stack.parameters.items():
            parameter[r] += 0.3 * stack.gradients[name][r] / norm
    twin.update()
    engine.train()
    for r in range(2):
        uphill = torch.cat([g[r].flatten() for g in stack.gradients.values()])
        assert torch.allclose(weights(engine, r), before[r] - 0.5 * uphill, atol=1e-6)


SWAD = {"average": "swad", "evaluate": 1, "n_converge": 2, "n_tolerance": 2, "tolerance_ratio": 0.0} | {
    "optimizer": "sgd", "lr": 3.0  # Adam would make rounding as large as its steps where a gradient is hardly there
}  # fmt: skip


@pytest.mark.parametrize("training", [{"average": "ema", "decay": 0.9}, {"average": "swa"}, {"sam": 0.1}, SWAD])
def test_averages_and_sam_survive_a_checkpoint_and_stacking(training: dict[str, Any]) -> None:
    unbroken, first, second, alone = (
        engine_of("group_dro", seeds, "cpu", steps=8, **training) for seeds in ([0, 1],) * 3 + ([1],)
    )
    drawn = engine_of("group_dro", [0, 1], "cpu", steps=8, **training)
    stacked = Engine(drawn.method, drawn.training, "float32", drawn.options, drawn.replicas, stacked=True)
    for one in (unbroken, alone, stacked):
        one.train()
    for step in (3, 4):
        first.train(until=step)
        second.restore([copy.deepcopy(first.state(r)) for r in range(2)])
    second.train()
    for of in (weights, averaged):
        assert torch.equal(of(unbroken, 0), of(second, 0)) and torch.equal(of(unbroken, 1), of(second, 1))
        assert torch.allclose(of(unbroken, 1), of(alone, 0), atol=1e-6)
        assert torch.allclose(of(unbroken, 1), of(stacked, 1), atol=1e-5)
    kept = [one.losses.state(0)["q"] for one in (unbroken, second)]
    assert torch.equal(*kept), "a method keeps one state a step"
