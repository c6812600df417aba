"""What methods may ask for beyond logits: features, what is drawn, what goes in, random numbers, class counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from spurbench.bench.checks.method_checks import check
from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.dataset import Data, Split, Training
from spurbench.bench.plugins.method import Batch, Draw, Examples, Method, Start
from spurbench.bench.training.engine import Engine, Options
from spurbench.bench.training.forward import watched
from spurbench.bench.training.replica import Replica, build_network, find_head, head_network
from spurbench.bench.training.stack import has_batch_statistics


@dataclass(frozen=True)
class Plain(Method):
    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()


@dataclass(frozen=True)
class OfFeatures(Plain):
    """A loss that does not split into a sum over examples."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return super().loss(logits, batch, state, step) + batch.known_features.var(0).sum()


@dataclass(frozen=True)
class Chosen(Plain):
    """Trains on the examples of class 1 and a number of others."""

    weighted: bool = False

    def draw(self, examples: Examples) -> Draw:
        rows = examples.y.nonzero()[:, 0]
        return Draw(rows, torch.arange(1.0, len(rows) + 1) if self.weighted else None)


@dataclass(frozen=True)
class Noisy(Plain):
    needs: ClassVar[frozenset[str]] = frozenset({"random numbers"})

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        assert batch.random is not None
        return (batch.random * batch.losses(logits)).mean()


@dataclass(frozen=True)
class Valued(Plain):
    """Weighs each example by a value of several that came with it."""

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return (batch.values["weights"][:, 1] * batch.losses(logits)).mean()


@dataclass(frozen=True)
class Apart(Plain):
    """The mean over environments, and how many there are."""

    needs: ClassVar[frozenset[str]] = frozenset({"environments"})

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.environment_means(batch.losses(logits)).mean() + 100 * batch.problem.environments


@dataclass(frozen=True)
class Growing(Plain):
    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        state[f"step {step}"] = logits.detach().mean()
        return super().loss(logits, batch, state, step)


def engine_of(
    method: Method,
    shape: tuple[int, ...],
    training: Training,
    seeds: tuple[int, ...] = (0,),
    starts: tuple[Start, ...] = (),
    **more: Any,
) -> Engine:
    replicas = []
    for seed in seeds:
        torch.manual_seed(seed)
        y = (torch.arange(60) % (3 + seed) == 0).long()
        replicas.append(Replica(seed, Data(Split(torch.randn(60, *shape), y), {}), [build_network(shape, 1, training)]))
    for replica, start in zip(replicas, starts, strict=False):
        replica.start = start
    return Engine(method, training, "float32", Options(micro_batch=17), replicas, **more)


@pytest.mark.parametrize(
    ("network", "shape"),
    [({"width": 8, "hidden_layers": 2}, (5,)), ({"width": 8, "batch_norm": True}, (5,)), ({"hidden_layers": 0}, (5,)),
     ({"network": "small_conv"}, (3, 16, 16))],
)  # fmt: skip
@pytest.mark.parametrize("batch", [None, 20])
def test_a_loss_of_features_has_the_gradient_of_the_whole(
    network: dict[str, Any], shape: tuple[int, ...], batch: int | None
) -> None:
    """By hand, by autograd and lifted, in micro-batches and in one: as torch differentiates all of it at once."""
    training = Training(optimizer="sgd", lr=1.0, steps=3, batch=batch, **network)
    for stacked in (False, True):
        engine = engine_of(OfFeatures(), shape, training, stacked=stacked)
        own = engine_of(OfFeatures(), shape, training).replicas[0]
        rows = engine.batches.rows(0)
        chosen = torch.arange(60) if rows is None else rows[0]
        with watched(find_head(own.networks[0], training)) as given:
            z = own.networks[0](own.data.train.x[chosen])
        loss = Batch(own.data.train.y[chosen], engine.losses.problems[0]).losses(z).mean() + given[0].var(0).sum()
        loss.backward()
        before = [parameter.detach() - parameter.grad for parameter in own.networks[0].parameters()]
        assert engine.update().losses[0].item() == pytest.approx(loss.item(), rel=1e-5)
        for expected, found in zip(before, engine.stacks[0].parameters.values(), strict=True):
            assert torch.allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize("batch", [None, 20])
