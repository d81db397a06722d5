"""Almost orthogonal layers: a rescaling of the inputs that bounds the norm by one."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

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
        self.dilation: tuple[int, ...] = getattr(module, "dilation", ())

    def forward(self, weight: Tensor) -> Tensor:
        """The rescaled weight."""
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:])
        sums, phases = lattice_gram(grouped, self.stride, self.dilation)
        scale = sums.sum(-1).clamp(min=1e-8).rsqrt()
        # [groups, phases, in] to [groups, 1, in, *kernel].
        scale = scale[:, phases].movedim(1, -1).reshape(self.groups, 1, *weight.shape[1:])
        return (grouped * scale).reshape(weight.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning a weight stores it as it is; what is used afterwards is its rescaled form."""
        return weight


def lattice_gram(weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Sums of absolute values of the Gram matrix W'W of a convolution of the whole lattice, between channels.

    Entry i of the input, of channel c and phase p of the stride, meets every entry of channel c' in ``sum_k W[:, c, k]' W[:, c', k + s]``
    for some shift s, with k over the kernel entries of that phase.

    Args:
        weight: ``[groups, out, in, *kernel]``.
        stride, dilation: one per spatial dimension.

    Returns:
        ``[groups, phases, in, in]``, the sums over shifts; and the phase of every kernel entry, in row-major order.
    """
    groups, outputs, inputs, *kernel = weight.shape
    taps = math.prod(kernel)
    if taps > 1 and all(s == 1 for s in stride):
        return _correlations(weight)[:, None], torch.zeros(taps, dtype=torch.int64, device=weight.device)
    flat = weight.reshape(groups, outputs, inputs, taps).mT.reshape(groups, outputs, taps * inputs)
    gram = (flat.mT @ flat).reshape(groups, taps, inputs, taps, inputs)
    if taps == 1:
        return gram[:, :, :, 0].abs(), torch.zeros(1, dtype=torch.int64, device=weight.device)
    shift, phase_of_shift, phase_of_tap = (t.to(weight.device) for t in _meetings(tuple(kernel), stride, dilation))
    met = gram.permute(0, 1, 3, 2, 4).reshape(groups, taps * taps, inputs, inputs)
    shifts = met.new_zeros(groups, len(phase_of_shift), inputs, inputs).index_add(1, shift, met).abs()
    sums = shifts.new_zeros(groups, int(phase_of_tap.max()) + 1, inputs, inputs).index_add(1, phase_of_shift, shifts)
    return sums, phase_of_tap


def _correlations(weight: Tensor) -> Tensor:
    """At stride one: ``[groups, in, in]``; shifts back along the first axis are those forward with the channels exchanged."""
    groups, outputs, inputs, *kernel = weight.shape
    images = weight.permute(2, 0, 1, *range(3, weight.dim())).reshape(inputs, groups * outputs, *kernel)
    images = functional.pad(images, [*(k - 1 for k in reversed(kernel[1:]) for _ in (0, 1)), 0, kernel[0] - 1])
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(kernel)]
    met = convolve(images, weight.transpose(1, 2).reshape(groups * inputs, outputs, *kernel), groups=groups)
    sums = met.reshape(inputs, groups, inputs, kernel[0], -1).abs().sum(-1).transpose(0, 1)
    ahead = sums[..., 1:].sum(-1)
    return sums[..., 0] + ahead + ahead.mT


@lru_cache(maxsize=256)
def _meetings(kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Which pairs of kernel entries add up: of every pair its number of (phase, shift), the phase of each of those, and of every entry."""
    taps = list(itertools.product(*(range(k) for k in kernel)))
    at = [tuple(d * k % s for k, d, s in zip(tap, dilation, stride, strict=True)) for tap in taps]
    phases = {p: n for n, p in enumerate(sorted(set(at)))}
    keys = [(phases[p], *(b - a for a, b in zip(tap, other, strict=True))) for tap, p in zip(taps, at, strict=True) for other in taps]
    numbers = {key: n for n, key in enumerate(sorted(set(keys)))}
    return torch.tensor([numbers[k] for k in keys]), torch.tensor([k[0] for k in numbers]), torch.tensor([phases[p] for p in at])


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
