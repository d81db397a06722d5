"""Normalisation by the statistics of the sample itself: the core of layer, group, instance and RMS norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.graph.operator import Shape
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import down, gamma, up
from steepest.ops.kinds import Group


@dataclass(frozen=True, eq=False)
class Normalize(Group):
    """``y = d / s`` over the last axis, ``d = x - mean(x)`` (or x), ``s = sqrt(mean(d^2) + eps)``.

    With P the centring projector (or I), the Jacobian is ``(P - y y' / n) / s``, symmetric with l2 norm at most
    ``1 / s <= 1 / sqrt(eps)``; without a floor (eps = 0) there is no global constant.

    Args:
        centred: subtract the mean (layer norm) or not (RMS norm).
        eps: the floor of the variance, at least zero.
    """

    code: ClassVar[str] = "normalize"
    centred: bool
    eps: float

    @property
    def shape(self) -> Shape:
        """The input's own shape."""
        return self.in_shapes[0]

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The normalised entries."""
        d = xs[0] - xs[0].mean(-1, keepdim=True) if self.centred else xs[0]
        return d / (d.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def _centred(self, x: Interval) -> Interval:
        """Encloses d: ``(1 - 1/n) x_i - sum_{j != i} x_j / n``, rising in own entry and falling in the others."""
        if not self.centred:
            return x
        n = self.shape[-1]
        total = x.sum(-1, keepdim=True)
        slack = 8.0 * gamma(n)
        size = x.magnitude().sum(-1, keepdim=True) / n + x.magnitude()
        low = x.lo - (total.hi - x.hi + x.lo) / n - slack * size
        high = x.hi - (total.lo - x.lo + x.hi) / n + slack * size
        return Interval.outward(low, high)

    def _inverse_scale(self, d: Interval) -> Interval:
        """Encloses 1 / s, shape ``[..., 1]``."""
        n = self.shape[-1]
        square_low = torch.where((d.lo <= 0) & (d.hi >= 0), 0.0, torch.minimum(d.lo.square(), d.hi.square()))
        square_high = d.magnitude().square()
        slack = 4.0 * gamma(n + 4)
        low = (square_low.mean(-1, keepdim=True) + self.eps) * (1.0 - slack)
        high = (square_high.mean(-1, keepdim=True) + self.eps) * (1.0 + slack)
        return Interval.outward(high.rsqrt() * (1.0 - slack), low.clamp(min=0.0).rsqrt() * (1.0 + slack))

    @property
    def _largest(self) -> float:
        """No |y_i| exceeds this: ``d_i^2 <= (n - 1)/n sum d^2`` when centred."""
        n = self.shape[-1]
        return up(math.sqrt(max(n - 1 if self.centred else n, 0)))

    def enclose(self, *xs: Interval) -> Interval:
        """``d / s`` cut to ``|y| <= sqrt(n - 1)`` (or ``sqrt n``)."""
        d = self._centred(xs[0])
        return self._cut(d * self._inverse_scale(d))

    def _cut(self, y: Interval) -> Interval:
        return Interval(y.lo.clamp(min=-self._largest), y.hi.clamp(max=self._largest))

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """``(P g - y <y, g> / n) / s``."""
        lead = xs[0].lo.ndim - len(self.shape)
        d = self._centred(xs[0])
        inverse = self._inverse_scale(d)
        y = self._cut(d * inverse).map(lambda t: t.unsqueeze(lead))
        share = Interval.point(torch.tensor(1.0 / self.shape[-1], dtype=torch.float64))
        share = Interval.outward(share.lo, share.hi)
        along = (y * cotangent).sum(-1, keepdim=True) * share
        return ((self._centred(cotangent) - y * along) * inverse.map(lambda t: t.unsqueeze(lead)),)

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """The Jacobian is symmetric."""
        return self.pullback(Interval.point(directions[0]), *xs)[0]

    def gain(self, p: float, x: Interval) -> float:
        """``1 / s``; times ``sqrt n`` in l1 and linf."""
        widest = self._inverse_scale(self._centred(x)).hi.max().item()
        floor = math.inf if self.eps == 0.0 else up(1.0 / down(math.sqrt(self.eps)))
        gain = min(widest, floor)
        return gain if p == 2 else up(gain * up(math.sqrt(self.shape[-1])))
