"""The datasets are the published ones, draw by draw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import BadData, Data
from spurbench.bench.training.replica import prepare

CLASS = registry.load_dataset("colored_mnist")
MODULE: Any = __import__("sys").modules[CLASS.__module__]
ERM = registry.load_method("erm")()


def drawn(seed: int, width: int = 300, method: Any = ERM, **options: Any) -> Any:
    dataset = CLASS(**options)
    return prepare(dataset, method, replace(dataset.training, width=width), seed)


def counts(data: Data, e: int | None) -> list[int]:
    """Label 1, colour ≠ label, colour 1."""
    split = data.train if e is not None else data.tests["test"]
    chosen = slice(None) if e is None else split.environment == e
    y, a = split.y[chosen], split.attribute[chosen]
    return [int(y.sum()), int((y != a).sum()), int(a.sum())]


def test_seed_1234_has_the_published_draws() -> None:
    seed = drawn(1234)
    assert counts(seed.data, 0) == [12679, 4964, 12525]
    assert counts(seed.data, 1) == [12544, 2469, 12485]
    assert counts(seed.data, None) == [5080, 9062, 4942]
    test = seed.data.tests["test"]
    assert test.y[:8].tolist() == [0, 1, 0, 0, 0, 1, 0, 0] and test.attribute[:8].tolist() == [1, 0, 1, 1, 1, 0, 1, 1]
    assert sum(p.numel() for p in seed.networks[0].parameters()) == 208_501


def test_seed_1234_shuffles_as_published() -> None:
    order = np.arange(50_000)
    np.random.RandomState(1234).shuffle(order)
    assert order[:4].tolist() == [20308, 37706, 6041, 42143]
    assert MODULE.mnist14()[1][order[:10]].tolist() == [9, 7, 8, 6, 3, 6, 6, 0, 8, 9]


@pytest.mark.parametrize(("width", "blank", "label"), [(300, (944, 4995), None), (390, None, (5032, 5041))])
def test_probe_environments_of_seed_1243(width: int, blank: Any, label: Any) -> None:
    """They are drawn after the network, so they depend on its width."""
    tests = drawn(1243, width).data.tests
    grey, coloured = tests["grey_blank"], tests["coloured_blank"]
    if blank:
        assert (int((coloured.y == coloured.attribute).sum()), int(grey.y.sum())) == blank
    if label:
        assert (int(grey.y.sum()), int(coloured.y.sum())) == label


def test_probe_pictures() -> None:
    tests = drawn(1234).data.tests
    digit, grey, blank = tests["coloured_digit"].x, tests["grey_digit"].x, tests["grey_blank"].x
    assert torch.allclose(digit.sum(1), grey.sum(1)) and torch.equal(grey[:, 0], grey[:, 1])
    assert (digit.amin((2, 3)).amax(1) == 0).all() and (digit[:, 0] * digit[:, 1]).abs().max() == 0
    assert torch.allclose(blank, torch.tensor(0.129058 / 2), atol=1e-6)
    assert torch.allclose(tests["coloured_blank"].x.sum(1), torch.tensor(0.129058), atol=1e-6)


def test_fewer_training_pictures() -> None:
    data = drawn(1234, train_size=1000).data
    assert len(data.train.y) == 1000 and (data.train.environment == 0).sum() == 500
    assert len(data.tests["test"].y) == 10_000


def test_sizes_that_cannot_be() -> None:
    for size in (-5, 0, 1, 60_000):
        with pytest.raises(UserError, match="train_size is"):
            registry.load_dataset("colored_mnist")(train_size=size)
    with pytest.raises(UserError, match="examples is 1"):
        registry.load_dataset("two_moon")(examples=1)


def test_training_pictures_are_ordered_by_colour() -> None:
    train = drawn(1234, train_size=1000).data.train
    zeros = int((train.attribute == 0).sum())
    assert train.attribute.tolist() == [0] * zeros + [1] * (1000 - zeros)
    assert train.x[:zeros, 1].max() == 0 and train.x[zeros:, 0].max() == 0


def test_oracle_sees_the_grey_picture() -> None:
    oracle = registry.load_method("oracle")()
    seed = drawn(1234, 83, oracle, train_size=100)
    x = seed.data.train.x
    assert torch.equal(oracle.transform(x), x.amax(1))
    assert next(seed.networks[0].parameters()).shape == (83, 196)


def test_a_damaged_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "mnist14.npz"
    broken.write_bytes(MODULE.FILE.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(MODULE, "FILE", broken)
    MODULE.mnist14.cache_clear()
    with pytest.raises(BadData, match="damaged"):
        drawn(0)
    MODULE.mnist14.cache_clear()


# ---- Two-Moon -----------------------------------------------------------------------------------------------------

MOON = registry.load_dataset("two_moon")


def test_seed_0_has_the_published_points() -> None:
    points, y = MOON(delta=0.1).points(0)
    assert np.allclose(points[:3], [(-1.187134, 0.271744), (-0.901030, -0.310584), (0.604228, 0.418359)], atol=1e-6)
    assert y[:3].tolist() == [1, 1, 0]
    assert np.isclose((-(2 * y - 1) * points[:, 0]).min(), 0.102556, atol=1e-6)
    assert np.allclose(points.mean(0), (0.001054, -0.011957), atol=1e-6)


def test_crossing_and_rotated_points() -> None:
    points, y = MOON(delta=-0.1).points(0)
    assert np.allclose(points[0], (-0.987134, 0.271744), atol=1e-6)
    assert (-(2 * y - 1) * points[:, 0] < 0).sum() == 12
    assert np.allclose(MOON(rotation=45).points(0)[0][0], (-0.647278, 1.031583), atol=1e-6)


def measured(score: Any, **options: Any) -> dict[str, dict[str, float]]:
    dataset = MOON(**options)
    return dataset.measures(score, prepare(dataset, ERM, dataset.training, 0).data)


@pytest.mark.parametrize("rotation", [0.0, 45.0])
def test_measures_of_a_straight_boundary(rotation: float) -> None:
    dataset = MOON(rotation=rotation)
    turn = torch.from_numpy(dataset.turn).float()
    found = measured(lambda x: -(x @ turn.T)[:, 0], rotation=rotation)
    assert found["train"]["min_margin"] == pytest.approx(0.102556, abs=1e-3)
    assert found["grid"]["easy_share"] > 0.99  # turned by 45°, a diagonal of the grid lies on the boundary


def test_measures_of_a_circle() -> None:
    points, _ = MOON().points(0)
    found = measured(lambda x: x.norm(dim=1) - 1.5)
    distance = np.abs(np.linalg.norm(points, axis=1) - 1.5)
    assert found["train"]["min_margin"] == pytest.approx(distance.min(), abs=6e-3)  # half the lattice's pitch
    assert found["train"]["median_margin"] == pytest.approx(np.median(distance), abs=2e-3)


def test_a_constant_prediction_has_no_margin() -> None:
    def score(x: Tensor) -> Tensor:
        return torch.ones(len(x))

    assert set(measured(score)) == {"grid"}


# ---- film notes -----------------------------------------------------------------------------------------------------

NOTES = registry.load_dataset("film_notes")
NOTES_MODULE: Any = __import__("sys").modules[NOTES.__module__]


@pytest.mark.parametrize("agreement", [0.0, 0.7, 0.95, 1.0])
def test_a_genre_agrees_as_often_as_asked(agreement: float) -> None:
    """P(a | y) of training is the knob's, for either class; validation and test are even."""
    dataset = NOTES(agreement=agreement)
    data = prepare(dataset, ERM, dataset.training, 0).data
    for split, share in ((data.train, agreement), *((test, 0.5) for test in data.tests.values())):
        for y in (0, 1):
            agreeing = (split.attribute == split.y)[split.y == y].double()
            assert agreeing.mean() == pytest.approx(share, abs=3 * (share * (1 - share) / len(agreeing)) ** 0.5)


