"""Products of two branches: entry by entry, and as matrices (attention)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.graph.operator import Shape
from steepest.numerics.interval import Interval, linear_image
from steepest.numerics.rounding import sum_above
from steepest.ops.kinds import Bilinear


@dataclass(frozen=True, eq=False)
class Multiply(Bilinear):
    """``x * y`` of two tensors of one shape. Without a region it has no constant unless the other factor is bounded."""

    code: ClassVar[str] = "multiply"

    @property
    def shape(self) -> Shape:
        """The common shape."""
        return self.in_shapes[0]

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The product."""
        return xs[0] * xs[1]

    def enclose(self, *xs: Interval) -> Interval:
        """Of the four products of ends."""
        return xs[0] * xs[1]

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """Cotangent times the other factor."""
        lead = xs[0].lo.ndim - len(self.shape)
        first, second = (x.map(lambda t: t.unsqueeze(lead)) for x in xs)
        return cotangent * second, cotangent * first

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """Each direction times the other factor."""
        lead = xs[0].lo.ndim - len(self.shape)
        first, second = (x.map(lambda t: t.unsqueeze(lead)) for x in xs)
        return Interval.point(directions[0]) * second + first * Interval.point(directions[1])

    def gains(self, p: float, xs: tuple[Interval, ...]) -> tuple[float, float]:
        """The other factor's largest magnitude, in every lp."""
        return xs[1].magnitude().max().item(), xs[0].magnitude().max().item()


@dataclass(frozen=True, eq=False)
class MatMul(Bilinear):
    """``x @ y`` over the last two axes, batch axes equal: ``[*b, m, k] @ [*b, k, n]``."""

    code: ClassVar[str] = "matmul"

    @property
    def shape(self) -> Shape:
        """``(*b, m, n)``."""
        return (*self.in_shapes[0][:-1], self.in_shapes[1][-1])

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The matrix product."""
        return xs[0] @ xs[1]

    def enclose(self, *xs: Interval) -> Interval:
        """See ``interval_matmul``."""
        return interval_matmul(xs[0], xs[1])

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """``G y'`` and ``x' G``."""
        lead = xs[0].lo.ndim - len(self.in_shapes[0])
        first, second = (x.map(lambda t: t.unsqueeze(lead).mT) for x in xs)
        return interval_matmul(cotangent, second), interval_matmul(first, cotangent)

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """``dx y`` and ``x dy``."""
        lead = xs[0].lo.ndim - len(self.in_shapes[0])
        first, second = (x.map(lambda t: t.unsqueeze(lead)) for x in xs)
        return interval_matmul(Interval.point(directions[0]), second) + interval_matmul(first, Interval.point(directions[1]))

    def gains(self, p: float, xs: tuple[Interval, ...]) -> tuple[float, float]:
        """``x -> x y`` acts on the rows of x by y', ``y -> x y`` on the columns of y by x; norms of magnitudes."""
        return _norm_above(xs[1].magnitude().mT, p), _norm_above(xs[0].magnitude(), p)


def _norm_above(magnitude: Tensor, p: float) -> float:
    """Largest operator norm from lp to lp of any of a batch of matrices of these magnitudes."""
    rows, columns = sum_above(magnitude, -1).amax(-1), sum_above(magnitude, -2).amax(-1)
    if p == math.inf:
        return rows.max().item()
    if p == 1:
        return columns.max().item()
    frobenius = sum_above(magnitude.square() * (1 + 2**-50), (-2, -1))
    return (torch.minimum(rows * columns, frobenius) * (1 + 2**-50)).sqrt().max().item() * (1 + 2**-50)


def interval_matmul(x: Interval, y: Interval) -> Interval:
    """Encloses ``X Y`` for all X, Y in two sets: ``X (c + e) = X c + X e`` with X c by centre and radius, ``|X e| <= |X| r``."""
    centre, radius = y.centre_radius()
    by_centre = linear_image(x, lambda t: t @ centre, lambda t: t @ centre.abs(), x.shape[-1])
    reach = linear_image(Interval.point(x.magnitude()), lambda t: t @ radius, lambda t: t @ radius, x.shape[-1])
    spread = torch.nan_to_num(reach.hi, nan=math.inf, posinf=math.inf).clamp(min=0.0)
    return Interval.outward(by_centre.lo - spread, by_centre.hi + spread)
