"""Points: equal coordinates for equal options, and an even spread."""

import math

import pytest
import torch

from steepest.optim.catalogue import catalogue, find
from steepest.race.space import coordinates, points, rounded


def _share(method, point, name):
    """Where the option lies in its range, which for a rate is that of the effective rate."""
    value = method.rate(point) if name == "lr" else point[name]
    low, high = method.space[name].at(0.0), method.space[name].at(1.0)
    if low > 0.4 and high < 1:
        low, high, value = 1 - low, 1 - high, 1 - value
    return math.log(value / low) / math.log(high / low)


@pytest.mark.parametrize("a,b", [("sgd", "adam"), ("momentum", "adamw"), ("momentum", "nesterov"), ("rmsprop", "adam")])
def test_shared_options_have_the_same_coordinates(a, b):
    pairs = {("lr", "lr"), ("momentum", "beta1"), ("momentum", "momentum"), ("alpha", "beta2")}
    first, second = find(a), find(b)
    compared = 0
    for p, q in zip(points(first, 8, 0), points(second, 8, 0), strict=True):
        for x, y in pairs:
            if x in first.space and y in second.space:
                assert _share(first, p, x) == pytest.approx(_share(second, q, y), abs=2e-3)
                compared += 1
    assert compared >= 8


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_points_lie_in_their_ranges_and_options_differ(name):
    method = find(name)
    for point in points(method, 16, 1):
        assert all(-1e-3 <= _share(method, point, option) <= 1 + 1e-3 for option in point)
    for option in method.space:
        assert len({p[option] for p in points(method, 16, 1)}) > 12


def test_momentum_is_tuned_by_its_effective_rate():
    """With one gradient throughout x moves in the end by lr / (1 - momentum) times it a step, ten times the rate of plain descent."""
    for plain, summed in zip(points(find("sgd"), 16, 2), points(find("momentum"), 16, 2), strict=True):
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer, before = find("momentum").build([x], **summed), 0.0
        for _ in range(40 * math.ceil(1 / (1 - summed["momentum"]))):
            before = float(x.detach())
            x.grad = torch.ones_like(x)
            optimizer.step()
        assert before - float(x.detach()) == pytest.approx(10 * plain["lr"], rel=2e-3)


def test_rates_of_methods_that_average_are_their_own():
    assert {name for name, method in catalogue().items() if method.summed} == {"momentum", "nesterov", "lars", "sam"}
    assert find("adam").rate({"lr": 0.1, "beta1": 0.9}) == 0.1 and find("sam").rate({"lr": 0.1, "momentum": 0.9}) == pytest.approx(1.0)


def test_the_sequence_is_even_and_a_longer_one_begins_with_the_shorter():
    first = [u[0] for u in coordinates(16, 5)]
    assert sorted(int(16 * u) for u in first) == list(range(16))
    assert coordinates(32, 5)[:16] == coordinates(16, 5)
    assert coordinates(16, 6) != coordinates(16, 5)


def test_averaging_factors_keep_their_distance_from_one():
    assert rounded(0.9998765) == pytest.approx(1 - 1.235e-4, rel=1e-12)
    assert rounded(0.0123456) == 0.01235
