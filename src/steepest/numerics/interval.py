"""Interval tensors: sets of real tensors between two float64 ends, closed under outward rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.numerics.rounding import TINY, above, below, gamma


@dataclass(frozen=True)
class Interval:
    """All real tensors x with ``lo <= x <= hi`` elementwise. Ends may be infinite, never NaN."""

    lo: Tensor
    hi: Tensor

    @staticmethod
    def outward(lo: Tensor, hi: Tensor) -> Interval:
        """One ulp outwards; an end that came out NaN is unknown and becomes infinite."""
        return Interval(
            torch.nan_to_num(below(lo), nan=-math.inf, posinf=math.inf, neginf=-math.inf),
            torch.nan_to_num(above(hi), nan=math.inf, posinf=math.inf, neginf=-math.inf),
        )

    @staticmethod
    def point(x: Tensor) -> Interval:
        """The set of one tensor."""
        return Interval(x, x)

    @staticmethod
    def whole(shape: tuple[int, ...]) -> Interval:
        """All real tensors of a shape."""
        return Interval(torch.full(shape, -math.inf, dtype=torch.float64), torch.full(shape, math.inf, dtype=torch.float64))

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensors in the set."""
        return self.lo.shape

    def map(self, rearrange: Callable[[Tensor], Tensor]) -> Interval:
        """Apply a map that only moves entries (reshape, index, expand) to both ends."""
        return Interval(rearrange(self.lo), rearrange(self.hi))

    def magnitude(self) -> Tensor:
        """Largest absolute value, elementwise."""
        return torch.maximum(self.lo.abs(), self.hi.abs())

    def centre_radius(self) -> tuple[Tensor, Tensor]:
        """A finite centre c and a radius r (rounded up, possibly infinite) with the set inside [c - r, c + r]."""
        centre = torch.nan_to_num(0.5 * self.lo + 0.5 * self.hi, nan=0.0, posinf=0.0, neginf=0.0)
        return centre, above(torch.maximum(self.hi - centre, centre - self.lo))

    def __add__(self, other: Interval) -> Interval:
        return Interval.outward(self.lo + other.lo, self.hi + other.hi)

    def __sub__(self, other: Interval) -> Interval:
        return Interval.outward(self.lo - other.hi, self.hi - other.lo)

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo)

    def __mul__(self, other: Interval) -> Interval:
        # 0 * inf is 0 here: the ends stand for real numbers, however large.
        ends = [
            torch.nan_to_num(a * b, nan=0.0, posinf=math.inf, neginf=-math.inf) for a in (self.lo, self.hi) for b in (other.lo, other.hi)
        ]
        low = torch.minimum(torch.minimum(ends[0], ends[1]), torch.minimum(ends[2], ends[3]))
        high = torch.maximum(torch.maximum(ends[0], ends[1]), torch.maximum(ends[2], ends[3]))
        return Interval.outward(low, high)

    def intersect(self, other: Interval) -> Interval:
        """The common part of two sets that both hold the truth."""
        return Interval(torch.maximum(self.lo, other.lo), torch.minimum(self.hi, other.hi))

    def sum(self, dim: int, keepdim: bool = False) -> Interval:
        """Sums along one dimension."""
        slack = gamma(self.lo.shape[dim])
        low = self.lo.sum(dim, keepdim=keepdim) - slack * self.lo.abs().sum(dim, keepdim=keepdim) * (1 + slack)
        high = self.hi.sum(dim, keepdim=keepdim) + slack * self.hi.abs().sum(dim, keepdim=keepdim) * (1 + slack)
        return Interval.outward(low, high)


def linear_image(x: Interval, linear: Callable[[Tensor], Tensor], abs_linear: Callable[[Tensor], Tensor], terms: int) -> Interval:
    """Encloses ``{W x}`` for a linear map given by its action and that of its entrywise absolute value.

    With c, r the centre and radius, ``W x`` lies in ``W c +- |W| r``, and the computed ``W c`` is within
    ``gamma |W| |c|`` of the exact one, whatever the order of summation; both errors go through one product
    ``|W| (r + gamma |c|)``.

    Args:
        x: the set, float64.
        linear: x -> W x.
        abs_linear: x -> |W| x.
        terms: the most products in any sum either of them makes.
    """
    centre, radius = x.centre_radius()
    slack = gamma(terms)
    middle = linear(centre)
    spread = abs_linear(above(radius + slack * centre.abs())) * (1.0 + 2.0 * slack) + TINY
    return Interval.outward(middle - spread, middle + spread)
