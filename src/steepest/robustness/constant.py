"""Margins over balls from a constant that holds everywhere: the proof of networks that were trained to have a good one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.interval import Interval
from steepest.numerics.matrix_norm import dual_norm_above
from steepest.ops.kinds import Affine
from steepest.robustness.decisions import Decisions
from steepest.robustness.intervals import less
from steepest.robustness.source import FARTHEST


@dataclass(frozen=True)
class GlobalConstant:
    """``f_c - f_j >= margin_j - |(e_c - e_j)' A|_* L R``, where the network is an affine map after a part of constant L in lp.

    A is exact up to rounding, so that only the part before it is bounded; where the last node is not affine, A is the identity, and
    the norm of ``e_c - e_j`` is the familiar root of two in l2.

    Args:
        node: the last node of the part (``head``).
        bound: L, over all inputs, rounded up.
        p: norm of the perturbation: 1, 2 or inf; L is from lp to lp.

    Source: Tsuzuku, Sato and Sugiyama 2018; Leino, Wang and Fredrikson 2021 (rows of the last layer).
    """

    node: int
    bound: float
    p: float = 2.0
    name: str = "constant"

    def floors(self, at: Decisions, radius: Tensor) -> Tensor:
        """Lower bounds of the margins over the balls."""
        return less(at.margins, self.slopes(at), radius)

    def radius(self, at: Decisions) -> Tensor:
        """Least margin over slope, a hair less: at that radius all floors are positive."""
        slopes = self.slopes(at)
        quotient = torch.where(slopes > 0, at.margins / slopes, math.inf).nan_to_num(nan=0.0).amin(1) * (1.0 - 2.0**-40)
        found = quotient.clamp(min=0.0, max=FARTHEST)
        return torch.where((self.floors(at, found) > 0).all(1), found, 0.0)

    def slopes(self, at: Decisions) -> Tensor:
        """Upper bounds of the constants of ``f_c - f_j`` over all inputs, ``[n, classes - 1]``."""
        pulled = Interval.point(at.rows)
        for node in reversed(at.graph.nodes[self.node + 1 :]):
            (pulled,) = node.op.pullback(pulled, Interval.whole(node.op.in_shapes[0]))
        lengths = dual_norm_above(pulled.magnitude().flatten(2), self.p)
        return torch.nan_to_num(lengths * self.bound * (1.0 + 2.0**-50), nan=0.0, posinf=math.inf)


def head(graph: Graph) -> int:
    """The node after which there are only affine ones, each reading the one before it."""
    k = len(graph.nodes) - 1
    while k > 0 and isinstance(graph.nodes[k].op, Affine) and graph.nodes[k].inputs == (k - 1,):
        k -= 1
    return k


def body(graph: Graph, node: int) -> Graph:
    """The network up to a node."""
    return Graph(graph.nodes[: node + 1])
