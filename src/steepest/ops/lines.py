"""Two lines around a function of one variable over an interval: the linear relaxation of every elementwise operator."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from steepest.numerics.interval import Interval
from steepest.numerics.rounding import UNIT
from steepest.ops.kinds import Elementwise

PIECES = 33
"""Parts into which the interval is cut where the function bends."""

TOGETHER = 2**16
"""Entries done at once; each has ``PIECES`` parts."""


@dataclass(frozen=True, eq=False)
class Lines:
    """``lower_slope t + lower_offset <= f(t) <= upper_slope t + upper_offset`` for every t of an interval, in real arithmetic.

    Args:
        lower_slope, lower_offset, upper_slope, upper_offset: ``[*lead, *shape]``; slopes are finite, offsets may be infinite.
    """

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor


def lines(op: Elementwise, x: Interval, pieces: int = PIECES) -> Lines:
    """The lines that are nearest to the function at the middle of each interval, and so leave the least area.

    The best lower line supports the convex envelope at the middle m: it joins a point left of m with one right of it so that it is
    highest at m. Among the points are the ends and the kinks, and for a function that is not piecewise linear a grid. Whatever the
    slope, the offset is the least excess of the function over it, from bounds of the slope on every part of the grid: within ``w^2
    |f''| / (8 pieces^2)`` of the best. For a ReLU these are the chord, and the line of slope 0 or 1 that leaves the smaller area
    (Zhang et al. 2018).

    Args:
        op: the operator.
        x: ``[*lead, *shape]``.
        pieces: an odd number, so that the middle is inside a part.
    """
    if x.lo.ndim > len(op.shape) and len(x.lo) > 1 and x.lo.numel() > TOGETHER:
        step = max(1, TOGETHER * len(x.lo) // x.lo.numel())
        parts = [lines(op, Interval(lo, hi), pieces) for lo, hi in zip(x.lo.split(step), x.hi.split(step), strict=True)]
        return Lines(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Lines)))
    known = torch.isfinite(x.lo) & torch.isfinite(x.hi)
    lo, hi = (torch.where(known, end, 0.0) for end in (x.lo, x.hi))
    grid = _grid(op, lo, hi, pieces)
    values = op.evaluate(grid)
    slopes = op.slopes(x)
    steepest = torch.nan_to_num(slopes.lo), torch.nan_to_num(slopes.hi)
    fixed = slopes.lo == slopes.hi
    found = []
    for sign in (1.0, -1.0):
        slope = _support(grid, sign * values, 0.5 * lo + 0.5 * hi) * sign
        slope = torch.minimum(torch.maximum(torch.nan_to_num(slope), steepest[0]), steepest[1])
        found.append(torch.where(known, torch.where(fixed, slopes.lo.expand_as(slope), slope), 0.0))
    whole = op.enclose(x)
    low, high = _excess(op, grid, found[0]).lo, _excess(op, grid, found[1]).hi
    # Where the grid knows nothing, the enclosure does.
    flat_low, flat_high = ~known | ~torch.isfinite(low), ~known | ~torch.isfinite(high)
    return Lines(
        torch.where(flat_low, 0.0, found[0]),
        torch.where(flat_low, whole.lo, low),
        torch.where(flat_high, 0.0, found[1]),
        torch.where(flat_high, whole.hi, high),
    )


def _grid(op: Elementwise, lo: Tensor, hi: Tensor, pieces: int) -> Tensor:
    """``[points, *lead, *shape]``, rising, from lo to hi."""
    kinks = op.kinks
    if kinks is not None:
        return torch.stack([lo, *(torch.minimum(torch.maximum(torch.full_like(lo, at), lo), hi) for at in sorted(kinks)), hi])
    share = torch.linspace(0.0, 1.0, pieces + 1, dtype=torch.float64).reshape(-1, *[1] * lo.ndim)
    inner = torch.minimum(torch.maximum(lo + share * (hi - lo), lo), hi)
    return torch.cat([lo[None], inner[1:-1], hi[None]])


def _support(grid: Tensor, values: Tensor, middle: Tensor) -> Tensor:
    """Slope of the convex envelope of the points at the middle: of the pair left and right of it whose chord is lowest there."""
    slope, least = torch.zeros_like(middle), torch.full_like(middle, torch.inf)
    for i in range(len(grid) - 1):
        # All partners of one point at once keeps the memory at that of the grid.
        run = grid[i + 1 :] - grid[i]
        rise = (values[i + 1 :] - values[i]) / run
        at = values[i] + rise * (middle - grid[i])
        at = torch.where((grid[i] <= middle) & (grid[i + 1 :] >= middle) & (run > 0), at, torch.inf)
        best, where = at.min(0)
        better = best <= least
        slope = torch.where(better, rise.gather(0, where[None])[0], slope)
        least = torch.where(better, best, least)
    return slope


def _excess(op: Elementwise, grid: Tensor, slope: Tensor) -> Interval:
    """Encloses ``f(t) - slope t`` from the first to the last point of the grid."""
    line = Interval.point(slope)
    at = op.enclose(Interval.point(grid)) - line * Interval.point(grid)
    low, high = at.lo.amin(0), at.hi.amax(0)
    if op.kinks is not None:
        # Linear from point to point.
        return Interval(low, high)
    part = op.slopes(Interval(grid[:-1], grid[1:])) - line
    width = Interval.outward(grid[1:] - grid[:-1], grid[1:] - grid[:-1]).hi
    return Interval(
        torch.minimum(low, _turn(at.lo[:-1], at.lo[1:], part, width).amin(0)),
        torch.maximum(high, -_turn(-at.hi[:-1], -at.hi[1:], -part, width).amin(0)),
    )


def _turn(left: Tensor, right: Tensor, slope: Interval, width: Tensor) -> Tensor:
    """Least value of a function between two points at which it is at least left and right, with slopes in an interval.

    ``g(t) >= left + s_lo (t - t_0)`` and ``g(t) >= right - s_hi (t_1 - t)``; weighed by ``s_hi`` and ``-s_lo`` so that t cancels.
    """
    s_lo, s_hi = slope.lo, slope.hi
    turns = (s_lo < 0) & (s_hi > 0)
    share = torch.where(turns, s_hi / (s_hi - s_lo), 0.5).clamp(0.0, 1.0)
    down = torch.minimum(s_lo, torch.zeros_like(s_lo))
    # With any weight in [0, 1] the sum is a lower bound once t stands at its worse end.
    drift = share * s_lo + (1.0 - share) * s_hi
    other = (1.0 - share) * s_hi * width
    value = share * left + (1.0 - share) * right - other + torch.minimum(drift * width, torch.zeros_like(drift))
    off = 16.0 * UNIT * (left.abs() + right.abs() + (s_hi.abs() + down.abs()) * width)
    unknown = ~torch.isfinite(value) | ~torch.isfinite(off)
    return torch.where(turns, torch.where(unknown, -torch.inf, value - off), torch.minimum(left, right))
