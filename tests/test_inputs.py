"""Minibatches, random changes of pictures, and networks for pictures."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from spurbench.bench.core.errors import UserError
from spurbench.bench.evaluation.monitor import Monitor, Progress
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.before_training import Draw
from spurbench.bench.plugins.dataset import Data, Split, Training
from spurbench.bench.plugins.method import Method
from spurbench.bench.plugins.training_settings import Minibatches
from spurbench.bench.training.batching import MiniBatch, Preprocessing, crop_and_flip
from spurbench.bench.training.engine import Engine, Options
from spurbench.bench.training.replica import Replica, build_network

METHODS = [
    name
    for name, info in registry.methods().items()
    if info.trains and not info.base and "colour" not in str(info.needs)
]


def pictures(n: int = 90, classes: int = 2, size: int = 32) -> Data:
    """Noise with the label in its brightness and the attribute in its first channel; a third has the rarer one."""
    generator = torch.Generator().manual_seed(0)
    y, rare = torch.arange(n) % classes, torch.arange(n) % 9 < 3
    x = torch.randint(0, 120, (n, 3, size, size), generator=generator)
    a = (y % 2) ^ rare.long()
    x = x + 60 * y[:, None, None, None]
    x[:, 0] += 15 * a[:, None, None]
    splits = [
        Split(x.to(torch.uint8)[at], y[at], a[at], torch.arange(n)[at] % 2)
        for at in (slice(0, n * 2 // 3), slice(n * 2 // 3, n))
    ]
    return Data(splits[0], {"test": splits[1]}, classes, 2, 2, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def engine(
    name: str, seeds: list[int], options: Options | None = None, of: Data | None = None, **changes: Any
) -> Engine:
    fields = {"network": "small_conv", "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "steps": 9, "batch": 8}
    training = replace(Training(), **(fields | changes))
    method = registry.load_method(name)()
    ready = []
    for seed in seeds:
        torch.manual_seed(seed)
        data = of or pictures()
        count = 2 if "second network" in method.needs else 1
        shape = data.train.x.shape[1:]
        ready.append(Replica(seed, data, [build_network(shape, training.logits or 1, training) for _ in range(count)]))
    return Engine(method, training, "float32", options or Options(history=3), ready, Monitor(len(seeds)))


def progress(engine: Engine) -> Progress:
    """What was noted of the first replica."""
    assert isinstance(engine.observer, Monitor)
    return engine.observer.progress[0]


def weights(engine: Engine, r: int) -> torch.Tensor:
    return torch.cat([p.flatten() for stack in engine.stacks for p in stack.parameters_of(r).values()]).clone()


@pytest.mark.parametrize("name", METHODS)
def test_seeds_together_equal_seeds_alone(name: str) -> None:
    balanced = registry.load_method(name).draw is Method.draw  # else its own draws are tried
    changes: dict[str, Any] = {
        "augment": "crop,flip",
        "balanced": balanced,
        "logits": 1 if name == "sd_gamma" else 2,
        "steps": 5,
        "of": pictures(size=16),
    }
    together = engine(name, [3, 4], **changes)
    together.train()
    for r, seed in enumerate([3, 4]):
        alone = engine(name, [seed], **changes)
        before = weights(alone, 0)
        alone.train()
        assert not torch.allclose(before, weights(alone, 0), atol=1e-4)
        assert torch.allclose(weights(together, r), weights(alone, 0), atol=1e-5)


@pytest.mark.parametrize("kind", ["small_conv", "vgg15_bn"])
def test_interrupted_equals_unbroken(kind: str) -> None:
    """Order, random changes, batch statistics and what was seen on the way go on as if nothing had happened."""
    changes: dict[str, Any] = {"network": kind, "augment": "crop,flip", "evaluate": 2, "steps": 4, "batch": 8}
    unbroken, first, second = (engine("erm", [0], of=pictures(30), **changes) for _ in range(3))
    unbroken.train()
    for _ in range(3):
        first.update()
    assert isinstance(first.observer, Monitor)
    first.observer.evaluate(first)
    progress(first).evaluations.clear()
    second.restore([copy.deepcopy(first.state(0))])
    second.train()
    assert torch.equal(weights(unbroken, 0), weights(second, 0))
    ours, theirs = progress(unbroken).evaluations, progress(second).evaluations
    assert theirs == ours[1:] and [one.step for one in ours] == [2, 4]
    assert sum(ours[0].splits["test"].n) == 10


def test_compiled_equals_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, its gradients in the stacked parameters, and scoring; traced, but without a minute of C++."""
    whole = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: whole(module, backend="aot_eager"))
    eager, compiled = (engine("erm", [0], Options(compile=on), steps=3) for on in (False, True))
    for one in (eager, compiled):
        one.train()
    x = pictures().train.x
    assert compiled.stacks[0].networks[0]._compiled_call_impl is not None
    assert torch.allclose(weights(eager, 0), weights(compiled, 0), atol=1e-5)
    assert torch.allclose(eager.model(0).score(x), compiled.model(0).score(x), atol=1e-4)


