"""Certified radii: balls around inputs in which a classifier provably keeps its answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.robustness.decisions import Decisions
from steepest.robustness.intervals import slopes_over
from steepest.robustness.source import FARTHEST, Source

CLOSE = 1.003
"""Ends of the search this near to each other leave nothing to find."""

FIRST = 0.6
"""Of where the answer changes, as far as is known, the share that is tried first."""

RESCUE = 8
"""More balls that are tried where none was small enough, each of a sixth of the last one's radius."""


@dataclass(frozen=True, eq=False)
class Radii:
    """Proven for a batch of inputs.

    Args:
        radius: ``[n]``: every x' with ``|x' - x|_p <= radius`` has the same answer as x; zero where nothing is proven.
        source: for each input, which of the sources proved it, by its place in the list, or -1.
    """

    radius: Tensor
    source: Tensor


@dataclass(frozen=True)
class RadiusSearch:
    """The largest radius at which the sources still prove every margin positive over the whole ball.

    Over the closed ball of radius R each source has a lower bound of every margin ``f_c - f_j``; the best counts, class by class, and the
    radius is proven where the least over the classes is positive. That least begins at R = 0 with the margin and the slope at the input,
    and falls faster than linearly, since relaxations widen: a parabola through what is known of it says where to try next. Sources come in
    the order of their cost; each begins where the one before it ended.

    Args:
        p: the norm of the balls: 1, 2 or inf.
        steps: most balls tried for each source and input.
    """

    p: float = 2.0
    steps: int = 6

    def search(self, at: Decisions, sources: Sequence[Source], limit: Tensor) -> Radii:
        """Radii at each of a batch of inputs.

        Args:
            at: n inputs.
            sources: what proves, the cheap ones first; all in the same norm.
            limit: ``[n]``, distances at which the answer is known to change; infinite where nothing is known.
        """
        n = len(limit)
        low, best = torch.zeros(n, dtype=torch.float64), torch.full((n,), -1)
        slopes = slopes_over(at, low, self.p)
        reach = torch.where(slopes > 0, at.margins / slopes, math.inf).nan_to_num(nan=0.0).clamp(max=FARTHEST)
        first = reach.argmin(1, keepdim=True)
        # Where no change is known, and the input says little, not farther to begin with than its own size.
        size = 1.0 + torch.linalg.vector_norm(at.x.flatten(1), self.p, dim=1)
        near = torch.where(torch.isfinite(limit), limit, torch.where(reach.amin(1) > 10.0 * size, size, math.inf))
        start = _Start(at.margins.gather(1, first)[:, 0], slopes.gather(1, first)[:, 0], torch.minimum(near, reach.amin(1)))
        hopeful = at.margins.amin(1) > 0
        for k in range(len(sources)):
            open_ = hopeful & (low * CLOSE < limit)
            if bool(open_.any()):
                found = sources[k].radius(at.picked(open_))
                if found is None:
                    found = self._search(at.picked(open_), sources[: k + 1], low[open_], limit[open_], start.picked(open_))
                # By a hair more it is the earlier source that proved it.
                better = found > low[open_] * CLOSE
                best[open_] = torch.where(better, k, best[open_])
                low[open_] = torch.where(better, found, low[open_])
        return Radii(low, best)

    def _search(self, at: Decisions, sources: Sequence[Source], low: Tensor, high: Tensor, start: _Start) -> Tensor:
        """The largest radius proven by the last source with the help of those before it, or ``low``."""
        zero, unknown = torch.zeros_like(low), torch.full_like(low, math.nan)
        state = _Ends(start, low, high, zero, unknown, unknown, zero)
        trial = torch.maximum(FIRST * start.reach, low + 0.1 * (start.reach - low)).clamp(min=1e-300, max=FARTHEST)
        open_ = torch.ones_like(low, dtype=torch.bool)
        for step in range(self.steps + RESCUE):
            floor = unknown.clone()
            floor[open_] = _floor(at.picked(open_), sources, trial[open_])
            state = state.after(trial, floor, open_)
            trial = state.next()
            open_ = (trial > state.low * CLOSE) & (state.low * CLOSE < state.high)
            if step >= self.steps - 1:
                open_, trial = open_ & (state.low == 0), torch.where(state.low == 0, state.high / 6.0, trial)
            if not bool(open_.any()):
                break
        return state.low


