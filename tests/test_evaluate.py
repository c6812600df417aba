"""Logits to counts."""

from __future__ import annotations

import math

import pytest
import torch

from spurbench.bench.evaluation.counting import count, count_parts, count_random_guess, entropy
from spurbench.bench.plugins.dataset import Data, Split


@pytest.mark.parametrize(("z", "mean"), [((2, -1, 0.5, -3), 0.45031230), ((0, 4, -4, 1), 0.36388495)])
def test_entropy(z: tuple[float, ...], mean: float) -> None:
    """The published values have 1e-8 inside one logarithm."""
    assert entropy(torch.tensor(z, dtype=torch.float64)).mean().item() == pytest.approx(mean, abs=3e-8)


def test_entropy_of_certainty_is_zero() -> None:
    assert entropy(torch.tensor([1e4, -1e4])).tolist() == [0.0, 0.0]


def data() -> tuple[Split, Data]:
    y, a = torch.tensor([1, 0, 0, 1]), torch.tensor([1, 1, 0, 1])
    split = Split(torch.zeros(4, 1), y, a, torch.tensor([0, 0, 1, 1]))
    return split, Data(split, {}, attributes=2, environments=2)


def test_counts_of_groups_and_environments() -> None:
    split, whole = data()
    z = torch.tensor([2.0, -1.0, 0.5, -3.0])
    found = count_parts("train", z, split, whole)
    assert set(found) == {"train", "train_e0", "train_e1"}
    assert found["train"].n == [1, 1, 0, 2] and found["train"].correct == [0, 1, 0, 1]
    assert found["train_e0"].n == [0, 1, 0, 1] and found["train_e0"].correct == [0, 1, 0, 1]
    assert found["train"].loss_sum == pytest.approx(4.46285403)
    assert found["train_e0"].loss_sum + found["train_e1"].loss_sum == pytest.approx(4.46285403)


def test_several_classes() -> None:
    split = Split(torch.zeros(2, 1), torch.tensor([2, 0]))
    found = count(torch.tensor([[0.0, 1.0, 5.0], [0.0, 1.0, 0.0]]), split, Data(split, {}, classes=3))
    assert found.n == [1, 0, 1] and found.correct == [0, 0, 1]


def test_a_uniform_guess() -> None:
    split, whole = data()
    found = count_random_guess(split, whole)
    assert sum(found.correct) == 2 and found.entropy_sum == pytest.approx(4 * math.log(2))
