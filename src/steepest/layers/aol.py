"""Almost orthogonal layers: a rescaling of the inputs that bounds the norm by one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from steepest.layers.constraint import CONVS, Constraint, M, require_circle, require_layer


class AlmostOrthogonal(Constraint):
    """W -> W D with ``D_ii = (sum_j |W'W|_ij)^-1/2``, for which ``D W'W D <= I``; one number per input channel, and per phase of a stride.

    For a convolution W'W is that of the whole lattice, so any zero padding, and a circle at stride one, stay within the bound.

    Args:
        module: dense or convolutional; it is only looked at.

    Source: Prach and Lampert, "Almost-orthogonal layers for efficient general-purpose Lipschitz networks" (2022), theorems 1 and 2. Strides
    by taking the phases of the input as channels.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.groups: int = getattr(module, "groups", 1)
        self.stride: tuple[int, ...] = getattr(module, "stride", ())
        dilation: tuple[int, ...] = getattr(module, "dilation", ())
        # Gram entries of a dilated kernel at stride one are those of the kernel itself.
        self.dilation = dilation if any(s > 1 for s in self.stride) else (1,) * len(dilation)

    def forward(self, weight: Tensor) -> Tensor:
        """The rescaled weight."""
        if not self.stride:
            return weight * gershgorin(weight.mT @ weight)
        if all(s == 1 for s in self.stride):
            scale = gershgorin_scale(weight, self.groups)
            return weight * self._per_output(scale, weight)
        spread = weight
        for axis, d in enumerate(self.dilation):
            spread = _dilated(spread, 2 + axis, d)
        phases = _phases(spread, self.stride)
        scaled = phases * self._per_output(gershgorin_scale(phases, self.groups), phases)
        back = _unphased(scaled, self.stride, spread.shape[2:])
        return back[(..., *(slice(None, None, d) for d in self.dilation))]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning a weight stores it as it is; what is used afterwards is its rescaled form."""
        return weight

    def _per_output(self, scale: Tensor, weight: Tensor) -> Tensor:
        """``[groups, in / groups]`` to the weight's axes."""
        rows = scale.repeat_interleave(len(weight) // self.groups, 0)
        return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def gershgorin(gram: Tensor) -> Tensor:
    """``(sum_j |G|_ij)^-1/2`` of ``[*batch, n, n]``."""
    return gram.abs().sum(-1).clamp(min=1e-8).rsqrt()


def correlations(weight: Tensor, groups: int) -> Tensor:
    """``sum_o W[o, c, k] W[o, c', k + s]`` for every shift s: ``[groups, in / groups, in / groups, *shifts]``, shifts reversed."""
    rank = weight.dim() - 2
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    outputs, inputs = grouped.shape[1:3]
    images = grouped.permute(2, 0, 1, *range(3, 3 + rank)).reshape(inputs, groups * outputs, *weight.shape[2:])
    kernels = grouped.transpose(1, 2).reshape(groups * inputs, outputs, *weight.shape[2:])
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    found = convolve(images, kernels, padding=tuple(k - 1 for k in weight.shape[2:]), groups=groups)
    return found.reshape(inputs, groups, inputs, *found.shape[2:]).transpose(0, 1)


def gershgorin_scale(weight: Tensor, groups: int) -> Tensor:
    """The square roots' inverses per input channel of a convolution at stride one: ``[groups, in / groups]``."""
    return correlations(weight, groups).abs().flatten(2).sum(-1).clamp(min=1e-8).rsqrt()


def _dilated(weight: Tensor, axis: int, d: int) -> Tensor:
    if d == 1:
        return weight
    shape = list(weight.shape)
    shape[axis] = d * (shape[axis] - 1) + 1
    spread = weight.new_zeros(shape)
    return spread.index_copy(axis, torch.arange(0, shape[axis], d, device=weight.device), weight)


def _phases(weight: Tensor, stride: tuple[int, ...]) -> Tensor:
    """A strided kernel as one of stride one over phases: ``[out, in * phases, *ceil(kernel / stride)]``."""
    sizes = [-(-k // s) for k, s in zip(weight.shape[2:], stride, strict=True)]
    pads = [n for k, s, m in reversed(list(zip(weight.shape[2:], stride, sizes, strict=True))) for n in (0, m * s - k)]
    padded, rank = functional.pad(weight, pads), len(stride)
    split = padded.reshape(*weight.shape[:2], *(n for pair in zip(sizes, stride, strict=True) for n in pair))
    split = split.permute(0, 1, *(3 + 2 * a for a in range(rank)), *(2 + 2 * a for a in range(rank)))
    return split.reshape(len(weight), weight.shape[1] * math.prod(stride), *sizes)


def _unphased(phases: Tensor, stride: tuple[int, ...], kernel: torch.Size) -> Tensor:
    rank, sizes = len(stride), phases.shape[2:]
    split = phases.reshape(len(phases), -1, *stride, *sizes)
    split = split.permute(0, 1, *(n for a in range(rank) for n in (2 + rank + a, 2 + a)))
    whole = split.reshape(*split.shape[:2], *(m * s for m, s in zip(sizes, stride, strict=True)))
    return whole[(..., *(slice(0, k) for k in kernel))]


def almost_orthogonalise(module: M) -> M:
    """Rescale the input channels of a layer so that its l2 norm is at most one, whatever the weight.

    Cheaper than ``orthogonalise`` and free of iterations; training drives the weight towards orthogonality, where nothing is lost. Any
    stride, dilation and number of groups, padding with zeros, or circular at stride one.

    Args:
        module: ``Linear``, ``Conv1d``, ``Conv2d`` or ``Conv3d``.

    Returns:
        The same module.

    Raises:
        ValueError: for another module, or a setting that cannot be guaranteed, by name.

    Source: Prach and Lampert (2022), see ``AlmostOrthogonal``.
    """
    require_layer(module, "an almost orthogonal layer")
    if isinstance(module, CONVS):
        require_circle(module, "an almost orthogonal convolution")
    parametrize.register_parametrization(module, "weight", AlmostOrthogonal(module))
    return module
