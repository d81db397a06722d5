"""Orthogonal initialisation of dense layers and of convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steepest.init.weights import CONVOLUTIONS, weighted, zero_biases


@torch.no_grad()
def delta_orthogonal_(weight: Tensor, gain: float = 1.0, groups: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Fill a convolution's weight with zeros but for an orthogonal matrix, times ``gain``, at the kernel's centre.

    With padding that keeps the size the convolution is then ``gain`` times an isometry, of whole images and not only on average, where it
    has at least as many output as input channels; with fewer, its adjoint is. ``torch.nn.init.orthogonal_`` gives neither.

    Args:
        weight: ``[out, in / groups, *kernel]``, three to five axes, changed in place. The centre of an even kernel is the earlier of its
            two middle entries.
        gain: not negative; sqrt(2) for ReLU, one for linear and tanh networks.
        groups: of the convolution; each gets an orthogonal matrix of its own.
        generator: of the random numbers.

    Returns:
        The weight.

    Raises:
        ValueError: for a weight that is no convolution's, groups that do not divide its outputs, or a negative gain.

    Source: Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington, "Dynamical isometry and a mean field theory of CNNs" (2018),
    section 2.4.
    """
    if not 3 <= weight.dim() <= 5:
        raise ValueError(
            f"expected a convolution's weight [out, in, *kernel], not {list(weight.shape)}: dense layers take torch.nn.init.orthogonal_"
        )
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"{weight.shape[0]} outputs do not split into {groups} groups")
    if not gain >= 0:
        raise ValueError(f"the gain must not be negative, not {gain}")
    weight.zero_()
    centre = tuple((k - 1) // 2 for k in weight.shape[2:])
    rows = weight.shape[0] // groups
    for group in range(groups):
        matrix = torch.empty(rows, weight.shape[1], device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32))
        nn.init.orthogonal_(matrix, gain, generator)
        weight[(slice(group * rows, (group + 1) * rows), slice(None), *centre)] = matrix.to(weight.dtype)
    return weight


@torch.no_grad()
def orthogonal_(module: nn.Module, gain: float = 1.0, generator: torch.Generator | None = None) -> tuple[str, ...]:
    """Give every dense layer an orthogonal weight and every convolution a delta-orthogonal one; biases become zero.

    Args:
        module: changed in place.
        gain: sqrt(2) for ReLU, one for linear and tanh networks.
        generator: of the random numbers.

    Returns:
        The names of the layers, in the order in which they are registered.

    Raises:
        ValueError: where there is none, one is lazy, or a weight is parametrised.

    Source: Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks" (2014);
    Xiao et al. (2018) for convolutions.
    """
    layers = weighted(module)
    for _, layer in layers:
        if isinstance(layer, CONVOLUTIONS):
            delta_orthogonal_(layer.weight, gain, layer.groups, generator)
        else:
            matrix = torch.empty_like(layer.weight, dtype=torch.promote_types(layer.weight.dtype, torch.float32))
            layer.weight.copy_(nn.init.orthogonal_(matrix, gain, generator))
    zero_biases(layer for _, layer in layers)
    return tuple(name for name, _ in layers)
