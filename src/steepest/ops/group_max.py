"""Maximum over groups of entries: max pooling of any window, reduce-max, the larger of two branches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from steepest.graph.operator import Shape
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import gamma
from steepest.ops.kinds import Group, count, lead_axes


@dataclass(frozen=True, eq=False)
class GroupMax(Group):
    """``y[i] = max over k of x[index[i, k]]`` over flattened entries; index -1 is no entry.

    Each output's Clarke gradient is a convex combination of unit vectors of its group, so the map is 1-Lipschitz in linf
    and ``m``-, ``sqrt(m)``-Lipschitz in l1, l2 where m is the most groups an entry belongs to.

    Args:
        index: int64 ``[*out_shape, k]``; every group has at least one entry, none twice.
    """

    code: ClassVar[str] = "group_max"
    index: Tensor

    @property
    def shape(self) -> Shape:
        """The index's shape without its last axis."""
        return tuple(self.index.shape[:-1])

    @cached_property
    def overlap(self) -> int:
        """The most groups any entry belongs to."""
        kept = self.index[self.index >= 0]
        return int(torch.bincount(kept).max())

    def _windows(self, x: Tensor, absent: float) -> Tensor:
        lead = lead_axes(x, self.in_shapes[0])
        flat = x.reshape(*lead, count(self.in_shapes[0]))
        index = self.index.flatten()
        windows = flat.index_select(-1, index.clamp(min=0))
        if (index < 0).any():
            windows = torch.where(index < 0, torch.full((), absent, dtype=x.dtype), windows)
        return windows.reshape(*lead, *self.index.shape)

    def _scatter(self, windows: Tensor) -> Tensor:
        lead = lead_axes(windows, tuple(self.index.shape))
        index = self.index.flatten()
        kept = index >= 0
        x = torch.zeros(*lead, count(self.in_shapes[0]), dtype=windows.dtype)
        flat = windows.reshape(*lead, count(tuple(self.index.shape)))[..., kept]
        return x.index_add(-1, index[kept], flat).reshape((*lead, *self.in_shapes[0]))

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The maxima."""
        return self._windows(xs[0], -math.inf).amax(-1)

    def enclose(self, *xs: Interval) -> Interval:
        """Exact: maxima of both ends."""
        return xs[0].map(self.evaluate)

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """Weights in [0, 1] for entries that can be the largest, exactly one for an entry that must be."""
        candidate = self._candidates(xs[0])
        alone = candidate & (candidate.sum(-1, keepdim=True) == 1)
        lead = xs[0].lo.ndim - len(self.in_shapes[0])
        can, must = candidate.unsqueeze(lead), alone.unsqueeze(lead)
        low, high = cotangent.lo.unsqueeze(-1), cotangent.hi.unsqueeze(-1)
        low = torch.where(must, low, torch.where(can, low.clamp(max=0.0), 0.0))
        high = torch.where(must, high, torch.where(can, high.clamp(min=0.0), 0.0))
        slack = 2.0 * gamma(self.overlap)
        if self.overlap == 1:
            return (Interval(self._scatter(low), self._scatter(high)),)
        lost_low, lost_high = slack * self._scatter(low.abs()), slack * self._scatter(high.abs())
        return (Interval.outward(self._scatter(low) - lost_low, self._scatter(high) + lost_high),)

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """A convex combination of the directions of the entries that can be the largest."""
        can = self._candidates(xs[0]).unsqueeze(xs[0].lo.ndim - len(self.in_shapes[0]))
        own = self._windows(directions[0], 0.0)
        return Interval(torch.where(can, own, math.inf).amin(-1), torch.where(can, own, -math.inf).amax(-1))

    def _candidates(self, x: Interval) -> Tensor:
        """Entries of each group that can be its largest."""
        lows, highs = self._windows(x.lo, -math.inf), self._windows(x.hi, -math.inf)
        return (highs >= lows.amax(-1, keepdim=True)) & (self.index >= 0)

    def gain(self, p: float, x: Interval) -> float:
        """One, root of the overlap, or the overlap."""
        if p == math.inf or self.overlap == 1:
            return 1.0
        return float(self.overlap) if p == 1 else math.nextafter(math.sqrt(self.overlap), math.inf)

    def tangent(self, xs: tuple[Tensor, ...], dxs: tuple[Tensor, ...], sharpness: float | None = None) -> Tensor:
        """The tangent of the largest entry, or a softmax-weighted mean of the group's."""
        windows, moves = self._windows(xs[0], -math.inf), self._windows(dxs[0], 0.0)
        if sharpness is None:
            return moves.gather(-1, windows.argmax(-1, keepdim=True)).squeeze(-1)
        axes = tuple(range(xs[0].ndim - len(self.in_shapes[0]), xs[0].ndim))
        scale = xs[0].detach().std(axes, keepdim=True, unbiased=False).reshape(*xs[0].shape[: axes[0]], *[1] * self.index.ndim) + 1e-30
        return (torch.softmax(2.0 * sharpness * windows / scale, -1) * moves).sum(-1)
