"""Directed rounding on top of round-to-nearest float64.

Every elementary operation of IEEE arithmetic is within half an ulp of the exact result, so one step of ``nextafter``
outwards makes it a bound; a sum of n products in any order is within ``gamma(n)`` times the sum of their magnitudes
(Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNIT = 2.0**-53
"""Unit roundoff of float64."""

TINY = 2.0**-1000
"""Added where underflow could lose an absolute amount (at most 2^-1074 an operation)."""

ROOT_TINY = 2.0**-500
"""Added to the root of a sum of squares, where squares may have underflowed."""

CLAIM_MARGIN = 1.0 + 2.0**-26
"""Factor by which a proven norm is stated above what was found, so that a second proof with other rounding succeeds too."""


def gamma(terms: int) -> float:
    """Upper bound of n u / (1 - n u), with a factor two in hand.

    Args:
        terms: number of rounded operations on the longest path, at most 2^40.

    Source: Higham 2002, lemma 3.1.
    """
    assert 0 <= terms < 2**40
    return 2.0 * (terms + 2) * UNIT


def up(x: float) -> float:
    """The next float above: turns a correctly rounded result into an upper bound."""
    return math.nextafter(x, math.inf)


def down(x: float) -> float:
    """The next float below."""
    return math.nextafter(x, -math.inf)


def sum_up(*terms: float) -> float:
    """Upper bound of the exact sum of floats, which may be infinite but not NaN."""
    total = 0.0
    for term in terms:
        total = up(total + term) if term else total
    return total


def product_up(*factors: float) -> float:
    """Upper bound of a product of non-negative floats; zero times infinity is zero."""
    total = 1.0
    for factor in factors:
        assert factor >= 0
        if factor == 0.0:
            return 0.0
        total = factor if total == 1.0 else total if factor == 1.0 else up(total * factor)
    return total


def above(x: Tensor) -> Tensor:
    """``nextafter`` upwards, elementwise."""
    return torch.nextafter(x, torch.full_like(x, math.inf))


def below(x: Tensor) -> Tensor:
    """``nextafter`` downwards, elementwise."""
    return torch.nextafter(x, torch.full_like(x, -math.inf))


def sum_above(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Upper bound of sums of non-negative numbers along dimensions."""
    dims = (dim,) if isinstance(dim, int) else dim
    terms = math.prod(x.shape[d] for d in dims)
    return above(x.sum(dims) * (1.0 + gamma(terms)))
