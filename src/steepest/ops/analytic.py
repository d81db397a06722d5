"""Functions with poles, periods or growth: reciprocal, roots, logarithm, powers, sine and cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.numerics.interval import Interval
from steepest.ops.kinds import Elementwise

_ULPS = 2.0**-47


def _hull(*candidates: Tensor) -> Interval:
    """Least and greatest, widened by some ulps."""
    low, high = candidates[0], candidates[0]
    for c in candidates[1:]:
        low, high = torch.minimum(low, c), torch.maximum(high, c)
    finite_low, finite_high = (torch.nan_to_num(t, posinf=0.0, neginf=0.0).abs() for t in (low, high))
    return Interval.outward(low - _ULPS * finite_low, high + _ULPS * finite_high)


def _unless(unknown: Tensor, known: Interval) -> Interval:
    """The whole line where unknown."""
    return Interval(torch.where(unknown, -math.inf, known.lo), torch.where(unknown, math.inf, known.hi))


@dataclass(frozen=True, eq=False)
class Reciprocal(Elementwise):
    """``1 / x``; unknown over sets that touch zero."""

    code: ClassVar[str] = "reciprocal"

    def evaluate(self, *xs: Tensor) -> Tensor:
        """``1 / x``."""
        return xs[0].reciprocal()

    def derivative(self, x: Tensor) -> Tensor:
        """``-1 / x^2``."""
        return -x.square().reciprocal()

    def enclose(self, *xs: Interval) -> Interval:
        """Monotone on either side of zero."""
        x = xs[0]
        return _unless((x.lo <= 0) & (x.hi >= 0), _hull(x.lo.reciprocal(), x.hi.reciprocal()))

    def slopes(self, x: Interval) -> Interval:
        """Monotone on either side of zero."""
        return _unless((x.lo <= 0) & (x.hi >= 0), _hull(self.derivative(x.lo), self.derivative(x.hi)))


@dataclass(frozen=True, eq=False)
class Sqrt(Elementwise):
    """``sqrt x`` on the half line; unknown over sets that go below zero."""

    code: ClassVar[str] = "sqrt"

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The root."""
        return xs[0].sqrt()

    def derivative(self, x: Tensor) -> Tensor:
        """``1 / (2 sqrt x)``."""
        return 0.5 * x.rsqrt()

    def enclose(self, *xs: Interval) -> Interval:
        """Monotone."""
        x = xs[0]
        return _unless(x.lo < 0, _hull(x.lo.clamp(min=0).sqrt(), x.hi.clamp(min=0).sqrt()))

    def slopes(self, x: Interval) -> Interval:
        """Falling; unbounded at zero."""
        return _unless(x.lo <= 0, _hull(self.derivative(x.lo), self.derivative(x.hi)))


@dataclass(frozen=True, eq=False)
class Log(Elementwise):
    """``log x`` on the positive half line; unknown over sets that touch zero."""

    code: ClassVar[str] = "log"

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The natural logarithm."""
        return xs[0].log()

    def derivative(self, x: Tensor) -> Tensor:
        """``1 / x``."""
        return x.reciprocal()

    def enclose(self, *xs: Interval) -> Interval:
        """Monotone."""
        return _unless(xs[0].lo <= 0, _hull(xs[0].lo.log(), xs[0].hi.log()))

    def slopes(self, x: Interval) -> Interval:
        """Falling."""
        return _unless(x.lo <= 0, _hull(x.lo.reciprocal(), x.hi.reciprocal()))


@dataclass(frozen=True, eq=False)
class Power(Elementwise):
    """``x^n`` for an integer n of at least two.

    Args:
        exponent: n.
    """

    code: ClassVar[str] = "power"
    exponent: int

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The power."""
        return xs[0] ** self.exponent

    def derivative(self, x: Tensor) -> Tensor:
        """``n x^(n - 1)``."""
        return self.exponent * x ** (self.exponent - 1)

    def enclose(self, *xs: Interval) -> Interval:
        """Ends, and zero where an even power turns inside."""
        return _power_range(xs[0], self.exponent, 1.0)

    def slopes(self, x: Interval) -> Interval:
        """``n`` times the range of the next lower power."""
        return _power_range(x, self.exponent - 1, float(self.exponent))


def _power_range(x: Interval, n: int, factor: float) -> Interval:
    low, high = x.lo**n, x.hi**n
    if n % 2 == 0:
        inside = (x.lo <= 0) & (x.hi >= 0)
        turned = torch.where(inside, 0.0, torch.minimum(low, high))
        return _hull(factor * turned, factor * torch.maximum(low, high))
    return _hull(factor * low, factor * high)


def _wave(x: Interval, crest: float) -> Interval:
    """Range of ``cos(x - crest)``: its ends, 1 where a crest and -1 where a trough may lie inside."""
    known = torch.isfinite(x.lo) & torch.isfinite(x.hi) & (x.magnitude() < 1e6)
    lo, hi = torch.where(known, x.lo, 0.0), torch.where(known, x.hi, 0.0)
    # Positions in turns; 1e-9 dwarfs their rounding, and counting a crest too many is sound.
    a, b = (lo - crest) / (2 * math.pi) - 1e-9, (hi - crest) / (2 * math.pi) + 1e-9
    crests = torch.floor(b) >= torch.ceil(a)
    troughs = torch.floor(b - 0.5) >= torch.ceil(a - 0.5)
    ends = torch.cos(lo - crest), torch.cos(hi - crest)
    slack = 2e-15 * (1.0 + torch.where(known, x.magnitude(), 0.0))
    low = torch.where(troughs | ~known, -1.0, torch.minimum(*ends) - slack)
    high = torch.where(crests | ~known, 1.0, torch.maximum(*ends) + slack)
    return Interval(low.clamp(min=-1.0), high.clamp(max=1.0))


@dataclass(frozen=True, eq=False)
class Sin(Elementwise):
    """``sin x``."""

    code: ClassVar[str] = "sin"

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The sine."""
        return torch.sin(xs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """The cosine."""
        return torch.cos(x)

    def enclose(self, *xs: Interval) -> Interval:
        """A cosine with its crest at pi / 2."""
        return _wave(xs[0], math.pi / 2)

    def slopes(self, x: Interval) -> Interval:
        """The cosine's range."""
        return _wave(x, 0.0)


@dataclass(frozen=True, eq=False)
class Cos(Elementwise):
    """``cos x``."""

    code: ClassVar[str] = "cos"

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The cosine."""
        return torch.cos(xs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """Minus the sine."""
        return -torch.sin(x)

    def enclose(self, *xs: Interval) -> Interval:
        """The cosine's range."""
        return _wave(xs[0], 0.0)

    def slopes(self, x: Interval) -> Interval:
        """``-sin x = cos(x + pi / 2)``."""
        return _wave(x, -math.pi / 2)
