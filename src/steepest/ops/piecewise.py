"""Piecewise linear and quadratic activations: exact slopes and kinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.numerics.interval import Interval
from steepest.ops.kinds import Elementwise


def _soft_step(x: Tensor, sharpness: float, dims: int) -> Tensor:
    """A sigmoid gate at the scale of the layer (root mean square per sample, not differentiated)."""
    axes = tuple(range(x.ndim - dims, x.ndim))
    scale = x.detach().square().mean(axes, keepdim=True).sqrt() + 1e-30
    return torch.sigmoid(sharpness * x / scale)


@dataclass(frozen=True, eq=False)
class LeakyRelu(Elementwise):
    """``max(x, 0) + slope min(x, 0)``: ReLU (slope 0), leaky ReLU, PReLU (a slope per entry), absolute value (slope -1).

    Args:
        slope: float64, of the input's rank, each axis of the input's length or one; any sign.
    """

    code: ClassVar[str] = "leaky_relu"
    slope: Tensor

    @property
    def kinks(self) -> tuple[float, ...]:
        """Zero."""
        return (0.0,)

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The activation."""
        return torch.where(xs[0] > 0, xs[0], self.slope.to(xs[0].dtype) * xs[0])

    def derivative(self, x: Tensor) -> Tensor:
        """One or the slope."""
        return torch.where(x > 0, torch.ones((), dtype=x.dtype), self.slope.to(x.dtype))

    def soft_derivative(self, x: Tensor, sharpness: float) -> Tensor:
        """A sigmoid between the two slopes."""
        slope = self.slope.to(x.dtype)
        return slope + (1.0 - slope) * _soft_step(x, sharpness, len(self.shape))

    def slopes(self, x: Interval) -> Interval:
        """{1}, {slope}, or the hull of both where the set touches zero."""
        low, high = torch.clamp(self.slope, max=1.0), torch.clamp(self.slope, min=1.0)
        positive, negative = x.lo > 0, x.hi < 0
        return Interval(
            torch.where(positive, 1.0, torch.where(negative, self.slope, low)),
            torch.where(positive, 1.0, torch.where(negative, self.slope, high)),
        )

    def enclose(self, *xs: Interval) -> Interval:
        """Ends, and zero where it lies inside."""
        x = xs[0]
        scaled = Interval.point(self.slope.expand(self.shape)) * Interval(x.lo.clamp(max=0.0), x.hi.clamp(max=0.0))
        upper = Interval(x.lo.clamp(min=0.0), x.hi.clamp(min=0.0))
        # Branches the set does not reach do not count; exact ends need no widening where the slope is zero.
        scaled = Interval(torch.where(self.slope == 0, 0.0, scaled.lo), torch.where(self.slope == 0, 0.0, scaled.hi))
        positive, negative = x.lo > 0, x.hi < 0
        low = torch.where(positive, upper.lo, torch.where(negative, scaled.lo, scaled.lo.clamp(max=0.0)))
        high = torch.where(positive, upper.hi, torch.where(negative, scaled.hi, torch.maximum(scaled.hi, upper.hi)))
        return Interval(low, high)


@dataclass(frozen=True, eq=False)
class Clamp(Elementwise):
    """``min(max(x, low), high)``: hardtanh, ReLU6, clamp. Ends may be infinite (given as None).

    Args:
        low: float or None.
        high: float or None; at least ``low``.
    """

    code: ClassVar[str] = "clamp"
    low: float | None
    high: float | None

    @property
    def kinks(self) -> tuple[float, ...]:
        """The ends that are there."""
        return tuple(end for end in (self.low, self.high) if end is not None)

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The clamp."""
        return xs[0] if self.low is None and self.high is None else xs[0].clamp(self.low, self.high)

    def derivative(self, x: Tensor) -> Tensor:
        """One inside, zero outside."""
        inside = torch.ones_like(x)
        if self.low is not None:
            inside = inside * (x > self.low)
        if self.high is not None:
            inside = inside * (x < self.high)
        return inside

    def soft_derivative(self, x: Tensor, sharpness: float) -> Tensor:
        """Sigmoids at both ends."""
        gate = torch.ones_like(x)
        if self.low is not None:
            gate = gate * torch.sigmoid(sharpness * (x - self.low))
        if self.high is not None:
            gate = gate * torch.sigmoid(sharpness * (self.high - x))
        return gate

    def slopes(self, x: Interval) -> Interval:
        """{1}, {0} or [0, 1]."""
        low = -torch.inf if self.low is None else self.low
        high = torch.inf if self.high is None else self.high
        inside = (x.lo > low) & (x.hi < high)
        outside = (x.hi < low) | (x.lo > high)
        return Interval(inside.to(torch.float64), (~outside).to(torch.float64))

    def enclose(self, *xs: Interval) -> Interval:
        """Monotone and exact: both ends."""
        return xs[0].map(self.evaluate)


@dataclass(frozen=True, eq=False)
class HardSwish(Elementwise):
    """``x min(max(x + 3, 0), 6) / 6``: slope 0 below -3, ``(2 x + 3) / 6`` to 3, then 1; it leaps at both kinks."""

    code: ClassVar[str] = "hard_swish"

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The activation."""
        return xs[0] * (xs[0] + 3.0).clamp(0.0, 6.0) / 6.0

    def derivative(self, x: Tensor) -> Tensor:
        """The slope; at a kink, the inner one."""
        return torch.where(x < -3, 0.0, torch.where(x > 3, 1.0, (2.0 * x + 3.0) / 6.0)).to(x.dtype)

    def slopes(self, x: Interval) -> Interval:
        """Inner slopes over the part in [-3, 3], with 0 and 1 where the set leaves it."""
        inner = Interval.outward((2.0 * x.lo.clamp(-3, 3) + 3.0) / 6.0 - 4e-16, (2.0 * x.hi.clamp(-3, 3) + 3.0) / 6.0 + 4e-16)
        below, above = x.lo <= -3, x.hi >= 3
        low = torch.where(below, torch.clamp(inner.lo, max=0.0), inner.lo)
        high = torch.where(above, torch.clamp(inner.hi, min=1.0), inner.hi)
        low = torch.where(above, torch.clamp(low, max=1.0), low)
        high = torch.where(below, torch.clamp(high, min=0.0), high)
        low = torch.where(x.lo > 3, 1.0, torch.where(x.hi < -3, 0.0, low))
        high = torch.where(x.lo > 3, 1.0, torch.where(x.hi < -3, 0.0, high))
        return Interval(low, high)

    def enclose(self, *xs: Interval) -> Interval:
        """Ends, and the minimum -3/8 at -3/2 where it lies inside."""
        x = xs[0]
        # Below -3 the function is zero; clamping the ends there keeps infinity out of the product.
        a, b = self.evaluate(x.lo.clamp(min=-3.0)), self.evaluate(x.hi.clamp(min=-3.0))
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        low = torch.where((x.lo <= -1.5) & (x.hi >= -1.5), -0.375, low)
        slack_low, slack_high = 4e-16 * (low.abs() + 1), 4e-16 * (high.abs() + 1)
        return Interval.outward(torch.nan_to_num(low - slack_low, nan=-torch.inf), high + slack_high)
