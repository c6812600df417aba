"""Attacks: the numeric checks of the released code, Foolbox on the same network, and the search for margins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from spurbench.bench.core.errors import UserError
from spurbench.bench.evaluation.attacks import Target, correct_after_pgd, find_margins, margin_loss, pgd
from spurbench.bench.evaluation.counting import predict
from spurbench.bench.jobs.scoring import attacked
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data, Margins, Pgd, Split, Training, to_numbers
from spurbench.bench.training.batching import Preprocessing
from spurbench.bench.training.model import Model
from spurbench.bench.training.replica import build_network

PLAIN = Preprocessing(lambda u: u)


def none() -> None:
    pass


def test_on_a_linear_logit() -> None:
    """Check N28."""
    u, y = torch.tensor([[0.5, 0.99, 0.01]]), torch.tensor([1])

    def logit(v: Tensor) -> Tensor:
        return v @ torch.tensor([2.0, -1.0, 0.5]) + 0.1

    x = pgd(logit, u, y, Pgd(eps=5 / 255, step=0.5 / 255))
    assert torch.allclose(x, torch.tensor([[0.48039216, 1.0, 0.0]]), atol=1e-6)
    assert logit(u).item() == pytest.approx(0.115) and logit(x).item() == pytest.approx(0.06078431, abs=1e-6)


def test_mounts() -> None:
    """Check N29: gradients through the normalisation, or at images that were not normalised."""
    u, y = torch.tensor([[0.4, 0.3]]), torch.tensor([1])
    target = Target(lambda v: v[:, 0] ** 2 - v[:, 1], Preprocessing(lambda v: v, (0.5,), (0.25,)))
    how = Pgd(eps=0.02, step=0.002)
    right, wrong = pgd(target.mounted, u, y, how), pgd(target.network, u, y, how)
    assert torch.allclose(right, torch.tensor([[0.42, 0.32]]), atol=1e-6)
    assert torch.allclose(wrong, torch.tensor([[0.38, 0.32]]), atol=1e-6)
    scores = [target.mounted(x).item() for x in (right, wrong, u)]
    assert scores == pytest.approx([0.8224, 0.9504, 0.96], abs=1e-5)


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("start", [False, True])
def test_disturbances_stay_within_eps_and_the_pixels(norm: str, start: bool) -> None:
    u = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    how = Pgd(norm=norm, eps=0.3, step=0.2, steps=5, random_start=start)
    x = pgd(lambda v: v.flatten(1).sum(1) - 100, u, torch.ones(20), how, torch.Generator().manual_seed(1))
    change = (x - u).flatten(1)
    size = change.abs().amax(1) if norm == "inf" else change.norm(dim=1)
    assert (size <= 0.3 + 1e-5).all() and size.max() > 0.2 and 0 <= x.min() and x.max() <= 1


def trained() -> tuple[Target, Tensor, Tensor]:
    """A small network that has learned something about noise, and its pictures."""
    torch.manual_seed(0)
    x, y = torch.rand(120, 3, 20, 20), torch.arange(120) % 2
    x[y == 1, 0] = x[y == 1, 0] * 0.9 + 0.05
    network = build_network((3, 20, 20), 2, Training(network="small_conv"))
    pixels = Preprocessing(lambda u: u, (0.5, 0.4, 0.6), (0.5, 0.25, 0.3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(pixels.normalize(x)), y).backward()
        optimizer.step()
    return Target(network.eval(), pixels), x, y


@pytest.fixture(scope="module")
def network() -> tuple[Target, Tensor, Tensor]:
    return trained()


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_success_agrees_with_foolbox(network: tuple[Target, Tensor, Tensor], norm: str) -> None:
    foolbox = pytest.importorskip("foolbox")
    target, x, y = network
    eps = {"inf": 0.01, "2": 0.15}[norm]
    scale: dict[str, Any] = {"mean": target.preprocessing.mean, "std": target.preprocessing.std, "axis": -3}
    model = foolbox.PyTorchModel(target.network, bounds=(0, 1), preprocessing=scale)
    attack = {"inf": foolbox.attacks.LinfPGD, "2": foolbox.attacks.L2PGD}[norm](
        abs_stepsize=eps / 5, steps=12, random_start=False
    )
    _, _, fooled = attack(model, x, y, epsilons=eps)
    ours = correct_after_pgd(target, x, y, Pgd(norm=norm, eps=eps, step=eps / 5, steps=12, batch=50), 0, none)
    assert 0.1 < fooled.float().mean() < 0.9 and (ours == ~fooled).float().mean() >= 0.99


def test_the_released_attack_on_another_scale(network: tuple[Target, Tensor, Tensor]) -> None:
    """CIFAR-100's images were attacked on CIFAR-10's scale: what the network sees is the same until it is moved."""
    target, x, y = network
    how = Pgd(eps=0.0, step=0.0, steps=1, mount="released", mean=(0.5,) * 3, std=(0.2,) * 3)  # stays within [0, 1]
    plain = predict(target.mounted(to_numbers(x))) == y
    assert 0 < plain.sum() and torch.equal(correct_after_pgd(target, x, y, how, 0, none), plain)
    far = replace(how, eps=0.2, step=0.05, steps=10)
    assert correct_after_pgd(target, x, y, far, 0, none).sum() < plain.sum()


def test_attacks_in_words() -> None:
    assert Pgd.parse("inf 8/255 2/255 50 random") == Pgd(eps=8 / 255, step=2 / 255, steps=50, random_start=True)
    assert Pgd.parse("2 0.5 0.1 10") == Pgd(norm="2", eps=0.5, step=0.1, steps=10)
    for text in ("inf 8/255", "inf 8/0 2/255 50", "inf a b c", "inf 1 1 1 sideways", ""):
        with pytest.raises(UserError, match="expected NORM EPS STEP STEPS"):
            Pgd.parse(text)
    with pytest.raises(UserError, match="negative"):
        Pgd.parse("inf -0.1 0.1 5")
    chosen = registry.load_dataset("cifar100")(attack="2 0.5 0.1 10").attacks()  # type: ignore[call-arg]
    assert set(chosen) == {"pgd_as_released_accuracy", "pgd_accuracy", "further_pgd_accuracy"}


def test_margins_of_a_linear_network_are_exact() -> None:
    """|w·u + b| / ‖w‖₁, up to the search's step: no attack overshoots by more than one."""
    torch.manual_seed(0)
    u, w = 0.3 + 0.4 * torch.rand(40, 1, 2, 2), torch.tensor([1.0, -2.0, 0.5, 1.5])
    target = Target(lambda v: v.flatten(1) @ w - 0.5, PLAIN)
    y = (target.mounted(u) > 0).long()
    y[:3] = 1 - y[:3]
    found = find_margins(target, u, y, Margins(batch=16), none)
    exact = target.mounted(u).abs() / w.abs().sum()
    assert (found[:3] == 0).all() and (found[3:] >= exact[3:] - 1e-6).all()
    assert (found[3:] <= exact[3:] * (1 + 1 / 20) + 1e-6).all()


