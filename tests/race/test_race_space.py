"""Points: equal coordinates for equal options, and an even spread."""

import math

import pytest

from steepest.optim.catalogue import catalogue, find
from steepest.race.space import coordinates, points, rounded


def _share(space, name, value):
    low, high = space[name].at(0.0), space[name].at(1.0)
    if low > 0.4 and high < 1:
        low, high, value = 1 - low, 1 - high, 1 - value
    return math.log(value / low) / math.log(high / low)


@pytest.mark.parametrize("a,b", [("sgd", "adam"), ("momentum", "adamw"), ("momentum", "nesterov"), ("rmsprop", "adam")])
def test_shared_options_have_the_same_coordinates(a, b):
    pairs = {("lr", "lr"), ("momentum", "beta1"), ("momentum", "momentum"), ("alpha", "beta2")}
    first, second = find(a).space, find(b).space
    compared = 0
    for p, q in zip(points(first, 8, 0), points(second, 8, 0), strict=True):
        for x, y in pairs:
            if x in first and y in second:
                assert _share(first, x, p[x]) == pytest.approx(_share(second, y, q[y]), abs=2e-3)
                compared += 1
    assert compared >= 8


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_points_lie_in_their_ranges_and_options_differ(name):
    space = find(name).space
    for point in points(space, 16, 1):
        for option, value in point.items():
            low, high = sorted((space[option].at(0.0), space[option].at(1.0)))
            assert low * (1 - 1e-3) <= value <= high * (1 + 1e-3)
    for option in space:
        assert len({p[option] for p in points(space, 16, 1)}) > 12


def test_the_sequence_is_even_and_a_longer_one_begins_with_the_shorter():
    first = [u[0] for u in coordinates(16, 5)]
    assert sorted(int(16 * u) for u in first) == list(range(16))
    assert coordinates(32, 5)[:16] == coordinates(16, 5)
    assert coordinates(16, 6) != coordinates(16, 5)


def test_averaging_factors_keep_their_distance_from_one():
    assert rounded(0.9998765) == pytest.approx(1 - 1.235e-4, rel=1e-12)
    assert rounded(0.0123456) == 0.01235
