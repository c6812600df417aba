"""The statistics against scipy, and against numbers one can count."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from spurbench.bench.leaderboard import statistics

SAMPLES = [np.random.default_rng(seed).normal(1, 2, n).tolist() for seed, n in enumerate([2, 3, 5, 10, 14])]


@pytest.mark.parametrize("values", SAMPLES)
def test_mean_deviation_and_t_interval(values: list[float]) -> None:
    assert statistics.mean(values) == pytest.approx(np.mean(values))
    for ddof in (0, 1):
        assert statistics.std(values, ddof) == pytest.approx(np.std(values, ddof=ddof))
    expected = scipy_stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy_stats.sem(values))
    assert statistics.t_interval(values) == pytest.approx(expected)


def test_published_example_of_both_deviations() -> None:
    values = [23.1, 24.0, 22.5, 25.2]
    assert statistics.std(values, 0) == pytest.approx(1.0173495) and statistics.std(values) == pytest.approx(1.1747340)


@pytest.mark.parametrize("values", SAMPLES)
def test_sign_flips_are_the_exact_permutation_test(values: list[float]) -> None:
    found = scipy_stats.permutation_test(
        (np.array(values), np.zeros(len(values))), lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples", n_resamples=np.inf, vectorized=True,
    )  # fmt: skip
    assert statistics.sign_flip_p(values) == pytest.approx(found.pvalue)


@pytest.mark.parametrize(("n", "least"), [(3, 0.25), (5, 0.0625), (10, 2 / 1024)])
def test_smallest_p(n: int, least: float) -> None:
    assert statistics.sign_flip_p([1.0] * n) == pytest.approx(least)


def test_many_pairs_are_flipped_at_random_and_always_the_same() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 40).tolist()
    p = statistics.sign_flip_p(values)
    assert p == statistics.sign_flip_p(values)
    assert p == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue, abs=0.02)


def test_holm() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([]) == []


def test_share_of_better_seeds_counts_ties_half() -> None:
    assert statistics.share_above([1.0, -1.0, 0.0, 2.0]) == 0.625


def test_detectable_difference_has_its_power() -> None:
    generator = np.random.default_rng(3)
    spread = statistics.detectable([-1.0, 1.0] * 5)
    assert spread is not None
    deviation = statistics.std([-1.0, 1.0] * 5)
    runs = generator.normal(spread, deviation, (4000, 10))
    found = np.mean(scipy_stats.ttest_1samp(runs, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.025)


def test_collapsed_runs() -> None:
    assert statistics.count_collapsed([70, 71, 69, 70, 12, 10], 5.0, True) == 2
    assert statistics.count_collapsed([70, 71, 69, 70, 66, 72], 5.0, True) == 0
    assert statistics.count_collapsed([70, 10], 5.0, True) == 0


def test_an_interval_is_cut_at_what_is_possible_and_covers_as_often() -> None:
    assert statistics.t_interval([5.0, 95.0], limits=(0, 100)) == (0.0, 100.0)
    assert statistics.t_interval([50.0, 51.0, 52.0], limits=(0, 100)) == statistics.t_interval([50.0, 51.0, 52.0])
    beyond = statistics.t_interval([-5.0, 95.0], limits=(0, 100))
    assert beyond == statistics.t_interval([-5.0, 95.0]), "these limits are not theirs"
    shares = np.random.default_rng(2).beta(8, 2, (2000, 3))
    found = [(statistics.t_interval(row), statistics.t_interval(row, limits=(0, 1))) for row in shares.tolist()]
    covers = [[low <= 0.8 <= high for low, high in pair if pair] for pair in found]
    assert all(whole == cut for whole, cut in covers) and any(pair[0] != pair[1] for pair in found)
