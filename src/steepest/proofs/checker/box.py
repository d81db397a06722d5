"""Boxes of real arrays between float64 ends, and arithmetic that keeps the truth inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
EPS = 2.0**-52


def slack(terms: int) -> float:
    """Relative error of a sum of so many rounded products in any order: more than twice Higham's ``n u / (1 - n u)``."""
    return 1.5 * (terms + 4) * EPS


@dataclass(frozen=True)
class Box:
    """All real arrays between ``lo`` and ``hi``; ends may be infinite."""

    lo: Array
    hi: Array

    @property
    def size(self) -> Array:
        """Largest magnitude, entry by entry."""
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    def moved(self, f: Callable[[Array], Array]) -> Box:
        """Entries rearranged, none computed."""
        return Box(f(self.lo), f(self.hi))


def widen(lo: Array, hi: Array) -> Box:
    """One float outwards; what is not a number is unknown."""
    return Box(
        np.nan_to_num(np.nextafter(lo, -np.inf), nan=-np.inf, posinf=np.inf, neginf=-np.inf),
        np.nan_to_num(np.nextafter(hi, np.inf), nan=np.inf, posinf=np.inf, neginf=-np.inf),
    )


def point(x: Array) -> Box:
    """One array."""
    return Box(x, x)


def add(a: Box, b: Box) -> Box:
    """Sum."""
    return widen(a.lo + b.lo, a.hi + b.hi)


def negative(a: Box) -> Box:
    """Minus."""
    return Box(-a.hi, -a.lo)


def multiply(a: Box, b: Box) -> Box:
    """Product: among the four of the ends, where zero times infinity is zero since both stand for real numbers."""
    corners = [np.nan_to_num(p * q, nan=0.0, posinf=np.inf, neginf=-np.inf) for p in (a.lo, a.hi) for q in (b.lo, b.hi)]
    return widen(np.minimum.reduce(corners), np.maximum.reduce(corners))


def add_along(a: Box, axis: int) -> Box:
    """Sum along an axis, which stays with length one."""
    e = slack(a.lo.shape[axis])
    low = a.lo.sum(axis, keepdims=True) - 2 * e * np.abs(a.lo).sum(axis, keepdims=True)
    high = a.hi.sum(axis, keepdims=True) + 2 * e * np.abs(a.hi).sum(axis, keepdims=True)
    return widen(low, high)


def overlap(a: Box, b: Box) -> Box:
    """What both allow."""
    return Box(np.maximum(a.lo, b.lo), np.minimum(a.hi, b.hi))


def middle(a: Box) -> tuple[Array, Array]:
    """A finite midpoint m and a radius r, possibly infinite, with the box inside ``m +- r``."""
    m = np.nan_to_num(a.lo / 2 + a.hi / 2, nan=0.0, posinf=0.0, neginf=0.0)
    return m, np.nextafter(np.maximum(a.hi - m, m - a.lo), np.inf)


def image(a: Box, apply: Callable[[Array], Array], apply_abs: Callable[[Array], Array], terms: int) -> Box:
    """Box around ``{W x : x in a}``: ``W m +- |W| (r + e |m|)``, where e covers the rounding of ``W m``.

    An infinite radius makes infinite what it reaches with a weight that is not zero; where the weight is zero the product
    is not a number and is made zero by applying infinite and finite radii apart.
    """
    m, r = middle(a)
    e = slack(terms)
    finite = np.isfinite(r)
    spread = apply_abs(np.where(finite, r, 0.0) * (1 + EPS) + 2 * e * np.abs(m)) * (1 + 4 * e) + 2.0**-1000
    if not finite.all():
        spread = np.where(apply_abs((~finite).astype(np.float64)) > 0, np.inf, spread)
    centre = apply(m)
    return widen(centre - spread, centre + spread)


def norm_above(size: Array, p: float) -> float:
    """Upper bound of the lp norm of one vector with entries of at most these magnitudes."""
    size = size.ravel()
    if size.size == 0:
        return 0.0
    if not np.isfinite(size).all():
        return math.inf
    if p == math.inf:
        return float(size.max())
    top = float(size.max())
    if top == 0.0:
        return 0.0
    scaled = size / top
    total = scaled.sum() if p == 1 else math.sqrt(float((scaled * scaled).sum()))
    return float(total) * top * (1 + 2 * slack(size.size)) + 2.0**-1000


def norm_below(least: Array, p: float) -> float:
    """Lower bound of the lp norm of one vector with entries of at least these magnitudes."""
    least = least.ravel()
    if least.size == 0:
        return 0.0
    top = float(least.max())
    if p == math.inf or top == 0.0:
        return top
    scaled = least / top
    total = scaled.sum() if p == 1 else math.sqrt(float((scaled * scaled).sum()))
    return max(0.0, float(total) * top * (1 - 2 * slack(least.size)) - 2.0**-1000)
