"""Figures of a race against their definitions."""

import itertools
import math

import numpy as np
import pytest

from steepest.race.statistics import expected_best, median_interval, performance_profile, ratios


def test_a_median_between_a_number_and_a_miss_is_a_miss():
    assert median_interval([1.0, 2.0, math.inf, math.inf]).value == math.inf
    assert median_interval([1.0, 2.0, 4.0, math.inf]).value == 3.0
    assert median_interval([3.0]).low == median_interval([3.0]).high == 3.0


def test_misses_are_large_values():
    interval = median_interval([10.0] * 6 + [math.inf] * 4)
    assert (interval.value, interval.low, interval.high) == (10.0, 10.0, math.inf)
    assert median_interval([math.inf] * 5).low == math.inf


@pytest.mark.parametrize(
    "draw", [lambda g, n: g.normal(size=n), lambda g, n: g.exponential(size=n) - math.log(2)], ids=["normal", "skewed"]
)
def test_intervals_cover_the_median(draw):
    generator = np.random.default_rng(1)
    intervals = [median_interval(draw(generator, 10), resamples=1000, seed=k) for k in range(400)]
    covered = sum(i.low <= 0 <= i.high for i in intervals)
    # 376 are expected at 94 %, with a standard error of five.
    assert 360 <= covered <= 395


def test_intervals_are_the_same_for_the_same_seed():
    values = np.random.default_rng(0).normal(size=9).tolist()
    assert median_interval(values) == median_interval(values)
    assert median_interval(values) == median_interval(values[::-1])


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_expected_best_by_all_draws(n):
    values = np.random.default_rng(n).exponential(size=n).tolist()
    values[0] = values[-1]
    slow = [np.mean([min(drawn) for drawn in itertools.combinations(values, k)]) for k in range(1, n + 1)]
    assert expected_best(values) == pytest.approx(slow, rel=1e-12)


def _profile_by_definition(costs, method, factor):
    solved = 0
    for problem in costs:
        least = min(problem)
        solved += math.isfinite(problem[method]) and problem[method] <= factor * least * (1 + 1e-15)
    return solved / len(costs)


def test_profiles_by_definition():
    generator = np.random.default_rng(3)
    costs = generator.integers(1, 30, (12, 4)).astype(float)
    costs[generator.random((12, 4)) < 0.25] = math.inf
    costs[5] = math.inf
    for method, profile in enumerate(performance_profile(costs.tolist())):
        assert profile[0][0] == 1.0
        assert profile[-1][1] == pytest.approx(np.isfinite(costs[:, method]).mean())
        for factor, share in profile:
            assert share == pytest.approx(_profile_by_definition(costs.tolist(), method, factor))
        assert all(b[1] >= a[1] and b[0] > a[0] for a, b in itertools.pairwise(profile))


def test_ratios_of_misses():
    assert ratios([10.0, math.inf, math.inf, 5.0], [5.0, 5.0, math.inf, math.inf]) == [2.0, math.inf, 1.0, 0.0]
