"""Exponents of growth from increments over doubling windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steepest.results.convergence import Exponent

# Two-sided 95 % quantiles of Student's t with 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def exponent(increments: Sequence[float]) -> Exponent:
    """P of ``S(T) ~ T^p`` from ``S(2T) - S(T)`` over successive doublings of T: the slope of their binary logarithms.

    A sum that grows like log T has p = 0, one that converges p < 0. At least three increments; zeros count as 1e-30 of the largest.

    Returns:
        The least-squares slope and its 95 % interval, infinite where an increment is not finite.
    """
    n = len(increments)
    assert n >= 3, "at least three windows"
    if not all(math.isfinite(x) for x in increments):
        return Exponent(math.inf, -math.inf, math.inf)
    largest = max(increments)
    if largest <= 0.0:
        return Exponent(-math.inf, -math.inf, -math.inf)
    y = [math.log2(max(x, 1e-30 * largest)) for x in increments]
    centre, mean = (n - 1) / 2, sum(y) / n
    spread = sum((k - centre) ** 2 for k in range(n))
    slope = sum((k - centre) * v for k, v in enumerate(y)) / spread
    rest = sum((v - mean - slope * (k - centre)) ** 2 for k, v in enumerate(y))
    half = _STUDENT[min(n - 2, len(_STUDENT)) - 1] * math.sqrt(rest / (n - 2) / spread)
    return Exponent(slope, slope - half, slope + half)


def dominant(exponents: Sequence[Exponent]) -> Exponent:
    """The exponent of a sum of powers: the largest, with intervals to match."""
    return Exponent(max(e.value for e in exponents), max(e.low for e in exponents), max(e.high for e in exponents))


def negative(e: Exponent) -> Exponent:
    """The exponent of the inverse."""
    return Exponent(-e.value, -e.high, -e.low)
