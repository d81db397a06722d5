"""Mean field theory against closed forms, and against wide random networks."""

import math

import pytest
import torch
import torch.nn.functional as F

from steepest.errors import UsageError
from steepest.numerics.mean_field import (
    correlation_map,
    critical_stds,
    depth_scale,
    fixed_variance,
    gaussian_mean,
    slope,
    variance_map,
)


def test_moments():
    assert gaussian_mean(torch.ones_like) == pytest.approx(1.0, abs=1e-12)
    assert gaussian_mean(lambda x: x**4, 2.0) == pytest.approx(12.0, rel=1e-13)
    assert gaussian_mean(torch.relu, 4.0) == pytest.approx(2.0 / math.sqrt(2.0 * math.pi), rel=1e-13)


def test_relu_is_critical_at_he():
    for q in (0.1, 1.0, 7.0):
        weight, bias = critical_stds(torch.relu, q)
        assert weight**2 == pytest.approx(2.0, rel=1e-12) and bias == 0.0
        assert variance_map(torch.relu, q, weight) == pytest.approx(q, rel=1e-12)
    leaky = critical_stds(lambda x: F.leaky_relu(x, 0.2))
    assert leaky[0] ** 2 == pytest.approx(2.0 / (1.0 + 0.2**2), rel=1e-12)


def test_relu_correlations_follow_the_arc_cosine_kernel():
    for c in (-1.0, -0.5, 0.0, 0.3, 0.9, 0.9999, 1.0):
        expected = (math.sqrt(1.0 - c * c) + (math.pi - math.acos(c)) * c) / math.pi
        assert correlation_map(torch.relu, c, 1.7, math.sqrt(2.0)) == pytest.approx(expected, abs=1e-10)


def test_erf_has_the_arcsine_kernel():
    q, c = 0.8, 0.4
    cross, own = (2.0 / math.pi * math.asin(2.0 * q * r / (1.0 + 2.0 * q)) for r in (c, 1.0))
    assert variance_map(torch.erf, q, 1.0) == pytest.approx(own, rel=1e-12)
    assert correlation_map(torch.erf, c, q, 1.3, 0.2) == pytest.approx((1.69 * cross + 0.04) / (1.69 * own + 0.04), rel=1e-12)


@pytest.mark.parametrize("activation", [torch.tanh, F.selu, F.gelu, torch.erf, F.elu])
def test_critical_means_that_variance_and_gradients_stay(activation):
    weight, bias = critical_stds(activation, 0.5)
    assert variance_map(activation, 0.5, weight, bias) == pytest.approx(0.5, rel=1e-10)
    assert slope(activation, 0.5, weight) == pytest.approx(1.0, rel=1e-10)
    # chi_1 is the slope of the correlation map at 1.
    d = 1e-5
    assert (1.0 - correlation_map(activation, 1.0 - d, 0.5, weight, bias)) / d == pytest.approx(1.0, rel=1e-3)


def test_what_has_no_critical_point_is_said():
    with pytest.raises(UsageError, match="edge of chaos"):
        critical_stds(torch.sigmoid, 0.01)


def test_fixed_points():
    assert fixed_variance(torch.tanh, 0.5) == 0.0
    assert fixed_variance(torch.relu, 1.5, 0.1) == math.inf
    assert fixed_variance(torch.relu, 1.0, 0.1) == pytest.approx(0.02, rel=1e-9)
    assert fixed_variance(torch.relu, math.sqrt(2.0), start=3.0) == pytest.approx(3.0, rel=1e-9)
    q = fixed_variance(torch.tanh, 1.5, 0.1)
    assert variance_map(torch.tanh, q, 1.5, 0.1) == pytest.approx(q, rel=1e-12)
    assert depth_scale(1.0) == math.inf and depth_scale(math.e) == pytest.approx(1.0)


def test_a_wide_network_does_as_predicted():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, weight, bias, c = 4000, 1.5, 0.3, 0.6
    z = random(2, n)
    z[1] = c * z[0] + math.sqrt(1.0 - c * c) * z[1]
    after = torch.tanh(z) @ random(n, n).mul_(weight / math.sqrt(n)) + bias * random(n)
    q = variance_map(torch.tanh, 1.0, weight, bias)
    assert after.square().mean(1).tolist() == pytest.approx([q, q], rel=0.1)
    measured = float(after[0] @ after[1] / after.norm(dim=1).prod())
    assert measured == pytest.approx(correlation_map(torch.tanh, c, 1.0, weight, bias), abs=0.05)
