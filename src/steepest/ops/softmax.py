"""Softmax and log-softmax over the last axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.graph.operator import Shape
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import TINY, gamma, up
from steepest.ops.kinds import Group


@dataclass(frozen=True, eq=False)
class Softmax(Group):
    """``p_i = e^x_i / sum_j e^x_j`` over the last axis. Its Jacobian is ``diag(p) - p p'``.

    The absolute row and column sums are ``2 p_i (1 - p_i) <= 1/2``, which bounds it in every lp.

    Args:
        allowed: int64 zeros and ones of the input's rank, broadcastable to it: entries at zero are left out of the sum
            and have probability zero (an attention mask). Every row has an allowed entry.
    """

    code: ClassVar[str] = "softmax"
    allowed: Tensor

    @property
    def shape(self) -> Shape:
        """The input's own shape."""
        return self.in_shapes[0]

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The probabilities."""
        return torch.softmax(xs[0].masked_fill(self.allowed == 0, -math.inf), -1)

    def enclose(self, *xs: Interval) -> Interval:
        """Exact up to rounding: p_i rises in x_i and falls in the others."""
        x = xs[0]
        return Interval(self._extreme(x.lo, x.hi, -1), self._extreme(x.hi, x.lo, 1))

    def _extreme(self, own: Tensor, others: Tensor, sign: int) -> Tensor:
        # p_i = 1 / (1 + sum_{j != i} e^(x_j - x_i)), by logs so that nothing overflows.
        barred = self.allowed == 0
        others = others.masked_fill(barred, -math.inf).expand(own.shape)
        size = others.shape[-1]
        apart = others.unsqueeze(-2) - own.unsqueeze(-1)
        apart = apart.masked_fill(torch.eye(size, dtype=torch.bool), -math.inf)
        if sign < 0:
            apart = torch.nan_to_num(apart, nan=math.inf, posinf=math.inf, neginf=-math.inf)
        else:
            apart = torch.nan_to_num(apart, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        # The exponents carry an absolute error of an ulp of the largest; a relative margin covers it and the sum's.
        largest = torch.nan_to_num(others.abs(), posinf=0.0).masked_fill(barred, 0.0).amax(-1, keepdim=True)
        spread = torch.maximum(torch.nan_to_num(own.abs(), posinf=0.0), largest)
        slack = gamma(size + 8) * (1.0 + spread)
        p = torch.exp(apart).sum(-1).add(1.0).reciprocal()
        return (p * (1.0 + sign * slack) + sign * TINY).clamp(0.0, 1.0).masked_fill(barred, 0.0)

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """``p * (g - <p, g>)``, the mean kept within the cotangents' range."""
        lead = xs[0].lo.ndim - len(self.shape)
        p = self.enclose(xs[0]).map(lambda t: t.unsqueeze(lead))
        kept = Interval(cotangent.lo.masked_fill(self.allowed == 0, 0.0), cotangent.hi.masked_fill(self.allowed == 0, 0.0))
        mean = (p * kept).sum(-1, keepdim=True)
        barred = self.allowed == 0
        least = cotangent.lo.masked_fill(barred, math.inf).amin(-1, keepdim=True)
        most = cotangent.hi.masked_fill(barred, -math.inf).amax(-1, keepdim=True)
        mean = mean.intersect(Interval(least, most))
        return (p * (cotangent - mean),)

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """The Jacobian is symmetric."""
        return self.pullback(Interval.point(directions[0]), *xs)[0]

    def gain(self, p: float, x: Interval) -> float:
        """``max_i 2 p_i (1 - p_i)`` over the region, at most one half, in every lp."""
        probability = self.enclose(x)
        nearest_half = torch.maximum(probability.lo, probability.hi.clamp(max=0.5))
        return min(0.5, up(up((2.0 * nearest_half * (1.0 - nearest_half)).max().item() * (1.0 + gamma(4)))))


@dataclass(frozen=True, eq=False)
class LogSoftmax(Group):
    """``x_i - log sum_j e^x_j`` over the last axis. Its Jacobian is ``I - 1 p'``.

    For n >= 2 entries: ``I - 1 p'`` is an oblique projector, of l2 norm ``|1| |p| <= sqrt(n)``; its absolute row sums are
    ``2 (1 - p_i) <= 2`` and its column sums ``1 - p_j + (n - 1) p_j <= max(1, n - 1)``.
    """

    code: ClassVar[str] = "log_softmax"

    @property
    def shape(self) -> Shape:
        """The input's own shape."""
        return self.in_shapes[0]

    @property
    def _softmax(self) -> Softmax:
        return Softmax(self.in_shapes, torch.ones([1] * len(self.shape), dtype=torch.int64))

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The log-probabilities."""
        return torch.log_softmax(xs[0], -1)

    def enclose(self, *xs: Interval) -> Interval:
        """Rises in x_i, falls in the others: the value with own entry at one end and the others at the other."""
        return Interval.outward(self._extreme(xs[0].lo, xs[0].hi, -1), self._extreme(xs[0].hi, xs[0].lo, 1).clamp(max=0.0))

    def _extreme(self, own: Tensor, others: Tensor, sign: int) -> Tensor:
        size = own.shape[-1]
        apart = others.unsqueeze(-2) - own.unsqueeze(-1)
        apart = apart.masked_fill(torch.eye(size, dtype=torch.bool), 0.0)
        value = -torch.logsumexp(apart, -1)
        finite = torch.nan_to_num(own.abs(), posinf=0.0) + torch.nan_to_num(others.abs(), posinf=0.0).amax(-1, keepdim=True)
        slack = gamma(size + 8) * (1.0 + finite)
        return torch.nan_to_num(value + sign * slack, nan=sign * math.inf, posinf=math.inf, neginf=-math.inf)

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """``g - p sum g``."""
        lead = xs[0].lo.ndim - len(self.shape)
        p = self._softmax.enclose(xs[0]).map(lambda t: t.unsqueeze(lead))
        return (cotangent - p * cotangent.sum(-1, keepdim=True),)

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """``d - <p, d>``, the mean kept within the range of d."""
        lead, d = xs[0].lo.ndim - len(self.shape), Interval.point(directions[0])
        p = self._softmax.enclose(xs[0]).map(lambda t: t.unsqueeze(lead))
        mean = (p * d).sum(-1, keepdim=True)
        return d - mean.intersect(Interval(d.lo.amin(-1, keepdim=True), d.hi.amax(-1, keepdim=True)))

    def gain(self, p: float, x: Interval) -> float:
        """``sqrt(n)``, 2 or ``n - 1``."""
        n = self.shape[-1]
        if n == 1:
            return 0.0
        return {1: float(max(1, n - 1)), 2: up(math.sqrt(n)), math.inf: 2.0}[p]
