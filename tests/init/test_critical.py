"""Initialisation at the edge of chaos against closed forms and against deep networks that it makes."""

import math

import pytest
import torch
from torch import nn

from steepest.errors import UsageError
from steepest.init import critical_


def test_relu_is_he_initialisation():
    scale = critical_(nn.Linear(4, 4), torch.relu)
    assert (scale.weight_std, scale.bias_std) == (pytest.approx(math.sqrt(2)), 0.0)


@pytest.mark.parametrize("variance", [0.1, 1.0, 3.0])
def test_erf_has_a_closed_form(variance):
    # E erf'(x)^2 = (4/pi) / sqrt(1 + 4q); E erf(x)^2 = (2/pi) asin(2q / (1 + 2q)).
    scale = critical_(nn.Linear(4, 4), torch.erf, variance)
    weight = math.pi / 4 * math.sqrt(1 + 4 * variance)
    assert scale.weight_std**2 == pytest.approx(weight, rel=1e-6)
    bias = variance - weight * 2 / math.pi * math.asin(2 * variance / (1 + 2 * variance))
    assert scale.bias_std**2 == pytest.approx(bias, rel=1e-6)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.GELU()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("orthogonal", [False, True], ids=["gaussian", "orthogonal"])
def test_signals_and_gradients_keep_their_scale(activation, orthogonal):
    width, depth = 600, 12
    layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth))).double()
    # GELU's variance is held at this one alone: below it, deviations grow.
    variance = (3 + math.sqrt(17)) / 2 if isinstance(activation, nn.GELU) else 1.0
    scale = critical_(layers, activation, variance, orthogonal)
    assert scale.growth < 1.001
    assert len(scale.layers) == depth
    x = torch.randn(8, width, dtype=torch.float64)
    x = activation(math.sqrt(variance) * x)
    h = x.requires_grad_()
    for layer in layers:
        z = layer(h)
        assert z.square().mean().item() == pytest.approx(variance, rel=0.5)
        h = activation(z)
    (gradient,) = torch.autograd.grad((z * torch.randn_like(z)).sum(), x)
    # The last map is linear; the activations' slopes are in the other depth - 1.
    assert gradient.square().mean().item() == pytest.approx(scale.weight_std**2, rel=0.5)


def test_orthogonal_layers_of_unequal_width_and_convolutions_keep_the_mean_square():
    wide = nn.Linear(20, 60, bias=False)
    critical_(wide, torch.relu, orthogonal=True)
    x = torch.randn(5, 20)
    torch.testing.assert_close(wide(x).square().mean(), 2 * x.square().mean())
    conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
    critical_(conv, torch.relu, orthogonal=True)
    y = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(conv(y).square().mean(), 2 * y.square().mean())


def test_what_has_no_critical_point():
    with pytest.raises(UsageError, match="edge of chaos"):
        critical_(nn.Linear(2, 2), lambda x: x.clamp(min=0) + 1)
    with pytest.raises(ValueError, match="positive"):
        critical_(nn.Linear(2, 2), torch.tanh, -1.0)


def test_the_half_stable_points_of_gelu_and_silu():
    # Roberts, Yaida and Hanin (2022), section 5.3.4: K* = (3 + sqrt 17) / 2 and 14.32017362; C_W = 1.98305826 and 1.98800468.
    gelu, silu = critical_(nn.Linear(2, 2), nn.GELU(), (3 + math.sqrt(17)) / 2), critical_(nn.Linear(2, 2), nn.SiLU(), 14.32017362)
    assert (gelu.growth, silu.growth) == (pytest.approx(1, abs=1e-6), pytest.approx(1, abs=1e-6))
    assert (gelu.weight_std**2, silu.weight_std**2) == (pytest.approx(1.98305826, abs=1e-6), pytest.approx(1.98800468, abs=1e-6))
    assert critical_(nn.Linear(2, 2), nn.GELU(), 1.0).growth > 1.05