def _floor(at: Decisions, sources: Sequence[Source], radius: Tensor) -> Tensor:
    """The least margin that is left, ``[n]``: the last source's, where it fails with the help of the others."""
    found = sources[-1].floors(at, radius)
    for source in sources[:-1]:
        if bool((found.amin(1) > 0).all()):
            break
        found = torch.maximum(found, source.floors(at, radius))
    return found.amin(1)


@dataclass(frozen=True, eq=False)
class _Start:
    """What is known at the inputs: margin and slope of the class that catches up first by them, and where the answer then changes."""

    margin: Tensor
    slope: Tensor
    reach: Tensor

    def picked(self, which: Tensor) -> _Start:
        return _Start(self.margin[which], self.slope[which], self.reach[which])


@dataclass(frozen=True, eq=False)
class _Ends:
    """Where the root is, ``[n]`` each.

    Args:
        start: the input.
        low, high: a proven radius, and one at which the proof failed or the answer is known to change.
        foot, at_foot: the largest radius tried at which the floor was positive, or zero, and the floor there.
        at_high: the floor at high; nan where it was not tried.
        side: how many trials in a row held, negative where they failed.
    """

    start: _Start
    low: Tensor
    high: Tensor
    foot: Tensor
    at_foot: Tensor
    at_high: Tensor
    side: Tensor

    def after(self, trial: Tensor, floor: Tensor, tried: Tensor) -> _Ends:
        """With what a trial showed."""
        holds, fails = tried & (floor > 0), tried & ~(floor > 0)
        return _Ends(
            self.start,
            torch.where(holds, torch.maximum(self.low, trial), self.low),
            torch.where(fails, torch.minimum(self.high, trial), self.high),
            torch.where(holds, trial, self.foot),
            torch.where(holds, floor, self.at_foot),
            torch.where(fails, floor, self.at_high),
            torch.where(holds, self.side.clamp(min=0) + 1, torch.where(fails, self.side.clamp(max=0) - 1, self.side)),
        )

    def next(self) -> Tensor:
        """A hair below the root of the parabola through what is known, well between both ends; not above low where nothing is left.

        ``m - a R - b R^2``: at each radius tried ``(m - floor) / R = a + b R``. With one of them a is the slope at the input.
        """
        m, a = self.start.margin, self.start.slope
        at_foot, at_high = (m - self.at_foot) / self.foot, (m - self.at_high) / self.high
        has_foot, has_high = torch.isfinite(at_foot), torch.isfinite(at_high)
        both = has_foot & has_high
        one, where = torch.where(has_foot, at_foot, at_high), torch.where(has_foot, self.foot, self.high)
        b = torch.where(both, (at_high - at_foot) / (self.high - self.foot), (one - a) / where)
        a = torch.where(both, at_foot - b * self.foot, a)
        b = b.clamp(min=0.0)
        root = 2.0 * m / (a + (a * a + 4.0 * b * m).clamp(min=0.0).sqrt()) * (1.0 - 2.0**-10)
        bounded = torch.isfinite(self.high)
        middle = torch.where(bounded, 0.5 * self.low + 0.5 * self.high, 2.0 * self.low)
        width = torch.where(bounded, self.high - self.low, self.low + 1.0)
        # Nothing is left to gain where the parabola through the last proven radius ends there.
        spent = has_foot & (self.foot == self.low) & (root <= self.low * CLOSE) & (self.side < 3)
        kept = torch.minimum(torch.maximum(root, self.low + 0.05 * width), torch.where(bounded, self.high - 0.05 * width, math.inf))
        usable = torch.isfinite(root) & (root > 0) & (self.side.abs() < 3)
        return torch.where(spent, self.low, torch.where(usable, kept, middle)).clamp(max=FARTHEST)
