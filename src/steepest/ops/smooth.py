"""Smooth activations, each known by its formula, its slope, and where the two turn."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.numerics.interval import Interval
from steepest.numerics.rounding import TINY
from steepest.ops.kinds import Elementwise

Ends = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Smooth(Elementwise):
    """A function on the whole line that is monotone between its ``turns``, with a slope monotone between its ``bends``.

    The range over an interval is then the hull of the values at its ends and at the turning points inside. Values are
    computed in float64 and widened by ``relative`` times themselves plus ``absolute``, well above the error of the
    formulas; a turning point known to 1e-16 gives the extreme value to 1e-32.
    """

    turns: ClassVar[tuple[float, ...]] = ()
    bends: ClassVar[tuple[float, ...]] = ()
    limits: ClassVar[Ends]
    slope_limits: ClassVar[Ends]
    relative: ClassVar[float] = 2.0**-47
    absolute: ClassVar[float] = TINY

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """The function at finite x."""

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The function."""
        return self.value(xs[0])

    def jumps(self) -> tuple[tuple[float, tuple[float, ...]], ...]:
        """Points where the slope leaps, with its one-sided values."""
        return ()

    def enclose(self, *xs: Interval) -> Interval:
        """Hull of the values at ends and turning points, widened."""
        low, high = _hull(self.value, xs[0], self.turns, self.limits)
        return self._widen(low, high)

    def slopes(self, x: Interval) -> Interval:
        """Hull of the slopes at ends, bends and jumps, widened."""
        low, high = _hull(self.derivative, x, self.bends, self.slope_limits)
        for at, sides in self.jumps():
            inside = (x.lo <= at) & (x.hi >= at)
            low = torch.where(inside, low.clamp(max=min(sides)), low)
            high = torch.where(inside, high.clamp(min=max(sides)), high)
        return self._widen(low, high)

    def _widen(self, low: Tensor, high: Tensor) -> Interval:
        finite_low, finite_high = (torch.nan_to_num(t, posinf=0.0, neginf=0.0).abs() for t in (low, high))
        return Interval.outward(low - (self.relative * finite_low + self.absolute), high + (self.relative * finite_high + self.absolute))


def _hull(f: Callable[[Tensor], Tensor], x: Interval, at: tuple[float, ...], limits: Ends) -> tuple[Tensor, Tensor]:
    """Least and greatest of f at the ends of x and at those of the points ``at`` that lie in it."""
    ends = []
    for end in (x.lo, x.hi):
        value = f(torch.nan_to_num(end, posinf=0.0, neginf=0.0))
        value = torch.where(end == math.inf, limits[1], value)
        ends.append(torch.where(end == -math.inf, limits[0], value))
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    for point in at:
        value = f(torch.tensor(point, dtype=torch.float64)).item()
        inside = (x.lo <= point) & (x.hi >= point)
        low = torch.where(inside, low.clamp(max=value), low)
        high = torch.where(inside, high.clamp(min=value), high)
    return low, high


@dataclass(frozen=True, eq=False)
class Sigmoid(Smooth):
    """``1 / (1 + e^-x)``."""

    code: ClassVar[str] = "sigmoid"
    bends: ClassVar[tuple[float, ...]] = (0.0,)
    limits: ClassVar[Ends] = (0.0, 1.0)
    slope_limits: ClassVar[Ends] = (0.0, 0.0)

    def value(self, x: Tensor) -> Tensor:
        """The sigmoid."""
        return torch.sigmoid(x)

    def derivative(self, x: Tensor) -> Tensor:
        """``s(x) s(-x)``."""
        return torch.sigmoid(x) * torch.sigmoid(-x)


@dataclass(frozen=True, eq=False)
class Tanh(Smooth):
    """``tanh x``."""

    code: ClassVar[str] = "tanh"
    bends: ClassVar[tuple[float, ...]] = (0.0,)
    limits: ClassVar[Ends] = (-1.0, 1.0)
    slope_limits: ClassVar[Ends] = (0.0, 0.0)

    def value(self, x: Tensor) -> Tensor:
        """The hyperbolic tangent."""
        return torch.tanh(x)

    def derivative(self, x: Tensor) -> Tensor:
        """``4 s(2x) s(-2x)``, accurate in the tails."""
        return 4.0 * torch.sigmoid(2.0 * x) * torch.sigmoid(-2.0 * x)


