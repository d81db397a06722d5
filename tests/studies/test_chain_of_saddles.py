"""The chain of saddles: its gradient, its smoothness, its saddles and the time that it takes."""

import math

import pytest
import torch

from steepest.studies.chain_of_saddles import Chain, Perturbation, in_ball, steps_to_minimum

CHAINS = [Chain(), Chain(1.5, 0.7, 2.0)]


def points(chain, count=400, d=4, seed=0):
    """In every part of the tubes: past coordinates around 4 reach, one on its way, later ones within reach."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(0, d + 1, (count, 1), generator=generator) - torch.arange(d)
    u = torch.rand(count, d, dtype=torch.float64, generator=generator)
    a = torch.where(place > 0, 2.0 + 4.0 * u, torch.where(place == 0, 2.0 * u, u)) * chain.reach
    return a * torch.where(torch.rand(count, d, generator=generator) < 0.5, -1.0, 1.0)


@pytest.mark.parametrize("chain", CHAINS)
def test_the_gradient_is_that_of_the_value(chain):
    x = points(chain)
    for j in range(x.shape[1]):
        e = torch.zeros(x.shape[1], dtype=torch.float64)
        e[j] = 1e-6
        slope = (chain.value(x + e) - chain.value(x - e)) / 2e-6
        assert torch.allclose(slope, chain.gradient(x)[:, j], atol=2e-6)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("at", [1.0, 2.0])
def test_value_gradient_and_curvature_are_continuous_where_parts_meet(chain, at):
    for k in range(3):
        x = torch.full((1, 3), 0.3 * chain.reach, dtype=torch.float64)
        x[0, :k] = 3.7 * chain.reach
        x[0, k] = at * chain.reach
        # Of both coordinates that the joint moves.
        e = torch.zeros(3, dtype=torch.float64)
        e[k] = 1e-7
        below, above = x - e, x + e
        assert torch.allclose(chain.value(below), chain.value(above), atol=1e-5)
        assert torch.allclose(chain.gradient(below), chain.gradient(above), atol=1e-5)
        bend = [(chain.gradient(y + 50 * e) - chain.gradient(y - 50 * e)) / 1e-5 for y in (x - 51 * e, x + 51 * e)]
        assert torch.allclose(*bend, atol=1e-3)


def test_saddles_are_strict_and_the_end_is_a_minimum():
    chain, d = Chain(), 3
    for k in range(d + 1):
        x = torch.zeros(1, d, dtype=torch.float64)
        x[0, :k] = 4.0
        assert chain.gradient(x).abs().max() == 0.0
        curvature = [
            (chain.gradient(x + h) - chain.gradient(x - h))[0, j] / 2e-4 for j, h in enumerate(1e-4 * torch.eye(d, dtype=torch.float64))
        ]
        assert sum(float(c) < 0 for c in curvature) == (k < d)
    assert chain.value(torch.full((1, d), 4.0, dtype=torch.float64)).item() == pytest.approx(-3 * chain.depth)


def test_time_grows_by_the_factor_that_is_predicted():
    chain, rate = Chain(), 0.1
    start = torch.full((1, 7), 0.5, dtype=torch.float64)
    steps = [float(steps_to_minimum(chain, start[:, :d], rate, 20000)) for d in range(1, 8)]
    assert chain.factor(rate) == pytest.approx(1 + math.log(1 / 0.8) / math.log(1.2))
    assert steps[-1] / steps[-2] == pytest.approx(chain.factor(rate), rel=0.1)
    perturbed = float(steps_to_minimum(chain, start, rate, 20000, Perturbation()))
    assert perturbed < 0.5 * steps[-1]


def test_uniform_in_a_ball():
    x = in_ball(torch.Size((20000, 3)), 2.0, torch.Generator().manual_seed(0))
    length = x.norm(dim=1)
    assert length.max() <= 2.0 and x.mean(0).abs().max() < 0.05
    assert (length < 1.0).double().mean().item() == pytest.approx(1 / 8, abs=0.01)
