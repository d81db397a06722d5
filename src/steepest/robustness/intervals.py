"""Margins over balls from intervals: the margin at the centre less its local constant times the radius."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.numerics.interval import Interval
from steepest.numerics.matrix_norm import dual_norm_above
from steepest.numerics.rounding import above, below
from steepest.ops.pullback import pull_back
from steepest.ops.region import enclose_ball
from steepest.robustness.decisions import Decisions


@dataclass(frozen=True)
class IntervalSlopes:
    """``f_c - f_j >= margin_j - L_j R`` over the ball of radius R.

    L_j is the dual norm of the interval around the gradient of ``f_c - f_j`` over the ball, by interval propagation.

    Args:
        p: norm of the perturbation: 1, 2 or inf.
        entries: most numbers in the widest tensor of a batch.

    Source: Hein and Andriushchenko 2017, theorem 2.1.
    """

    p: float = 2.0
    entries: int = 2**21
    name: str = "intervals"

    def radius(self, at: Decisions) -> Tensor | None:
        """To be searched for."""
        return None

    def floors(self, at: Decisions, radius: Tensor) -> Tensor:
        """Lower bounds of the margins over the balls."""
        return less(at.margins, slopes_over(at, radius, self.p, self.entries), radius)


def slopes_over(at: Decisions, radius: Tensor, p: float, entries: int = 2**21) -> Tensor:
    """Upper bounds of the local constants of ``f_c - f_j`` over balls, ``[n, classes - 1]``, by interval propagation."""
    step = max(1, entries // (max(math.prod(node.shape) for node in at.graph.nodes) * at.rows.shape[1]))
    parts = []
    for i in range(0, len(radius), step):
        part = at.picked(torch.arange(i, min(i + step, len(radius))))
        parts.append(slopes_within(part, enclose_ball(at.graph, part.x, radius[i : i + step], p), p))
    return torch.cat(parts)


def slopes_within(at: Decisions, xs: list[Interval], p: float) -> Tensor:
    """The same, from enclosures ``[n, *node shape]`` of every node."""
    gradients = pull_back(at.graph, Interval.point(at.rows), xs)
    return dual_norm_above(gradients.magnitude().flatten(2), p)


def less(margins: Tensor, slopes: Tensor, radius: Tensor) -> Tensor:
    """``margin - slope R``, rounded down; a margin that does not change keeps its value whatever the radius."""
    lost = torch.where(slopes > 0, above(slopes * radius[:, None]), 0.0)
    return torch.nan_to_num(below(margins - lost), nan=-math.inf, neginf=-math.inf)