@dataclass(frozen=True, eq=False)
class Erf(Smooth):
    """The error function."""

    code: ClassVar[str] = "erf"
    bends: ClassVar[tuple[float, ...]] = (0.0,)
    limits: ClassVar[Ends] = (-1.0, 1.0)
    slope_limits: ClassVar[Ends] = (0.0, 0.0)
    absolute: ClassVar[float] = 1e-15

    def value(self, x: Tensor) -> Tensor:
        """The error function."""
        return torch.erf(x)

    def derivative(self, x: Tensor) -> Tensor:
        """``2 / sqrt(pi) e^(-x^2)``."""
        return (2.0 / math.sqrt(math.pi)) * torch.exp(-x.square())


@dataclass(frozen=True, eq=False)
class Softplus(Smooth):
    """``log(1 + e^x)``, the smooth function (no linear branch above a threshold)."""

    code: ClassVar[str] = "softplus"
    limits: ClassVar[Ends] = (0.0, math.inf)
    slope_limits: ClassVar[Ends] = (0.0, 1.0)

    def value(self, x: Tensor) -> Tensor:
        """``max(x, 0) + log1p(e^-|x|)``."""
        return x.clamp(min=0.0) + torch.log1p(torch.exp(-x.abs()))

    def derivative(self, x: Tensor) -> Tensor:
        """The sigmoid."""
        return torch.sigmoid(x)


@dataclass(frozen=True, eq=False)
class Softsign(Smooth):
    """``x / (1 + |x|)``."""

    code: ClassVar[str] = "softsign"
    bends: ClassVar[tuple[float, ...]] = (0.0,)
    limits: ClassVar[Ends] = (-1.0, 1.0)
    slope_limits: ClassVar[Ends] = (0.0, 0.0)

    def value(self, x: Tensor) -> Tensor:
        """The softsign."""
        return F.softsign(x)

    def derivative(self, x: Tensor) -> Tensor:
        """``1 / (1 + |x|)^2``."""
        return (1.0 + x.abs()).square().reciprocal()


@dataclass(frozen=True, eq=False)
class Elu(Smooth):
    """``x`` above zero, ``alpha (e^x - 1)`` below (SELU and CELU are scalings of it).

    Args:
        alpha: non-negative float.
    """

    code: ClassVar[str] = "elu"
    limits: ClassVar[Ends] = (-math.inf, math.inf)
    slope_limits: ClassVar[Ends] = (0.0, 1.0)
    alpha: float = 1.0

    def value(self, x: Tensor) -> Tensor:
        """The activation."""
        return torch.where(x > 0, x, self.alpha * torch.expm1(x.clamp(max=0.0)))

    def derivative(self, x: Tensor) -> Tensor:
        """One, or ``alpha e^x``."""
        return torch.where(x > 0, 1.0, self.alpha * torch.exp(x.clamp(max=0.0)))

    def jumps(self) -> tuple[tuple[float, tuple[float, ...]], ...]:
        """At zero, from alpha to one."""
        return ((0.0, (self.alpha, 1.0)),)

    def enclose(self, *xs: Interval) -> Interval:
        """Monotone; its infimum is -alpha."""
        raw = super().enclose(*xs)
        return Interval(raw.lo.clamp(min=-self.alpha), raw.hi)


@dataclass(frozen=True, eq=False)
class Gelu(Smooth):
    """``x Phi(x)`` with the exact normal distribution function."""

    code: ClassVar[str] = "gelu"
    turns: ClassVar[tuple[float, ...]] = (-0.75179152469356445746,)
    bends: ClassVar[tuple[float, ...]] = (-math.sqrt(2.0), math.sqrt(2.0))
    limits: ClassVar[Ends] = (0.0, math.inf)
    slope_limits: ClassVar[Ends] = (0.0, 1.0)
    absolute: ClassVar[float] = 5e-14

    def value(self, x: Tensor) -> Tensor:
        """``x (1 + erf(x / sqrt 2)) / 2``."""
        return F.gelu(x)

    def derivative(self, x: Tensor) -> Tensor:
        """``Phi(x) + x phi(x)``."""
        density = torch.exp(-0.5 * x.square()) / math.sqrt(2.0 * math.pi)
        return 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))) + x * density


