"""Reshape, permute, and selection by index (slice, pad, gather, expand, upsample): entries move, none are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.graph.operator import Shape
from steepest.numerics.interval import Interval
from steepest.ops.kinds import Rearrangement, count, lead_axes


@dataclass(frozen=True, eq=False)
class Reshape(Rearrangement):
    """The same entries in row-major order under another shape.

    Args:
        target: the new shape.
    """

    code: ClassVar[str] = "reshape"
    target: Shape

    @property
    def shape(self) -> Shape:
        """The target."""
        return self.target

    def linear(self, x: Tensor, absolute: bool = False) -> Tensor:
        """Reshape."""
        return x.reshape((*lead_axes(x, self.in_shapes[0]), *self.target))

    def adjoint(self, y: Tensor, absolute: bool = False) -> Tensor:
        """Reshape back."""
        return y.reshape((*lead_axes(y, self.target), *self.in_shapes[0]))

    def enclose(self, *xs: Interval) -> Interval:
        """Exact: both ends move."""
        return xs[0].map(self.linear)

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """Exact."""
        return (cotangent.map(self.adjoint),)


@dataclass(frozen=True, eq=False)
class Permute(Rearrangement):
    """Axes reordered: ``y`` has axis ``dims[i]`` of x as its axis i.

    Args:
        dims: a permutation of the axes.
    """

    code: ClassVar[str] = "permute"
    dims: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        """The permuted shape."""
        return tuple(self.in_shapes[0][d] for d in self.dims)

    def linear(self, x: Tensor, absolute: bool = False) -> Tensor:
        """Permute."""
        lead = x.ndim - len(self.dims)
        return x.permute(*range(lead), *(lead + d for d in self.dims))

    def adjoint(self, y: Tensor, absolute: bool = False) -> Tensor:
        """Permute back."""
        lead = y.ndim - len(self.dims)
        inverse = sorted(range(len(self.dims)), key=lambda i: self.dims[i])
        return y.permute(*range(lead), *(lead + d for d in inverse))

    def enclose(self, *xs: Interval) -> Interval:
        """Exact: both ends move."""
        return xs[0].map(self.linear)

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """Exact."""
        return (cotangent.map(self.adjoint),)


@dataclass(frozen=True, eq=False)
class Select(Rearrangement):
    """``y[i] = x[index[i]]`` over flattened entries, or ``fill`` where the index is -1.

    Args:
        index: int64, of the output's shape, with values from -1 to the number of input entries less one.
        fill: the constant put where nothing is selected (padding).
    """

    code: ClassVar[str] = "select"
    index: Tensor
    fill: float = 0.0

    @property
    def shape(self) -> Shape:
        """The index's shape."""
        return tuple(self.index.shape)

    @property
    def offset(self) -> Tensor | None:
        """The fill, where nothing is selected."""
        return None if self.fill == 0.0 else torch.where(self.index < 0, self.fill, 0.0).to(torch.float64)

    def copies(self) -> int:
        """The most often one input entry is selected."""
        kept = self.index[self.index >= 0]
        return int(torch.bincount(kept.flatten()).max()) if kept.numel() else 0

    def linear(self, x: Tensor, absolute: bool = False) -> Tensor:
        """Gather, zero where nothing is selected."""
        lead = lead_axes(x, self.in_shapes[0])
        flat = x.reshape(*lead, count(self.in_shapes[0]))
        index = self.index.flatten().to(x.device)
        y = flat.index_select(-1, index.clamp(min=0))
        if (index < 0).any():
            y = torch.where(index < 0, torch.zeros((), dtype=x.dtype, device=x.device), y)
        return y.reshape((*lead, *self.index.shape))

    def adjoint(self, y: Tensor, absolute: bool = False) -> Tensor:
        """Scatter and add."""
        lead = lead_axes(y, self.shape)
        index = self.index.flatten().to(y.device)
        kept = index >= 0
        flat = y.reshape(*lead, count(self.shape))[..., kept]
        x = torch.zeros(*lead, count(self.in_shapes[0]), dtype=y.dtype, device=y.device)
        return x.index_add(-1, index[kept], flat).reshape((*lead, *self.in_shapes[0]))

    def enclose(self, *xs: Interval) -> Interval:
        """Exact: both ends move."""
        return xs[0].map(self.evaluate)
