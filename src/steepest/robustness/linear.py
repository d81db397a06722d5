"""Margins over balls from linear bounds, of their values and of their slopes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.bounds import LinearJacobian
from steepest.ops.backward import BackwardBounds, Region
from steepest.robustness.decisions import Decisions
from steepest.robustness.intervals import less, slopes_within


@dataclass(frozen=True)
class LinearFloors:
    """The better of two lower bounds of ``f_c - f_j`` over the ball of radius R, or the best of three.

    Linear functions below ``f_c - f_j``, propagated backwards to the input (CROWN): their least value over the ball. And ``margin_j -
    L_j R``, with L_j from intervals of the gradient over the enclosures that the propagation has tightened, and, where asked for, from the
    linear propagation of the gradient.

    Args:
        p: norm of the perturbation: 1, 2 or inf.
        work: most multiplications for the rows of one node and input; a node that needs more is enclosed by intervals.
        gradients: whether gradients are propagated by linear bounds too.
        entries: most numbers in the widest tensor of a batch.

    Source: Zhang et al. 2018 (CROWN); Shi et al. 2022 (the gradient).
    """

    p: float = 2.0
    work: float = 3e8
    gradients: bool = False
    entries: int = 2**21
    name: str = "linear"

    def radius(self, at: Decisions) -> Tensor | None:
        """To be searched for."""
        return None

    def floors(self, at: Decisions, radius: Tensor) -> Tensor:
        """Lower bounds of the margins over the balls."""
        widest = max(math.prod(node.shape) for node in at.graph.nodes)
        step = max(1, self.entries // (widest * max(8, at.rows.shape[1])))
        return torch.cat(
            [
                self._floors(at.picked(torch.arange(i, min(i + step, len(radius)))), radius[i : i + step])
                for i in range(0, len(radius), step)
            ]
        )

    def _floors(self, at: Decisions, radius: Tensor) -> Tensor:
        region = Region.of_ball(at.x, radius, self.p)
        values, found = BackwardBounds(self.entries, self.work).floors(at.graph, region, at.rows)
        if bool((found > 0).all()):
            return found
        found = torch.maximum(found, less(at.margins, slopes_within(at, values, self.p), radius))
        if self.gradients and not bool((found > 0).all()):
            slopes = LinearJacobian(entries=self.entries, work=self.work).row_lengths(at.graph, values, at.rows, self.p)
            found = torch.maximum(found, less(at.margins, slopes, radius))
        return found