def test_margins_where_the_loss_is_flat() -> None:
    """A network too sure of itself has no slope left in float32; its logits have."""
    torch.manual_seed(0)
    u, w, y = 0.3 + 0.4 * torch.rand(8, 1, 2, 2), torch.tensor([1.0, -2.0, 0.5, 1.5]), torch.ones(8, dtype=torch.long)
    tame, sure = (
        Target(lambda v, scale=scale: torch.stack([torch.zeros(len(v)), scale * (v.flatten(1) @ w + 0.5)], 1), PLAIN)
        for scale in (1.0, 1e4)
    )
    expected = find_margins(tame, u, y, Margins(), none)
    assert expected.isfinite().all() and find_margins(sure, u, y, Margins(), none).isinf().all()
    assert torch.allclose(find_margins(sure, u, y, Margins(gradient="logits"), none), expected, atol=1e-4)
    assert margin_loss(torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([1])).tolist() == [-3.0]
    assert margin_loss(torch.tensor([2.0, 2.0]), torch.tensor([0, 1])).tolist() == [2.0, -2.0]


def test_margins_of_batches_equal_those_of_single_pictures(network: tuple[Target, Tensor, Tensor]) -> None:
    target, x, y = network
    how = Margins(steps=10, tries=6)
    together = find_margins(target, x[:6], y[:6], how, none)
    alone = torch.cat([find_margins(target, x[i : i + 1], y[i : i + 1], how, none) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-5) and (together > 0).any()
    hopeless = Target(lambda v: v.flatten(1).sum(1) * 0 + 1, PLAIN)  # nothing flips it
    assert find_margins(hopeless, x[:2], torch.ones(2), how, none).isinf().all()


def test_an_attack_that_stands_still_is_given_up() -> None:
    """Without a slope nothing moves: one look at the slope in all, not one for each eps and step."""
    seen = []

    def flat(v: Tensor) -> Tensor:
        seen.append(len(v))
        return v.flatten(1).sum(1) * 0 + 1

    assert (
        find_margins(Target(flat, PLAIN), torch.rand(5, 3, 4, 4), torch.ones(5), Margins(tries=6), none).isinf().all()
    )
    assert len(seen) == 1


def test_what_no_attack_can_be() -> None:
    with pytest.raises(UserError, match="eps -0.1 .* negative"):
        Pgd(eps=-0.1)
    with pytest.raises(UserError, match="an attack of 0 steps: it takes 1 or more"):
        Pgd.parse("inf 8/255 2/255 0")
    with pytest.raises(UserError, match="inf or 2"):
        replace(Pgd(), norm="1")


def test_a_network_that_nothing_flips_has_a_curve_and_no_margin() -> None:
    """A constant prediction, right for most: their margin is infinite, which no record could hold."""
    split = Split(torch.rand(10, 1, 4, 4), (torch.arange(10) < 6).long())
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1), torch.nn.Flatten(0))
    for parameter, value in zip(network.parameters(), (0.0, 1.0), strict=True):
        torch.nn.init.constant_(parameter, value)
    data = Data(split, {})
    model = Model(0, data, network, {}, network, Preprocessing(), torch.device("cpu"), 10)
    measures, curves = attacked(model, {"margin": Margins(steps=2, tries=1)}, lambda: None)
    assert measures == {} and curves["margin"].flipped[-1] == 4
