"""Intervals around every Clarke Jacobian over the domain, and the norm of the worst matrix in them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.interval import Interval
from steepest.numerics.matrix_norm import interval_norm_above
from steepest.ops.pullback import pull_back
from steepest.ops.region import enclose_domain
from steepest.results import Domain, UpperBound


@dataclass(frozen=True)
class ClarkeJacobian:
    """Interval propagation of the Clarke Jacobian.

    Over a convex domain ``|f(x) - f(y)|_p <= sup |J|_p |x - y|_p``, the supremum over all Clarke Jacobians in the domain. The
    rows of the Jacobian are pulled back from the output as intervals, each activation contributing the hull of its
    slopes over its enclosure, and the result is the norm of the worst matrix within the intervals: exact for l1 and linf,
    and for l2 the smaller of ``|C| + |R|`` and ``||C| + R|``. Tight on small regions, and on the whole space at least as good as
    ``|W_l| ... |W_1|`` in l1 and linf. Costs one backward pass per output, in batches.

    Args:
        entries: most numbers in the widest tensor of a batch of rows.
        matrix: most entries of the whole Jacobian; beyond it the bound does not apply.

    Source: Jordan and Dimakis 2020 (Clarke Jacobians); Weng et al. 2018 and Zhang et al. 2019 (RecurJac) for intervals.
    """

    name: str = "jacobian"
    entries: int = 2**21
    matrix: int = 2**23

    def applies(self, graph: Graph) -> bool:
        """Whether the Jacobian is small enough to be written down."""
        return math.prod(graph.shape) * math.prod(graph.input_shape) <= self.matrix

    def bound(self, graph: Graph, domain: Domain, norm: float) -> UpperBound:
        """Bound ``|f(x) - f(y)| <= L |x - y|`` for x, y in the domain, which must be convex.

        Args:
            graph: the network.
            domain: where x and y lie.
            norm: 1, 2 or inf, at both ends.

        Returns:
            The bound, infinite where some derivative is unbounded over its enclosure.
        """
        started = time.perf_counter()
        value = self.over(graph, enclose_domain(graph, domain), norm).item()
        return UpperBound(self.name, value, (), time.perf_counter() - started, None)

    def over(self, graph: Graph, xs: list[Interval], norm: float) -> Tensor:
        """Bound the norm of every Clarke Jacobian over enclosures, ``[*lead]``.

        Args:
            graph: the network.
            xs: of every node, ``[*lead, *node shape]``.
            norm: 1, 2 or inf, at both ends.
        """
        rows, columns = math.prod(graph.shape), math.prod(graph.input_shape)
        lead = xs[0].shape[: xs[0].lo.ndim - len(graph.input_shape)]
        step = max(1, self.entries // (max(math.prod(node.shape) for node in graph.nodes) * math.prod(lead)))
        parts = []
        for chunk in torch.eye(rows, dtype=torch.float64).split(step):
            jacobian = pull_back(graph, Interval.point(chunk.reshape(-1, *graph.shape)), xs)
            parts.append(
                jacobian.map(lambda t: t.expand(*lead, *t.shape[len(t.shape) - 1 - len(graph.input_shape) :]).reshape(*lead, -1, columns))
            )
        whole = Interval(torch.cat([part.lo for part in parts], -2), torch.cat([part.hi for part in parts], -2))
        centre, radius = whole.centre_radius()
        return interval_norm_above(centre, radius, norm)
