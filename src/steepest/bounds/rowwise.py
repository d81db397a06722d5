"""The linf constant row by row of the output: linear bounds of the Jacobian, and multipliers for the rows that these leave largest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from steepest.capture.head import with_output
from steepest.graph import Graph, Node
from steepest.numerics.deadline import Deadline
from steepest.numerics.interval import Interval
from steepest.ops import Scale
from steepest.ops.backward import BackwardBounds
from steepest.ops.enclosures import Enclosures, is_bounded
from steepest.ops.pullback import pull_back
from steepest.results import Domain, Step, UpperBound

MARGIN = 1e-6
"""By how much a row's bound is raised, so that its multipliers can be proven in floating point."""

LEAST = 0.05
"""The least weight of an input, of the mean one."""


class Inner(Protocol):
    """A bound by multipliers over given enclosures."""

    def tighten(self, graph: Graph, values: list[Interval], near: Any, deadline: Deadline) -> Any | None:
        """Something with ``value`` and, by node, ``inverse``."""
        ...

    def proves(self, graph: Graph, values: list[Interval], found: Any, bound: float) -> bool:
        """Whether it proves the bound."""
        ...


@dataclass(frozen=True)
class Rowwise:
    """For each row f_i of the output the smaller of two bounds of its linf constant, and of these the largest.

    The sum of magnitudes of the Jacobian's row is bounded by linear propagation, which is nearly exact in small regions. Where most
    slopes are uncertain, multipliers are far better: with weights w of the inputs, ``sum w = 1``, they prove ``(f_i(x) - f_i(y))^2 <=
    L^2 sum_j w_j (x_j - y_j)^2``, which is at most ``L^2 |x - y|_inf^2``. For a linear map the best weights are proportional to the
    magnitudes of its row; here they are taken from the row's interval Jacobian, its middle and its radius. Rows are taken in the
    order of their linear bounds, the largest first, until no other can matter.

    Args:
        sums: ``(graph, values) -> [batch, rows]``, bounds of the rows' sums of magnitudes over enclosures ``[batch, *node shape]``.
        inner: the bound by multipliers.
        deadline: when to stop looking for multipliers.
        work: as of ``BackwardBounds``.
        largest: most rows.
        enclosures: of the nodes over the domain by backward linear bounds of this work, where they are known already.

    Source: Fazlyab et al. 2019 for the multipliers; the weights are the dual of linf in the l2 inequality (as in Wang et al. 2022).
    """

    sums: Callable[[Graph, Sequence[Interval]], Tensor]
    inner: Inner
    deadline: Deadline = field(default_factory=Deadline)
    work: float = 2e10
    largest: int = 64
    enclosures: Enclosures | None = None
    name: str = "rowwise"

    def applies(self, graph: Graph, domain: Domain, norm: float) -> bool:
        """Whether the norm is linf, the domain bounded and the rows few."""
        return norm == math.inf and is_bounded(graph, domain) and math.prod(graph.shape) <= self.largest

    def bound(self, graph: Graph, domain: Domain, norm: float) -> UpperBound:
        """Bound ``|f(x) - f(y)|_inf <= L |x - y|_inf`` for x, y in the domain, which must be convex and bounded.

        Args:
            graph: the network.
            domain: where x and y lie.
            norm: inf.
        """
        assert norm == math.inf
        started = time.perf_counter()
        known = self.enclosures or Enclosures.over(graph, domain, BackwardBounds(work=self.work))
        value, rows = self.over(graph, known.values)
        steps = (Step(len(graph.nodes) - 1, {"work": self.work}),)
        return UpperBound(self.name, value, steps, time.perf_counter() - started, rows=rows)

    def over(self, graph: Graph, values: list[Interval]) -> tuple[float, tuple[Mapping[int, Any], ...]]:
        """The bound over enclosures of one sample, and by row multipliers, weights at node 0; none where linear bounds suffice."""
        linear = self.sums(graph, [x.map(lambda t: t[None]) for x in values])[0]
        rows: list[Mapping[int, Any]] = [{} for _ in range(len(linear))]
        best = 0.0
        for i in linear.argsort(descending=True).tolist():
            if linear[i] <= best:
                break
            found = None if self.deadline.passed() else self._multipliers(graph, values, i, linear[i].item())
            if found is None:
                best = max(best, linear[i].item())
            else:
                value, rows[i] = found
                best = max(best, value)
        return best, tuple(rows)

    def _multipliers(self, graph: Graph, values: list[Interval], row: int, linear: float) -> tuple[float, Mapping[int, Any]] | None:
        """A bound below the linear one and what proves it, or None."""
        headed = with_output(graph, (row,))
        values = Enclosures(values).headed(headed).values
        gradient = pull_back(headed, Interval.point(torch.ones(1, *headed.shape, dtype=torch.float64)), values)
        size = (0.5 * (gradient.lo + gradient.hi).abs() + 0.5 * (gradient.hi - gradient.lo))[0]
        if not bool(torch.isfinite(size).all()) or not bool((size > 0).any()):
            return None
        weights = size.clamp(min=LEAST * size.mean().item())
        # Rounded so that they add up to one at most.
        weights = weights / (weights.sum() * (1.0 + 1e-12))
        root = weights.sqrt()
        stretched = Scale((headed.input_shape,), root.reciprocal(), torch.zeros([1] * len(headed.input_shape), dtype=torch.float64))
        nodes = [headed.nodes[0], Node("weights", stretched, (0,))]
        nodes += [replace(node, inputs=tuple(i + 1 for i in node.inputs)) for node in headed.nodes[1:]]
        scaled = Graph(tuple(nodes))
        sets = [values[0] * Interval.point(root), *values]
        found = self.inner.tighten(scaled, sets, None, self.deadline)
        if found is None or not found.value * (1.0 + MARGIN) < linear:
            return None
        bound = found.value * (1.0 + MARGIN)
        if not self.inner.proves(scaled, sets, found, bound):
            return None
        return bound, {0: weights.numpy(), **{node - 1: (bound * bound * t).numpy() for node, t in found.inverse.items()}}