@dataclass(frozen=True, eq=False)
class GeluTanh(Smooth):
    """``x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2``."""

    code: ClassVar[str] = "gelu_tanh"
    turns: ClassVar[tuple[float, ...]] = (-0.75246142207101625849,)
    bends: ClassVar[tuple[float, ...]] = (-1.4185040087908283555, 1.4185040087908283555)
    limits: ClassVar[Ends] = (0.0, math.inf)
    slope_limits: ClassVar[Ends] = (0.0, 1.0)
    absolute: ClassVar[float] = 5e-14

    def value(self, x: Tensor) -> Tensor:
        """The activation, as ``x sigmoid(2 u)``."""
        return x * torch.sigmoid(2.0 * self._inner(x))

    def derivative(self, x: Tensor) -> Tensor:
        """``s(2u) + 2 x u' s(2u) s(-2u)``."""
        inner = 2.0 * self._inner(x)
        rate = math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x.square())
        spread = torch.nan_to_num(2.0 * x * rate * torch.sigmoid(inner) * torch.sigmoid(-inner))
        return torch.sigmoid(inner) + spread

    def _inner(self, x: Tensor) -> Tensor:
        # Beyond 60 the gate is 0 or 1 in float64; the clamp keeps the cube finite.
        x = x.clamp(-60.0, 60.0)
        return math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3))


@dataclass(frozen=True, eq=False)
class Silu(Smooth):
    """``x sigmoid(x)`` (Swish)."""

    code: ClassVar[str] = "silu"
    turns: ClassVar[tuple[float, ...]] = (-1.2784645427610737951,)
    bends: ClassVar[tuple[float, ...]] = (-2.3993572805154676678, 2.3993572805154676678)
    limits: ClassVar[Ends] = (0.0, math.inf)
    slope_limits: ClassVar[Ends] = (0.0, 1.0)
    absolute: ClassVar[float] = 5e-15

    def value(self, x: Tensor) -> Tensor:
        """The activation."""
        return x * torch.sigmoid(x)

    def derivative(self, x: Tensor) -> Tensor:
        """``s(x) + x s(x) s(-x)``."""
        return torch.sigmoid(x) * (1.0 + x * torch.sigmoid(-x))


@dataclass(frozen=True, eq=False)
class Mish(Smooth):
    """``x tanh(log(1 + e^x))``."""

    code: ClassVar[str] = "mish"
    turns: ClassVar[tuple[float, ...]] = (-1.1924312145154952121,)
    bends: ClassVar[tuple[float, ...]] = (-2.25637639636079312, 1.4905711794854284593)
    limits: ClassVar[Ends] = (0.0, math.inf)
    slope_limits: ClassVar[Ends] = (0.0, 1.0)
    absolute: ClassVar[float] = 5e-15

    def value(self, x: Tensor) -> Tensor:
        """The activation."""
        return x * torch.tanh(_softplus(x))

    def derivative(self, x: Tensor) -> Tensor:
        """``tanh(s) + x (1 - tanh(s)^2) sigmoid(x)`` with s the softplus."""
        soft = _softplus(x)
        return torch.tanh(soft) + x * 4.0 * torch.sigmoid(2 * soft) * torch.sigmoid(-2 * soft) * torch.sigmoid(x)


@dataclass(frozen=True, eq=False)
class Tanhshrink(Smooth):
    """``x - tanh x``."""

    code: ClassVar[str] = "tanhshrink"
    bends: ClassVar[tuple[float, ...]] = (0.0,)
    limits: ClassVar[Ends] = (-math.inf, math.inf)
    slope_limits: ClassVar[Ends] = (1.0, 1.0)
    absolute: ClassVar[float] = 1e-15

    def value(self, x: Tensor) -> Tensor:
        """The activation."""
        return x - torch.tanh(x)

    def derivative(self, x: Tensor) -> Tensor:
        """``tanh(x)^2``."""
        return torch.tanh(x).square()


@dataclass(frozen=True, eq=False)
class Exp(Smooth):
    """``e^x``: no finite constant over the whole line."""

    code: ClassVar[str] = "exp"
    limits: ClassVar[Ends] = (0.0, math.inf)
    slope_limits: ClassVar[Ends] = (0.0, math.inf)

    def value(self, x: Tensor) -> Tensor:
        """The exponential."""
        return torch.exp(x)

    def derivative(self, x: Tensor) -> Tensor:
        """Itself."""
        return torch.exp(x)


def _softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0.0) + torch.log1p(torch.exp(-x.abs()))
