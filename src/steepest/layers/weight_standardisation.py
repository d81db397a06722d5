"""Weights with mean zero and variance one per output, as a parametrisation."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

M = TypeVar("M", bound=nn.Module)

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class WeightStandardisation(nn.Module):
    """W -> (W - mean) / sqrt(var + eps), mean and (biased) variance taken over all entries that feed one output channel.

    Args:
        axis: of the output channels in the weight.
        eps: added to the variance; positive.

    Source: Qiao, Wang, Liu, Shen and Yuille, "Micro-batch training with batch-channel normalization and weight standardization"
    (2019), equations 7 to 10.
    """

    def __init__(self, axis: int = 0, eps: float = 1e-5) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps must be positive, not {eps}")
        self.axis, self.eps = axis, eps

    def forward(self, weight: Tensor) -> Tensor:
        """The standardised weight, of the same shape."""
        axes = [k for k in range(weight.dim()) if k != self.axis % weight.dim()]
        variance, mean = torch.var_mean(weight, axes, correction=0, keepdim=True)
        return (weight - mean) * torch.rsqrt(variance + self.eps)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning a weight stores it as it is; what is used afterwards is its standardised form."""
        return weight


def weight_standardise(module: M, name: str = "weight", eps: float = 1e-5) -> M:
    """Standardise the weight of a dense or convolutional layer from now on; used together with group or batch normalisation.

    Remove it with ``torch.nn.utils.parametrize.remove_parametrizations(module, name)``.

    Args:
        module: ``Linear``, a convolution, or a transposed convolution with ``groups=1``; any other layer whose first axis is its outputs'.
        name: of the weight.
        eps: added to the variance.

    Returns:
        The same module.

    Raises:
        ValueError: where there is no such weight, it has no axes to take a mean over, or one entry alone feeds each output.

    Source: Qiao et al. (2019), see ``WeightStandardisation``.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        raise ValueError(f"{type(module).__name__} has no weight {name!r} with an axis of outputs and one of inputs")
    if isinstance(module, _TRANSPOSED) and module.groups != 1:
        raise ValueError(
            f"{type(module).__name__} with groups={module.groups} mixes outputs of several groups on one axis: groups=1 is supported"
        )
    axis = 1 if isinstance(module, _TRANSPOSED) else 0
    if weight.numel() // weight.shape[axis] < 2:
        raise ValueError(f"each output of {type(module).__name__} has a single weight, whose standardised form is zero")
    parametrize.register_parametrization(module, name, WeightStandardisation(axis, eps))
    return module
