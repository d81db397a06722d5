"""Exact rates, floors and stable steps against closed forms of the literature and against the recursions themselves."""

import math

import numpy as np
import pytest
import torch

from steepest.measures import stability
from steepest.studies import quadratics
from steepest.studies.quadratics import Tuning, delayed_radius, largest_stable_step, largest_stable_step_with


@pytest.mark.parametrize("kappa", [3.0, 10.0, 1000.0])
def test_rates_of_the_tunings(kappa):
    h, root = np.geomspace(1.0 / kappa, 1.0, 9), math.sqrt(kappa)
    # A double root is known to the square root of the rounding.
    assert quadratics.gradient_descent(1.0, 1.0 / kappa).radius(h) == pytest.approx((kappa - 1) / (kappa + 1), rel=1e-12)
    assert quadratics.heavy_ball(1.0, 1.0 / kappa).radius(h) == pytest.approx((root - 1) / (root + 1), rel=1e-6)
    assert quadratics.nesterov(1.0, 1.0 / kappa).radius(h) == pytest.approx(1 - 1 / root, rel=1e-6)
    assert quadratics.nesterov_fastest(1.0, 1.0 / kappa).radius(h) == pytest.approx(1 - 2 / math.sqrt(3 * kappa + 1), rel=1e-6)


@pytest.mark.parametrize("tune", [quadratics.heavy_ball, quadratics.nesterov_fastest])
def test_no_neighbour_is_faster(tune):
    h, best = np.geomspace(0.01, 1.0, 200), tune(1.0, 0.01)
    for rate, momentum in [(0.97, 1.0), (1.03, 1.0), (1.0, 0.98), (1.0, 1.02), (1.02, 1.02), (0.98, 0.98), (1.02, 0.98)]:
        assert Tuning(best.rate * rate, best.momentum * momentum, best.nesterov).radius(h) > best.radius(h)


@pytest.mark.parametrize("tuning", [Tuning(0.3), Tuning(0.3, 0.8), Tuning(0.3, 0.8, True)])
def test_the_recursion_is_what_torch_does(tuning):
    h = np.array([0.1, 0.7, 1.0])
    matrix, entry = tuning.transition(h)
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], tuning.rate, tuning.momentum, nesterov=tuning.nesterov)
    state, generator = np.stack([np.ones(3), np.zeros(3)], -1), np.random.default_rng(0)
    for _ in range(20):
        noise = generator.normal(size=3)
        x.grad = torch.from_numpy(h) * x.detach() + torch.from_numpy(noise)
        optimizer.step()
        state = np.einsum("nij,nj->ni", matrix, state) + entry * noise[:, None]
        assert np.allclose(x.detach().numpy(), state[:, 0], rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_floor_of_heavy_ball_in_closed_form(momentum):
    h, rate = np.array([0.02, 0.3, 1.0]), 0.4
    closed = rate * (1 + momentum) / (h * (1 - momentum) * (2 * (1 + momentum) - rate * h))
    tuning = Tuning(rate, momentum)
    assert np.allclose(tuning.moments(h, 1.0)[:, 0, 0], closed, rtol=1e-10)
    assert tuning.floor(h, 4.0) == pytest.approx(2.0 * float(np.sum(h * closed)))
    assert Tuning(2.5).floor(h) == math.inf


@pytest.mark.parametrize("nesterov", [False, True])
def test_expected_losses_against_the_recursion(nesterov):
    h, start, tuning = np.array([0.05, 1.0]), np.array([3.0, -1.0]), Tuning(0.3, 0.7, nesterov)
    matrix, entry = tuning.transition(h)
    moment = np.zeros((2, 2, 2))
    moment[:, 0, 0] = start**2
    losses = []
    for _ in range(41):
        losses.append(0.5 * np.sum(h * moment[:, 0, 0]))
        moment = matrix @ moment @ matrix.swapaxes(1, 2) + 0.2 * entry[:, :, None] * entry[:, None, :]
    assert np.allclose(tuning.expected_losses(h, start, 0.2, range(41)), losses, rtol=1e-10)


def simulated_growth(step, delay, momentum, steps):
    """The factor a step in the second half of the recursion itself."""
    x = [1.0] * (delay + 2)
    seen = []
    for _ in range(steps):
        x.append(x[-1] + momentum * (x[-1] - x[-2]) - step * x[-1 - delay])
        seen.append(max(abs(v) for v in x[-delay - 20 :]))
    return (seen[-1] / seen[steps // 2]) ** (1.0 / (steps - 1 - steps // 2))


@pytest.mark.parametrize("delay", [0, 1, 2, 7, 30])
def test_largest_stable_step_of_late_gradients(delay):
    edge = largest_stable_step(delay)
    assert delayed_radius(0.99 * edge, delay) < 1.0 < delayed_radius(1.01 * edge, delay)
    assert delayed_radius(edge, delay) == pytest.approx(1.0, abs=1e-9)
    assert largest_stable_step_with(0.0, delay) == pytest.approx(edge, rel=1e-5)


@pytest.mark.parametrize(("delay", "momentum"), [(0, 0.0), (1, 0.0), (5, 0.0), (0, 0.6), (1, 0.6), (4, 0.5)])
def test_delayed_radius_against_the_recursion(delay, momentum):
    for share in (0.7, 1.02):
        step = share * largest_stable_step_with(momentum, delay)
        assert simulated_growth(step, delay, momentum, 400) == pytest.approx(delayed_radius(step, delay, momentum), rel=2e-3)


def test_edges_without_delay_are_those_of_the_edge_of_stability():
    assert largest_stable_step(0) == pytest.approx(stability.gradient_descent())
    assert largest_stable_step_with(0.9, 0) == pytest.approx(stability.heavy_ball(0.9), rel=1e-5)