def test_values_of_several_columns_go_with_their_examples(batch: int | None) -> None:
    training = Training(optimizer="sgd", steps=3, batch=batch, width=8)
    weights = torch.arange(120.0).view(60, 2)
    engine = engine_of(Valued(), (5,), training, starts=(Start(values={"weights": weights}),))
    rows = engine.batches.rows(0)
    step, chosen = engine.update(), torch.arange(60) if rows is None else rows[0]
    each = Batch(step.labels[0], engine.losses.problems[0]).losses(step.logits[0])
    assert step.losses[0].item() == pytest.approx((weights[chosen, 1] * each).mean().item(), rel=1e-5)


def test_seeds_with_other_numbers_of_environments_keep_their_own_when_stacked() -> None:
    """To a method such a number is no tensor, so that one lifted loss cannot have two."""
    training = Training(optimizer="sgd", steps=3, width=8)
    starts = tuple(Start(environment=torch.arange(60) % count) for count in (1, 2))
    ways = [engine_of(Apart(), (5,), training, (0, 0), starts, stacked=stacked) for stacked in (False, True)]
    apart, stacked = ([loss.item() for loss in engine.update().losses] for engine in ways)
    assert apart == pytest.approx(stacked) and [round(loss, -2) for loss in stacked] == [100, 200]


@pytest.mark.parametrize("stacked", [False, True])
def test_a_state_that_grows_is_refused(stacked: bool) -> None:
    engine = engine_of(Growing(), (5,), Training(optimizer="sgd", steps=3, width=8), (0, 1), stacked=stacked)
    with pytest.raises(ValueError, match="puts .* into its state, which began as {}"):
        engine.update()


def test_features_of_a_network_that_is_not_as_it_is_built() -> None:
    with pytest.raises(UserError, match="where the features of this network are is not known: mlp did not build it"):
        find_head(torch.nn.Flatten(), Training())


@pytest.mark.parametrize("weighted", [False, True])
def test_only_what_is_drawn_is_trained_on(weighted: bool) -> None:
    """Seeds have subsets, and so epochs, of their own: each sees what it sees alone."""
    training = Training(optimizer="sgd", steps=12, batch=4, width=8)
    engine = engine_of(Chosen(weighted), (5,), training, (0, 1))
    assert engine.batches.steps_per_epoch == [5, 3]  # 20 and 15 examples in batches of 4
    assert [problem.epoch(7) for problem in engine.losses.problems] == [1, 2]
    seen = torch.stack([engine.batches.rows(step) for step in range(5)], 1)  # type: ignore[arg-type]
    for r in range(2):
        drawn = seen[r].flatten()[: 4 * engine.batches.steps_per_epoch[r]].tolist()
        assert engine.replicas[r].data.train.y[drawn].all()
        assert (len(set(drawn)) < len(drawn)) == weighted
        alone = engine_of(Chosen(weighted), (5,), training, (r,))
        assert all(torch.equal(alone.batches.rows(step)[0], seen[r, step]) for step in range(5))  # type: ignore[index]


def test_a_subset_without_a_batch_size_is_seen_whole() -> None:
    training = Training(optimizer="sgd", steps=3, width=8)
    engine = engine_of(Chosen(), (5,), training)
    assert len(engine.update().labels[0]) == 20
    with pytest.raises(ValueError, match="cannot train together"):
        engine_of(Chosen(), (5,), training, (0, 1))


