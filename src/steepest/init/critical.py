"""Initialisation at the edge of chaos."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steepest.init.delta_orthogonal import delta_orthogonal_
from steepest.init.weights import CONVOLUTIONS, fan_in, weighted
from steepest.numerics.mean_field import critical_stds, variance_map


@dataclass(frozen=True)
class CriticalScale:
    """What was done to a network.

    Args:
        layers: names of its dense and convolutional layers, in the order in which they are registered.
        weight_std: sigma_w; weights have the variance ``sigma_w^2 / fan_in``.
        bias_std: sigma_b, of the biases.
        variance: of the pre-activations, which layers hand on unchanged.
        growth: what a layer multiplies a small deviation from that variance by. Below one it heals (tanh, erf), at one it stays (ReLU),
            above one it grows with depth: GELU at variances below 3.56, SiLU below 14.3, their half-stable points (Roberts, Yaida and
            Hanin, "The principles of deep learning theory", 2022, section 5.3.4).
    """

    layers: tuple[str, ...]
    weight_std: float
    bias_std: float
    variance: float
    growth: float


@torch.no_grad()
def critical_(
    module: nn.Module,
    activation: Callable[[Tensor], Tensor],
    variance: float = 1.0,
    orthogonal: bool = False,
    generator: torch.Generator | None = None,
) -> CriticalScale:
    """Initialise all dense and convolutional layers so that, in a wide deep network, signals and gradients keep their scale.

    ``sigma_w^2 E phi'(sqrt(q) z)^2 = 1`` and ``sigma_w^2 E phi(sqrt(q) z)^2 + sigma_b^2 = q``: the boundary between the ordered phase,
    where gradients vanish with depth, and the chaotic one, where they explode. ReLU has one such point, sigma_w^2 = 2 and sigma_b = 0 (He
    et al. 2015); tanh, erf and others have one for each variance q. The smaller q, the more linear the layers: very deep networks want it
    small (1/64, say), and orthogonal weights, which then keep all singular values of the Jacobian near one (dynamical isometry), as
    Gaussian ones do not.

    Args:
        module: changed in place; layers without a bias whose sigma_b is not zero settle at another variance.
        activation: the elementwise function between the layers, such as ``torch.tanh`` or ``nn.GELU()``.
        variance: q, positive, of the pre-activations. The first layer gives it to inputs of which
            ``mean(x^2) = E phi(sqrt(q) z)^2``; others approach it from where they are.
        orthogonal: orthogonal and delta-orthogonal weights of that scale instead of Gaussian ones.
        generator: of the random numbers.

    Returns:
        The layers and the two standard deviations.

    Raises:
        UsageError: where the activation has no critical point of this variance.
        ValueError: where there is no layer, one is lazy, or a weight is parametrised.

    Source: Schoenholz, Gilmer, Ganguli and Sohl-Dickstein, "Deep information propagation" (2017), section 3; Pennington, Schoenholz and
    Ganguli, "Resurrecting the sigmoid in deep learning through dynamical isometry" (2017); Xiao et al. (2018) for convolutions.
    """
    if not 0 < variance < math.inf:
        raise ValueError(f"the variance must be positive and finite, not {variance}")
    layers = weighted(module)
    weight_std, bias_std = critical_stds(activation, variance)
    for _, layer in layers:
        if orthogonal:
            _orthogonal(layer, weight_std, generator)
        else:
            nn.init.normal_(layer.weight, 0.0, weight_std / math.sqrt(fan_in(layer.weight)), generator)
        if layer.bias is not None:
            nn.init.normal_(layer.bias, 0.0, bias_std, generator)
    return CriticalScale(tuple(name for name, _ in layers), weight_std, bias_std, variance, _growth(activation, variance, weight_std))


def _orthogonal(layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, weight_std: float, generator: torch.Generator | None) -> None:
    """Orthogonal up to a factor with which the mean square of the outputs is that of the inputs, also where their numbers differ."""
    groups = layer.groups if isinstance(layer, CONVOLUTIONS) else 1
    outputs, inputs = layer.weight.shape[0] // groups, layer.weight.shape[1]
    gain = weight_std * math.sqrt(max(1.0, outputs / inputs))
    if isinstance(layer, CONVOLUTIONS):
        delta_orthogonal_(layer.weight, gain, groups, generator)
    else:
        matrix = torch.empty_like(layer.weight, dtype=torch.promote_types(layer.weight.dtype, torch.float32))
        layer.weight.copy_(nn.init.orthogonal_(matrix, gain, generator))


def _growth(activation: Callable[[Tensor], Tensor], variance: float, weight_std: float) -> float:
    """The derivative of the variance map, by a central difference."""
    low, high = (variance_map(activation, (1 + h) * variance, weight_std) for h in (-1e-4, 1e-4))
    return (high - low) / (2e-4 * variance)
