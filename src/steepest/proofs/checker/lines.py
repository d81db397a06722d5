"""Two lines around a function of one variable over intervals, with offsets proven from bounds of its slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steepest.proofs.checker import functions
from steepest.proofs.checker.box import EPS, Array, Box, multiply, point
from steepest.proofs.checker.linear import NodeLike

_PARTS = 33


@dataclass(frozen=True)
class Lines:
    """``low_slope t + low <= f(t) <= high_slope t + high``; slopes are finite, the rest may not be."""

    low_slope: Array
    low: Array
    high_slope: Array
    high: Array


def kinks(node: NodeLike) -> list[float] | None:
    """Where the slope changes of a function that is linear in between; None for others."""
    if node.op == "leaky_relu":
        return [0.0]
    if node.op == "clamp":
        return sorted(float(node.attributes[k]) for k in ("low", "high") if node.attributes[k] is not None)
    return None


def lines(node: NodeLike, x: Box) -> Lines:
    """Lines that support the convex and the concave envelope of points of the graph at the middle of each interval."""
    known = np.isfinite(x.lo) & np.isfinite(x.hi)
    lo, hi = np.where(known, x.lo, 0.0), np.where(known, x.hi, 0.0)
    bent = kinks(node)
    if bent is None:
        inner = [lo + (hi - lo) * (i / _PARTS) for i in range(1, _PARTS)]
    else:
        inner = [np.full_like(lo, at) for at in bent]
    t = np.stack([lo, *(np.clip(p, lo, hi) for p in inner), hi])
    at = functions.value_over(node.op, node.attributes, node.arrays, point(t))
    with np.errstate(all="ignore"):
        heights = at.lo / 2 + at.hi / 2
    slopes = functions.slope_over(node.op, node.attributes, node.arrays, x)
    parts = None if bent is not None else functions.slope_over(node.op, node.attributes, node.arrays, Box(t[:-1], t[1:]))
    whole = functions.value_over(node.op, node.attributes, node.arrays, x)
    found = []
    for sign, end in ((1.0, whole.lo), (-1.0, -whole.hi)):
        slope = sign * _support(t, sign * heights, lo / 2 + hi / 2)
        slope = np.clip(np.nan_to_num(slope), np.nan_to_num(slopes.lo), np.nan_to_num(slopes.hi))
        slope = np.where(known, np.where(slopes.lo == slopes.hi, slopes.lo, slope), 0.0)
        offset = _least(t, at if sign > 0 else Box(-at.hi, -at.lo), sign * slope, _signed(parts, sign))
        flat = ~known | ~np.isfinite(offset)
        found += [np.where(flat, 0.0, slope), sign * np.where(flat, end, offset)]
    return Lines(*found)


def _signed(parts: Box | None, sign: float) -> Box | None:
    return parts if parts is None or sign > 0 else Box(-parts.hi, -parts.lo)


def _support(t: Array, heights: Array, middle: Array) -> Array:
    """Slope of the chord that is lowest at the middle, of all between a point left and a point right of it."""
    slope, least = np.zeros_like(middle), np.full_like(middle, np.inf)
    with np.errstate(all="ignore"):
        for i in range(len(t) - 1):
            run = t[i + 1 :] - t[i]
            rise = (heights[i + 1 :] - heights[i]) / run
            height = heights[i] + rise * (middle - t[i])
            height = np.where((t[i] <= middle) & (t[i + 1 :] >= middle) & (run > 0) & ~np.isnan(height), height, np.inf)
            best = height.argmin(0)[None]
            lowest = np.take_along_axis(height, best, 0)[0]
            lower = lowest <= least
            slope, least = np.where(lower, np.take_along_axis(rise, best, 0)[0], slope), np.where(lower, lowest, least)
    return slope


def _least(t: Array, at: Box, slope: Array, parts: Box | None) -> Array:
    """Lower bound of ``f(t) - slope t`` from the first point to the last, with f in ``at`` there and its slope in ``parts`` between."""
    line = multiply(point(np.broadcast_to(slope, t.shape)), point(t))
    left = np.nextafter(at.lo - line.hi, -np.inf)
    if parts is None:
        return left.min(0)
    falls, rises = parts.lo - slope, parts.hi - slope
    falls, rises = np.nextafter(falls, -np.inf), np.nextafter(rises, np.inf)
    width = np.nextafter(t[1:] - t[:-1], np.inf)
    p, q = left[:-1], left[1:]
    with np.errstate(all="ignore"):
        # Of the two lines p + falls s and q - rises (width - s) the larger is a bound, so is any mean: the one that does not depend on s.
        turns = (falls < 0) & (rises > 0)
        share = np.clip(np.where(turns, rises / (rises - falls), 0.0), 0.0, 1.0)
        drift = share * falls + (1 - share) * rises
        value = share * p + (1 - share) * (q - rises * width) + np.minimum(drift * width, 0.0)
        value = value - 16 * EPS * (np.abs(p) + np.abs(q) + (np.abs(falls) + np.abs(rises)) * width)
        value = np.where(turns, np.where(np.isnan(value), -np.inf, value), np.minimum(p, q))
    # A slope that is unknown leaves nothing known.
    value = np.where(np.isfinite(falls) & np.isfinite(rises) | ~turns, value, -np.inf)
    return np.minimum(left.min(0), value.min(0))