def test_what_cannot_be_drawn_is_one_line() -> None:
    with pytest.raises(UserError, match="seed 0: a batch of 30 examples, but the method trains on 20: .*{batch: 20}"):
        engine_of(Chosen(), (5,), Training(optimizer="sgd", steps=3, width=8, batch=30))
    with pytest.raises(UserError, match="balanced=true draws the examples, and so does this method"):
        engine_of(Chosen(), (5,), Training(optimizer="sgd", steps=3, width=8, batch=4, balanced=True))

    class Nothing(Plain):
        def draw(self, examples: Examples) -> Draw:
            return Draw(rows=torch.zeros(0, dtype=torch.long))

    with pytest.raises(ValueError, match="Nothing.draw leaves no example to train on"):
        engine_of(Nothing(), (5,), Training(optimizer="sgd", steps=3, width=8, batch=4))


def test_random_numbers_are_a_seeds_own() -> None:
    training = Training(optimizer="sgd", steps=3, width=8)
    together, stacked = (engine_of(Noisy(), (5,), training, (0, 1), stacked=each) for each in (False, True))
    first, second = (engine.update().losses for engine in (together, stacked))
    alone = engine_of(Noisy(), (5,), training, (1,)).update().losses
    assert first[0] != first[1] and first[1] == alone[0] and torch.allclose(torch.stack(first), torch.stack(second))


def test_class_counts_and_the_number_of_steps_are_known() -> None:
    problem = engine_of(Plain(), (5,), Training(optimizer="sgd", steps=7, width=8)).losses.problems[0]
    assert problem.class_counts.tolist() == [40, 20] and (problem.steps, problem.outputs, problem.features) == (7, 1, 0)
    told = engine_of(OfFeatures(), (5,), Training(optimizer="sgd", steps=7, width=8)).losses.problems[0]
    assert told.features == 8


def test_a_mix_of_another_size_is_named() -> None:
    @dataclass(frozen=True)
    class Halved(Plain):
        def mix(self, x: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return x[::2], torch.ones(len(x) // 2, 2) / 2

    with pytest.raises(ValueError, match=r"mix gave inputs \[2, 5\] and labels \[2, 2\]; they must be of the shapes"):
        engine_of(Halved(), (5,), Training(optimizer="sgd", steps=3, width=8, batch=4)).update()


TEXT = '''"""A method for a test.

Source: none.
Needs: nothing.
Differs: nothing.
"""
from dataclasses import dataclass
import torch
from spurbench.bench.plugins.method import Draw, Method

@dataclass(frozen=True)
class Mine(Method):
    {hook}
    def loss(self, logits, batch, state, step):
        return batch.losses(logits).mean()
'''


@pytest.mark.parametrize(
    ("hook", "name", "words"),
    [
        ("def draw(self, examples): return examples.y", "draws", "returns a Tensor; expected Draw"),
        ("def draw(self, examples): return Draw(torch.tensor([0, 0]))", "draws", "each once"),
        ("def draw(self, examples): return Draw(torch.tensor([99]))", "draws", "not indices of examples"),
        ("def draw(self, examples): return Draw(weights=torch.ones(3))", "draws", "weights of the shape [3]; expected"),
        ("def draw(self, examples): return Draw(torch.randperm(60))", "draws", "draw must not draw random numbers"),
        ("def draw(self, examples): return Draw(examples.known_group)", "draws", "declare needs"),
        ("def mix(self, x, batch, generator): return x[:3], batch.y", "mixing", "mix gives inputs [3, 2, 14, 14]"),
        ("def mix(self, x, batch, generator): return x.zero_(), batch.y", "mixing", "changes x in place"),
        ("def mix(self, x, batch, generator): return x, torch.ones(len(x), 2)", "mixing", "not probabilities"),
        ("def mix(self, x, batch, generator): return torch.rand_like(x), batch.y", "mixing", "must not draw random"),
    ],
)
def test_wrong_hooks_are_named(tmp_path: Path, hook: str, name: str, words: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(TEXT.format(hook=hook))
    bad = {answer.name: answer.message for answer in check(path) if not answer.ok}
    assert list(bad) == [name] and words in bad[name], bad


def test_a_head_that_is_pulled_to_where_it_begins_has_no_batch_statistics() -> None:
    assert not has_batch_statistics(head_network((torch.ones(2, 3), torch.ones(2)), from_base=True))