def test_channels_side_by_side_where_that_pays() -> None:
    """Values stay; only the memory order of several pictures changes, and only for networks that gain by it."""
    x, plain = pictures().train.x, Preprocessing(lambda u: u, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    beside = replace(plain, channels_last=True)
    assert torch.equal(plain(x), beside(x)) and torch.equal(plain(x[:1]), beside(x[:1]))
    assert beside(x).is_contiguous(memory_format=torch.channels_last) and beside(x[:1]).is_contiguous()
    assert not plain(x).is_contiguous(memory_format=torch.channels_last)
    chosen = [engine("erm", [0], network=kind).model(0).preprocessing for kind in ("small_conv", "vgg15_bn")]
    assert [one.channels_last for one in chosen] == [True, False]


def rows(**changes: Any) -> MiniBatch:
    sampling = replace(Minibatches(batch=7), **changes)
    data = [pictures(), pictures()]
    pixels = [Preprocessing(lambda x: x)] * 2
    return MiniBatch(data, [0, 1], pixels, torch.device("cpu"), sampling, [5, 6], [Draw()] * 2)


def test_an_epoch_sees_every_example_once() -> None:
    mini = rows()
    epochs = [torch.cat([mini.rows(8 * e + s) for s in range(8)], 1) for e in range(2)]
    assert all(len(set(order[r].tolist())) == 56 for order in epochs for r in range(2))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0][0], epochs[0][1])
    assert torch.equal(mini.rows(3), rows().rows(3))  # whatever was asked before
    with pytest.raises(UserError, match="a batch of 100 examples, but the training set has 60"):
        rows(batch=100)


def test_only_pictures_are_augmented() -> None:
    points = Data(Split(torch.zeros(9, 2), torch.zeros(9).long()), {})
    with pytest.raises(UserError, match=r"augment=flip changes pictures; these inputs have the shape \[2\]"):
        MiniBatch(
            [points],
            [0],
            [Preprocessing(lambda x: x)],
            torch.device("cpu"),
            Minibatches(batch=3, augment="flip"),
            [0],
            [Draw()],
        )


def test_balanced_draws_make_groups_equal() -> None:
    mini = rows(balanced=True, batch=60)
    drawn = torch.cat([mini.rows(step)[0] for step in range(200)])
    group = mini.data[0].train.group(2)
    shares = group[drawn].bincount(minlength=4) / len(drawn)
    assert group.bincount().float().std() > 3 and torch.allclose(shares, torch.full((4,), 0.25), atol=0.02)


def test_crops_and_flips() -> None:
    x = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert torch.equal(crop_and_flip(x, 1, torch.tensor([[1, 1], [1, 1]]), torch.tensor([False, True]))[0], x[0])
    assert torch.equal(
        crop_and_flip(x, 1, torch.tensor([[1, 1], [1, 1]]), torch.tensor([False, True]))[1], x[1].flip(2)
    )
    moved = crop_and_flip(x, 1, torch.tensor([[0, 2], [1, 1]]), torch.tensor([False, False]))
    assert torch.equal(moved[0][:, 1:], x[0][:, :3]) and (moved[0][:, 0] == 0).all()
    assert torch.equal(moved[1][:, :3], x[1][:, 1:]) and (moved[1][:, 3] == 0).all()


def test_pixels_are_scaled_by_channel() -> None:
    x = torch.full((2, 3, 2, 2), 51, dtype=torch.uint8)
    found = Preprocessing(lambda u: u, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))(x)
    assert torch.allclose(found[0, :, 0, 0], torch.tensor([-1.5, -2 / 3, -0.25]))


