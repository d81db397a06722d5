"""Ranges that options of a descent method are tuned over, as maps of the unit interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Range(Protocol):
    """What an option is drawn from."""

    def at(self, u: float) -> float:
        """The value at a coordinate ``u`` in [0, 1], as a quasi-random sequence gives it; monotone in u."""
        ...


@dataclass(frozen=True)
class LogUniform:
    """Uniform in the logarithm, 0 < low < high."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """``low (high / low)^u``."""
        return math.exp((1.0 - u) * math.log(self.low) + u * math.log(self.high))


@dataclass(frozen=True)
class Uniform:
    """Uniform, low < high."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """``low + u (high - low)``."""
        return (1.0 - u) * self.low + u * self.high


@dataclass(frozen=True)
class OneMinusLogUniform:
    """One minus a log-uniform number: for averaging factors, whose memory is about 1 / (1 - beta) steps; 0 < low < high <= 1.

    Args:
        low: the largest value is 1 - low.
        high: the smallest is 1 - high.
    """

    low: float
    high: float

    def at(self, u: float) -> float:
        """``1 - high (low / high)^u``."""
        return 1.0 - math.exp((1.0 - u) * math.log(self.high) + u * math.log(self.low))
