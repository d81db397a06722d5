"""Orthogonal dense layers and convolutions."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from steepest.layers.cayley import cayley, free_matrix, semi_orthogonal
from steepest.layers.constraint import CONVS, Constraint, Conv, M, require_circle, require_layer


class OrthogonalMatrix(Constraint):
    """A weight ``[out, in]`` with orthonormal rows or columns, whichever are fewer, as the Cayley transform of a free matrix.

    Args:
        module: the dense layer.

    Source: Trockman and Kolter (2021), see ``cayley``.
    """

    def __init__(self, module: nn.Linear) -> None:
        super().__init__()
        self.rows, self.columns = module.out_features, module.in_features

    def forward(self, free: Tensor) -> Tensor:
        """The orthogonal weight."""
        return semi_orthogonal(free, self.rows, self.columns)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A random start; any weight would have to be orthogonal without the eigenvalue -1."""
        return free_matrix((), self.rows, self.columns, weight)


class OrthogonalKernel(Constraint):
    """A kernel whose convolution of the whole lattice has orthonormal rows or columns, whichever are fewer; by block convolution.

    It is the convolution of kernels ``[P, I - P]`` of length two, P an orthogonal projection of half the channels, along every axis in
    turn, each of which is orthogonal, and a kernel of the stride's size that maps blocks which do not overlap by a matrix with
    orthonormal rows or columns. Zero padding takes a piece of the lattice's operator, so the l2 norm stays at most one; and so it does on
    a circle with stride one.

    Args:
        module: the convolution; no stride may exceed its kernel, and stride and dilation cannot both exceed one.

    Source: Li, Haque, Anil, Lucas, Grosse and Jacobsen, "Preventing gradient attenuation in Lipschitz constrained convolutional
    networks" (2019); with strides Boissin, Mamalet, Fel, Picard, Massena and Serrurier, "An adaptive orthogonal convolution scheme" (2025).
    """

    def __init__(self, module: Conv) -> None:
        super().__init__()
        self.groups, self.stride, self.kernel = module.groups, tuple(module.stride), tuple(module.kernel_size)
        self.outputs, self.inputs = module.out_channels // module.groups, module.in_channels // module.groups
        # The side with more channels has more room.
        self.side = 1 if math.prod(self.stride) == 1 and self.outputs > self.inputs else 2
        self.width = self.outputs if self.side == 1 else self.inputs
        self.axes = [a for a, (k, s) in enumerate(zip(self.kernel, self.stride, strict=True)) for _ in range(k - s)]

    def forward(self, blocks: Tensor, free: Tensor) -> Tensor:
        """The kernel ``[out, in / groups, *kernel]``."""
        volume = math.prod(self.stride)
        kernel = semi_orthogonal(blocks, self.outputs, self.inputs * volume)
        kernel = kernel.reshape(self.groups, self.outputs, self.inputs, *self.stride)
        if self.axes and self.width > 1:
            spanned = cayley(free)
            for axis, span in zip(self.axes, spanned, strict=True):
                # Composed with y[i] = P x[i] + (I - P) x[i + 1], before or after.
                moved = kernel.movedim(self.side, -1)
                here = ((moved.flatten(1, -2) @ span) @ span.mT).reshape(moved.shape).movedim(-1, self.side)
                one = [0, 0] * (kernel.dim() - 4 - axis)
                kernel = functional.pad(here, [*one, 0, 1]) + functional.pad(kernel - here, [*one, 1, 0])
        elif self.axes:
            # One channel has no half: the identity, in the middle.
            pads = [(k - s) // 2 for k, s in zip(self.kernel, self.stride, strict=True)]
            pads = [(p, k - s - p) for p, k, s in zip(pads, self.kernel, self.stride, strict=True)]
            kernel = functional.pad(kernel, [n for pair in reversed(pads) for n in pair])
        return kernel.flatten(0, 1)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """A random start."""
        blocks = free_matrix((self.groups,), self.outputs, self.inputs * math.prod(self.stride), weight)
        return blocks, free_matrix((len(self.axes), self.groups), self.width, self.width // 2, weight)


def orthogonalise(module: M) -> M:
    """Make a dense layer or a convolution orthogonal from now on: an isometry where it has no fewer outputs than inputs, else one on fewer.

    The weight it had is replaced by a random one. For a convolution this speaks of the whole lattice; padding with zeros or, at stride
    one, on a circle keeps the l2 norm at most one. ``export`` proves that after rounding. Any number of groups; dilation at stride one;
    every stride up to the kernel's size.

    Args:
        module: ``Linear``, ``Conv1d``, ``Conv2d`` or ``Conv3d``.

    Returns:
        The same module.

    Raises:
        ValueError: for another module, or a setting that cannot be guaranteed, by name.

    Source: see ``OrthogonalMatrix`` and ``OrthogonalKernel``.
    """
    require_layer(module, "an orthogonal layer")
    if isinstance(module, nn.Linear):
        parametrize.register_parametrization(module, "weight", OrthogonalMatrix(module))
        return module
    assert isinstance(module, CONVS)
    require_circle(module, "an orthogonal convolution")
    if any(s > k for s, k in zip(module.stride, module.kernel_size, strict=True)):
        raise ValueError(f"an orthogonal convolution reads every entry: stride {module.stride} exceeds the kernel {module.kernel_size}")
    if any(s > 1 for s in module.stride) and any(d > 1 for d in module.dilation):
        raise ValueError(f"an orthogonal convolution cannot have both stride {module.stride} and dilation {module.dilation}")
    parametrize.register_parametrization(module, "weight", OrthogonalKernel(module))
    return module