@pytest.mark.parametrize(
    ("name", "outputs", "parameters"),
    [("small_conv", 2, 249_442), ("vgg15_bn", 10, 14_728_266), ("vgg15_bn", 100, 14_774_436),
     ("preact_resnet110", 10, 1_730_522), ("preact_resnet110", 100, 1_736_372)],
)  # fmt: skip
def test_networks_have_the_published_size(name: str, outputs: int, parameters: int) -> None:
    made = build_network((3, 32, 32), outputs, Training(network=name))
    assert sum(p.numel() for p in made.parameters()) == parameters
    assert made(torch.zeros(2, 3, 32, 32)).shape == (2, outputs)


def test_networks_that_cannot_be_had_are_named(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="no network 'vgg15'; did you mean vgg15_bn"):
        build_network((3, 32, 32), 2, Training(network="vgg15"))
    with pytest.raises(UserError, match="takes pictures"):
        build_network((2,), 2, Training(network="small_conv"))
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="did you mean resnet50"):
        build_network((3, 32, 32), 2, Training(network="timm:resnet5O"))
    with pytest.raises(UserError, match="does not take pictures of 3 × 32 × 32: Input height"):
        build_network((3, 32, 32), 2, Training(network="timm:vit_tiny_patch16_224"))
    other = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(UserError, match="of another network"):
        build_network((3, 32, 32), 2, Training(network="timm:resnet18", pretrained=str(other)))
    made = build_network((3, 32, 32), 1, Training(network="timm:resnet18"))
    assert made(torch.zeros(2, 3, 32, 32)).shape == (2,)
    torch.save(made.body.state_dict(), other)
    again = build_network((3, 32, 32), 2, Training(network="timm:resnet18", pretrained=str(other)))
    assert torch.equal(again.state_dict()["conv1.weight"], made.body.state_dict()["conv1.weight"])
    named = Training(network="timm:resnet18", pretrained=str(other)).flat()["pretrained"]
    assert named.startswith("weights.pt#") and Training(network="timm:resnet18", pretrained=named)
    (tmp_path / "in").mkdir()
    moved = other.rename(tmp_path / "in" / other.name)
    assert Training(network="timm:resnet18", pretrained=str(moved)).flat()["pretrained"] == named
    with pytest.raises(UserError, match="pretrained: no file none.pt; expected timm, or a file"):
        Training(network="timm:resnet18", pretrained="none.pt")


# ---- batches that do not fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["erm", "group_dro", "coral", "mixup", "lff"])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_batch_in_micro_batches_has_the_gradient_of_the_whole(name: str, stacked: bool) -> None:
    """Also for losses that are no sums over examples, of features, and for what is mixed first."""
    whole, cut = (
        engine(name, [3, 4], Options(micro_batch=3, accumulate=on, history=1), steps=2) for on in (False, True)
    )
    if stacked:
        whole, cut = (
            Engine(e.method, e.training, "float32", e.options, e.replicas, stacked=True) for e in (whole, cut)
        )
    for one in (whole, cut):
        for _ in range(2):
            one.update()
    assert all(torch.allclose(weights(whole, r), weights(cut, r), atol=1e-5) for r in (0, 1))


def test_one_graph_at_a_time_is_in_memory() -> None:
    class Saved:
        def __init__(self, x: torch.Tensor) -> None:
            self.x = x
            alive.add(self)

    for accumulate in (False, True):
        one = engine("erm", [0], Options(micro_batch=2, accumulate=accumulate, history=1))
        alive = weakref.WeakSet[Any]()
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.x):
            done = one.stacks[0].forward(0, one.batches.micro_batches(0)[0][0].cut(2, 0))
        assert len(done.outputs) == 4 and bool(alive) != accumulate


def test_dropout_draws_the_same_both_times() -> None:
    fields: dict[str, Any] = {"network": "mlp", "width": 16, "dropout": 0.5, "steps": 4}
    once, twice = (
        engine("erm", [3, 4], Options(micro_batch=3, accumulate=True, history=1), **fields) for _ in range(2)
    )
    once.stacks[0].accumulate = False
    for one in (once, twice):
        one.train()
    assert all(torch.equal(weights(once, r), weights(twice, r)) for r in (0, 1))


def test_batch_statistics_are_of_the_whole_batch() -> None:
    fields: dict[str, Any] = {"network": "mlp", "width": 16, "batch_norm": True}
    whole, asked = (engine("erm", [0], Options(micro_batch=3, accumulate=on), **fields) for on in (False, True))
    for one in (whole, asked):
        one.update()
    assert torch.equal(weights(whole, 0), weights(asked, 0))
