"""The formulas of the study of proven rates."""

import math
from itertools import pairwise

import pytest
import torch

from steepest.monitors.deep_linear import product
from steepest.studies.proven_rates import ProvenRates, balanced, speed, width_of_the_proof


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_balanced_layers(depth):
    target = torch.randn(4, 4, dtype=torch.float64)
    layers = balanced(target, depth)
    assert len(layers) == depth
    torch.testing.assert_close(product(layers), target)
    for below, above in pairwise(layers):
        torch.testing.assert_close(above.T @ above, below @ below.T)


def test_speed_is_the_worst_over_the_steps():
    assert speed([8.0, 4.0, 2.0], 0.5) == pytest.approx(1.0)
    assert speed([8.0, 6.0, 1.0], 0.5) == pytest.approx(math.log(6 / 8) / math.log(0.5))
    assert speed([1.0, 2.0], 0.5) < 0.0


def test_at_the_width_of_the_proof_the_way_is_the_radius():
    n, least, error, failure = 10, 0.3, 2.0, 0.1
    m = width_of_the_proof(n, least, error, failure)
    way = 4 * math.sqrt(n) * error / (math.sqrt(m) * least)
    assert 4 * n**2 * way / (math.sqrt(2 * math.pi) * failure) == pytest.approx(least / 4)


@pytest.mark.parametrize("kind", ["practice", "no margin", "unbalanced"])
def test_the_layers_descend_as_autograd_says(kind, monkeypatch):
    study, seen = ProvenRates(seeds=2, depths=(3,), steps=2), []
    monkeypatch.setattr("steepest.studies.proven_rates.DeepLinearRate", _spy(seen))
    losses = study._linear(kind, 3, 0).losses
    weights, phi, rate = seen[-1]
    free = [w.clone().requires_grad_() for w in weights]
    gradients = torch.autograd.grad(0.5 * (product(free) - phi).square().sum(), free)
    moved = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
    assert losses[1] == pytest.approx(0.5 * float((product(moved) - phi).square().sum()))


def _spy(seen):
    from steepest.monitors import DeepLinearRate

    def make(weights, phi, rate):
        seen.append((list(weights), phi, rate))
        return DeepLinearRate(weights, phi, rate)

    return make
