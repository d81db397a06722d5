"""GroupSort: entries of the last axis sorted (MaxMin is groups of two)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.graph.operator import Shape
from steepest.numerics.interval import Interval
from steepest.ops.kinds import Group


@dataclass(frozen=True, eq=False)
class GroupSort(Group):
    """The last axis in ascending order. Its Clarke Jacobians are doubly stochastic, so it is 1-Lipschitz in every lp.

    Source: Anil, Lucas, Grosse, Sorting out Lipschitz function approximation, 2019.
    """

    code: ClassVar[str] = "group_sort"

    @property
    def shape(self) -> Shape:
        """The input's own shape."""
        return self.in_shapes[0]

    def evaluate(self, *xs: Tensor) -> Tensor:
        """Sorted."""
        return xs[0].sort(-1).values

    def enclose(self, *xs: Interval) -> Interval:
        """Exact: order statistics are monotone in every entry."""
        return xs[0].map(self.evaluate)

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """Entry j receives a convex combination of the cotangents of the positions it can take."""
        feasible = self._feasible(xs[0])
        low = torch.where(feasible, cotangent.lo.unsqueeze(-2), torch.inf).amin(-1)
        high = torch.where(feasible, cotangent.hi.unsqueeze(-2), -torch.inf).amax(-1)
        return (Interval(low, high),)

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """Each position receives a convex combination of the directions of the entries that can take it."""
        feasible = self._feasible(xs[0])
        own = directions[0].unsqueeze(-1)
        return Interval(torch.where(feasible, own, torch.inf).amin(-2), torch.where(feasible, own, -torch.inf).amax(-2))

    def _feasible(self, x: Interval) -> Tensor:
        """Whether entry j can take a position, ``[*lead, 1, *shape, positions]``."""
        size = self.shape[-1]
        surely_below = (x.hi.unsqueeze(-2) < x.lo.unsqueeze(-1)).sum(-1)
        surely_above = (x.lo.unsqueeze(-2) > x.hi.unsqueeze(-1)).sum(-1)
        position = torch.arange(size)
        feasible = (position >= surely_below.unsqueeze(-1)) & (position <= (size - 1 - surely_above).unsqueeze(-1))
        return feasible.unsqueeze(x.lo.ndim - len(self.shape))

    def gain(self, p: float, x: Interval) -> float:
        """One."""
        return 1.0
