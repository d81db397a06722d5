"""Convolutions and transposed convolutions in one to three dimensions, as they are applied."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.graph.operator import Shape
from steepest.numerics.conv_norm import axis_matrices, conv_norm_2_above
from steepest.numerics.rounding import CLAIM_MARGIN, ROOT_TINY, gamma
from steepest.numerics.torus import ConvGeometry, padded_positions
from steepest.ops.kinds import Affine, lead_axes, ones

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True, eq=False)
class _Kernel:
    """The linear map of a padded convolution on a fixed spatial size, and its adjoint."""

    weight: Tensor
    geometry: ConvGeometry
    groups: int
    batch: int

    @property
    def dims(self) -> int:
        return self.weight.ndim - 2

    @property
    def in_shape(self) -> Shape:
        return (self.batch, self.weight.shape[1] * self.groups, *self.geometry.size)

    @property
    def out_shape(self) -> Shape:
        return (self.batch, self.weight.shape[0], *self.geometry.out_size)

    @cached_property
    def copied(self) -> dict[int, Tensor]:
        """Axes whose padding holds entries, and which."""
        g = self.geometry
        return {
            a: padded_positions(g.mode(a), g.size[a], *g.padding[a])
            for a in range(self.dims)
            if g.mode(a) != "zeros" and g.padding[a] != (0, 0)
        }

    @property
    def terms(self) -> int:
        copies = math.prod(int(at.bincount().max()) for at in self.copied.values())
        return math.prod(self.weight.shape[2:]) * max(self.weight.shape[0], self.weight.shape[1]) * copies

    @cached_property
    def meeting(self) -> Tensor:
        """How many kernel entries at most meet in one entry of the input, for every position of the output."""
        found = torch.ones([1] * self.dims, dtype=torch.float64)
        for a in self.copied:
            most = axis_matrices(self.geometry, a).sum(0).amax(1)
            found = found * most.reshape([-1 if b == a else 1 for b in range(self.dims)])
        return found

    def _weight(self, x: Tensor, absolute: bool) -> Tensor:
        return (self.weight.abs() if absolute else self.weight).to(x.dtype)

    def forward(self, x: Tensor, absolute: bool = False) -> Tensor:
        lead = lead_axes(x, self.in_shape)
        g = self.geometry
        pads = [p for a in reversed(range(self.dims)) for p in ((0, 0) if a in self.copied else g.padding[a])]
        x = F.pad(x.reshape(-1, *self.in_shape[1:]), pads)
        for a, at in self.copied.items():
            x = x.index_select(2 + a, at.to(x.device))
        y = _CONV[self.dims](x, self._weight(x, absolute), None, g.stride, 0, g.dilation, self.groups)
        return y.reshape(*lead, *self.out_shape)

    def backward(self, y: Tensor, absolute: bool = False) -> Tensor:
        lead = lead_axes(y, self.out_shape)
        g = self.geometry
        y = y.reshape(-1, *self.out_shape[1:])
        x = _CONV_TRANSPOSE[self.dims](y, self._weight(y, absolute), None, g.stride, 0, 0, self.groups, g.dilation)
        # The transposed convolution covers the padded input up to the last position read; the rest is never read.
        before, after = [], []
        for a in reversed(range(self.dims)):
            n, (lo, hi), got = g.size[a], g.padding[a], x.shape[2 + a]
            after += [0, n + lo + hi - got] if a in self.copied else [0, n + lo - got]
            before += [0, 0] if a in self.copied else [-lo, 0]
        # First made long enough: what is read may be padding alone.
        x = F.pad(F.pad(x, after), before)
        for a, at in self.copied.items():
            shape = [g.size[a] if b == 2 + a else n for b, n in enumerate(x.shape)]
            x = x.new_zeros(shape).index_add(2 + a, at.to(x.device), x)
        return x.reshape(*lead, *self.in_shape)

    def squares(self, x: Tensor) -> Tensor:
        """Upper bound of ``sum_j W_ij^2 x_j``, up to rounding: m entries that meet obey ``(sum w)^2 <= m sum w^2``."""
        return replace(self, weight=self.weight.square()).forward(x) * self.meeting

    @cached_property
    def norm_2(self) -> float:
        return conv_norm_2_above(self.weight, self.geometry, self.groups) * CLAIM_MARGIN

    @cached_property
    def norm_inf(self) -> float:
        rows = self.forward(ones((1, *self.in_shape[1:])) if self.batch == 1 else ones(self.in_shape), absolute=True)
        return rows.max().item() * (1 + gamma(self.terms))

    @cached_property
    def norm_1(self) -> float:
        columns = self.backward(ones(self.out_shape), absolute=True)
        return columns.max().item() * (1 + gamma(self.terms))


@dataclass(frozen=True, eq=False)
class Conv(Affine):
    """A convolution with its padding: ``out[n, o, i] = sum weight[o, c, k] x~[n, c, stride i + dilation k - pad] + bias[o]``.

    Args:
        weight: ``[out, in / groups, *kernel]``, float64.
        bias: ``[out]``, float64.
        stride: one per spatial dimension.
        padding: (before, after) per spatial dimension.
        dilation: one per spatial dimension.
        groups: blocks of channels that do not mix.
        modes: what the padding holds, per spatial dimension: ``zeros``, ``circular``, ``reflect``, ``replicate``; empty: zeros.
    """

    code: ClassVar[str] = "conv"
    weight: Tensor
    bias: Tensor
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    modes: tuple[str, ...] = ()

    @cached_property
    def kernel(self) -> _Kernel:
        """The linear map."""
        geometry = ConvGeometry(tuple(self.weight.shape[2:]), self.stride, self.dilation, self.padding, self.in_shapes[0][2:], self.modes)
        return _Kernel(self.weight, geometry, self.groups, self.in_shapes[0][0])

    @property
    def shape(self) -> Shape:
        """``(batch, out, *out_size)``."""
        return self.kernel.out_shape

    @property
    def offset(self) -> Tensor:
        """The bias over positions."""
        return self.bias.reshape(-1, *[1] * (self.weight.ndim - 2))

    @property
    def terms(self) -> int:
        """Kernel entries times channels."""
        return self.kernel.terms

    def linear(self, x: Tensor, absolute: bool = False) -> Tensor:
        """The convolution; absolute: at least ``|W| x``, and more where kernel entries meet in one entry of the input."""
        return self.kernel.forward(x, absolute)

    def adjoint(self, y: Tensor, absolute: bool = False) -> Tensor:
        """Its transpose."""
        return self.kernel.backward(y, absolute)

    def row_norms_2(self, scale: Tensor) -> Tensor:
        """Through the squared weights."""
        return self.kernel.squares(scale.square()).sqrt() * (1.0 + gamma(self.terms + 4)) + ROOT_TINY

    def norm_2(self) -> float:
        """Of the operator as applied, padding included."""
        return self.kernel.norm_2

    def norm_inf(self) -> float:
        """Largest absolute row sum, exact up to rounding unless kernel entries meet in one entry of the input."""
        return self.kernel.norm_inf

    def norm_1(self) -> float:
        """Largest absolute column sum, with the same exception."""
        return self.kernel.norm_1


@dataclass(frozen=True, eq=False)
class ConvTranspose(Affine):
    """The adjoint of the convolution that maps ``size`` back to the input's size, plus a bias.

    Args:
        weight: ``[in, out / groups, *kernel]``, float64.
        bias: ``[out]``, float64.
        stride: of that convolution, one per spatial dimension.
        padding: (before, after) of that convolution.
        dilation: of that convolution.
        groups: blocks of channels that do not mix.
        size: spatial size of the output.
    """

    code: ClassVar[str] = "conv_transpose"
    weight: Tensor
    bias: Tensor
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    size: tuple[int, ...]

    @cached_property
    def kernel(self) -> _Kernel:
        """The convolution this is the adjoint of."""
        geometry = ConvGeometry(tuple(self.weight.shape[2:]), self.stride, self.dilation, self.padding, self.size)
        assert geometry.out_size == self.in_shapes[0][2:], (geometry, self.in_shapes)
        return _Kernel(self.weight, geometry, self.groups, self.in_shapes[0][0])

    @property
    def shape(self) -> Shape:
        """``(batch, out, *size)``."""
        return self.kernel.in_shape

    @property
    def offset(self) -> Tensor:
        """The bias over positions."""
        return self.bias.reshape(-1, *[1] * (self.weight.ndim - 2))

    @property
    def terms(self) -> int:
        """Kernel entries times channels."""
        return self.kernel.terms

    def linear(self, x: Tensor, absolute: bool = False) -> Tensor:
        """The transposed convolution."""
        return self.kernel.backward(x, absolute)

    def adjoint(self, y: Tensor, absolute: bool = False) -> Tensor:
        """The convolution."""
        return self.kernel.forward(y, absolute)

    def row_norms_2(self, scale: Tensor) -> Tensor:
        """Through the squared weights."""
        return replace(self.kernel, weight=self.weight.square()).backward(scale.square()).sqrt() * (1.0 + gamma(self.terms + 4)) + ROOT_TINY

    def norm_2(self) -> float:
        """That of the adjoint."""
        return self.kernel.norm_2

    def norm_inf(self) -> float:
        """The adjoint's l1 norm."""
        return self.kernel.norm_1

    def norm_1(self) -> float:
        """The adjoint's linf norm."""
        return self.kernel.norm_inf
