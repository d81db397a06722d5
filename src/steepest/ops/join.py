"""Sums and concatenations of branches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.graph.operator import Shape
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import gamma, product_up, sum_up, up
from steepest.ops.kinds import Join


@dataclass(frozen=True, eq=False)
class Add(Join):
    """``sum_i sign_i x_i`` of tensors of one shape.

    Args:
        signs: +1 or -1 for each input.
    """

    code: ClassVar[str] = "add"
    signs: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        """The common shape."""
        return self.in_shapes[0]

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The signed sum."""
        total = xs[0] if self.signs[0] > 0 else -xs[0]
        for x, sign in zip(xs[1:], self.signs[1:], strict=True):
            total = total + x if sign > 0 else total - x
        return total

    def enclose(self, *xs: Interval) -> Interval:
        """Sum of the ends."""
        total = xs[0] if self.signs[0] > 0 else -xs[0]
        for x, sign in zip(xs[1:], self.signs[1:], strict=True):
            total = total + x if sign > 0 else total - x
        return total

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """The cotangent to every branch, signed."""
        return tuple(cotangent if sign > 0 else -cotangent for sign in self.signs)

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """The same map; exact where all but one are zero."""
        total = self.evaluate(*directions)
        if sum(bool(d.any()) for d in directions) <= 1:
            return Interval.point(total)
        off = gamma(len(directions)) * torch.stack([d.abs() for d in directions]).sum(0)
        return Interval(total - off, total + off)

    def lipschitz(self, p: float, inputs: tuple[float, ...], xs: tuple[Interval, ...]) -> float:
        """Sum of the branches' constants."""
        return sum_up(*inputs)

    def tangent(self, xs: tuple[Tensor, ...], dxs: tuple[Tensor, ...], sharpness: float | None = None) -> Tensor:
        """The same map."""
        return self.evaluate(*dxs)


@dataclass(frozen=True, eq=False)
class Concat(Join):
    """Inputs side by side along one axis.

    Args:
        axis: of the declared shapes, non-negative.
    """

    code: ClassVar[str] = "concat"
    axis: int

    @property
    def shape(self) -> Shape:
        """The axis is as long as all inputs' together."""
        shape = list(self.in_shapes[0])
        shape[self.axis] = sum(s[self.axis] for s in self.in_shapes)
        return tuple(shape)

    def evaluate(self, *xs: Tensor) -> Tensor:
        """Concatenate."""
        return torch.cat(xs, self.axis - len(self.shape))

    def enclose(self, *xs: Interval) -> Interval:
        """Exact."""
        return Interval(self.evaluate(*(x.lo for x in xs)), self.evaluate(*(x.hi for x in xs)))

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """Each branch its part."""
        sizes = [s[self.axis] for s in self.in_shapes]
        axis = self.axis - len(self.shape)
        return tuple(Interval(lo, hi) for lo, hi in zip(cotangent.lo.split(sizes, axis), cotangent.hi.split(sizes, axis), strict=True))

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """The same map."""
        return Interval.point(self.evaluate(*directions))

    def lipschitz(self, p: float, inputs: tuple[float, ...], xs: tuple[Interval, ...]) -> float:
        """The lp norm of the vector of the branches' constants."""
        if p == math.inf:
            return max(inputs)
        if p == 1:
            return sum_up(*inputs)
        return max(inputs) if sum(v > 0 for v in inputs) <= 1 else up(math.sqrt(sum_up(*(product_up(v, v) for v in inputs))))

    def tangent(self, xs: tuple[Tensor, ...], dxs: tuple[Tensor, ...], sharpness: float | None = None) -> Tensor:
        """The same map."""
        return self.evaluate(*dxs)
