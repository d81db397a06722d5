"""How variances and correlations travel through a wide random network."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from steepest.errors import UsageError

Activation = Callable[[Tensor], Tensor]
"""An elementwise function such as ``torch.tanh``."""


def gaussian_mean(function: Activation, variance: float = 1.0) -> float:
    """``E f(sqrt(q) z)`` for a standard normal z.

    Gauss-Legendre on either side of zero, where activations have their kinks (Gauss-Hermite would converge slowly there).
    """
    z, weight = _nodes()
    return float((function(math.sqrt(variance) * z) * weight).sum())


def variance_map(activation: Activation, variance: float, weight_std: float, bias_std: float = 0.0) -> float:
    """The variance of the next layer's pre-activations: ``sigma_w^2 E phi(sqrt(q) z)^2 + sigma_b^2`` (Poole et al. 2016, equation 3)."""
    return weight_std**2 * gaussian_mean(lambda x: activation(x).square(), variance) + bias_std**2


def slope(activation: Activation, variance: float, weight_std: float) -> float:
    """``chi_1 = sigma_w^2 E phi'(sqrt(q) z)^2``: squared gradients grow by it a layer, small angles too (Schoenholz et al. 2017).

    Below 1 is the ordered phase (gradients vanish), above 1 the chaotic one (they explode).
    """
    return weight_std**2 * gaussian_mean(lambda x: _derivative(activation, x).square(), variance)


def correlation_map(activation: Activation, correlation: float, variance: float, weight_std: float, bias_std: float = 0.0) -> float:
    """The correlation of two inputs' pre-activations in the next layer, both of the same variance (Poole et al. 2016, equation 5)."""
    if abs(correlation) >= 1.0:
        u, weight = _nodes()
        u = math.sqrt(variance) * u
        product = float((activation(u) * activation(math.copysign(1.0, correlation) * u) * weight).sum())
    else:
        root, c, s = math.sqrt(variance), correlation, math.sqrt(1.0 - correlation**2)
        z, weight = _nodes()
        # The second value c z + s y is zero at y = -c z / s: split the inner integral there.
        y, inner = _nodes_around(-c * z / s)
        product = float((activation(root * z) * weight * (activation(root * (c * z[:, None] + s * y)) * inner).sum(1)).sum())
    return (weight_std**2 * product + bias_std**2) / variance_map(activation, variance, weight_std, bias_std)


def fixed_variance(activation: Activation, weight_std: float, bias_std: float = 0.0, start: float = 1.0, steps: int = 10_000) -> float:
    """The variance that a deep network settles at, from ``start``: 0 or infinity where it vanishes or grows for ever.

    For activations such as ReLU every variance may be one: the start comes back.
    """
    q = start
    for _ in range(steps):
        after = variance_map(activation, q, weight_std, bias_std)
        if not 1e-30 < after < 1e30:
            return 0.0 if after <= 1e-30 else math.inf
        if abs(after - q) <= 1e-13 * q:
            return after
        q = after
    return q


def critical_stds(activation: Activation, variance: float = 1.0) -> tuple[float, float]:
    """``(sigma_w, sigma_b)`` for which this variance stays as it is and gradients neither vanish nor explode: chi_1 = 1.

    Weights have the variance ``sigma_w^2 / fan_in``. ReLU: ``(sqrt 2, 0)`` whatever the variance, the initialisation of He et al. 2015;
    tanh at small variances: ``(1, 0)``.

    Raises:
        UsageError: where there is none for this variance, since ``sigma_b^2`` would be negative.

    Source: Schoenholz et al. 2017, section 3.
    """
    steep = slope(activation, variance, 1.0)
    weight_std = math.inf if steep == 0.0 else steep**-0.5
    bias = variance - variance_map(activation, variance, weight_std)
    if not bias > -1e-9 * variance:
        raise UsageError(f"no initialisation keeps the variance {variance:g} of this activation at the edge of chaos: try a smaller one")
    return weight_std, math.sqrt(bias) if bias > 1e-12 * variance else 0.0


def depth_scale(chi: float) -> float:
    """Layers after which a squared gradient has changed by a factor e: ``1 / |log chi_1|`` (Schoenholz et al. 2017, equation 9)."""
    return math.inf if chi == 1.0 else 1.0 / abs(math.log(chi)) if chi > 0.0 else 0.0


REACH, NODES = 12.0, 120


@cache
def _legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]."""
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy((x + 1.0) / 2.0), torch.from_numpy(w / 2.0)


@cache
def _nodes() -> tuple[Tensor, Tensor]:
    """For the standard normal, split at zero."""
    z, w = _nodes_around(torch.zeros(1, dtype=torch.float64))
    return z[0], w[0]


def _nodes_around(split: Tensor) -> tuple[Tensor, Tensor]:
    """For the standard normal on ``[-12, 12]``, split at a point each: ``[n, nodes]``."""
    x, w = _legendre()
    middle = split.clamp(-REACH, REACH)[:, None]
    left, right = middle + REACH, REACH - middle
    z = torch.cat([-REACH + left * x, middle + right * x], 1)
    return z, torch.cat([left * w, right * w], 1) * torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)


def _derivative(activation: Activation, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        return torch.autograd.grad(activation(x).sum(), x)[0]