def test_what_film_notes_say() -> None:
    """One genre and five opinions, four fifths of them of the note's tone here; marks around 8 to 30 words."""
    words = NOTES_MODULE.WORDS
    assert len(set(words)) == len(words) <= NOTES.training.network["vocabulary"]
    train = prepare(NOTES(clarity=0.8), ERM, NOTES.training, 0).data.train
    ids, mask = train.x["ids"], train.x["mask"]
    genre = (ids >= NOTES_MODULE.KINDS) & (ids < NOTES_MODULE.REST)
    assert (genre.sum(1) == 1).all() and torch.equal((ids[genre] >= NOTES_MODULE.KINDS + 10).long(), train.attribute)
    opinion = (ids >= NOTES_MODULE.TONES) & (ids < NOTES_MODULE.KINDS)
    praise = (ids >= NOTES_MODULE.TONES + 10) & opinion
    assert (opinion.sum(1) == 5).all()
    assert (praise == (train.y[:, None] == 1))[opinion].double().mean() == pytest.approx(0.8, abs=0.01)
    assert (ids[:, 0] == 2).all() and ((ids == 3).sum(1) == 1).all() and torch.equal(mask, ids != 0)
    assert mask.sum(1).unique().tolist() == list(range(10, 33))
    with pytest.raises(UserError, match="film_notes: examples=8000, agreement=1.5, .*; expected 0 to 1"):
        prepare(NOTES(agreement=1.5), ERM, NOTES.training, 0)
