"""The product of operator norms and steepest slopes over the graph, with sums at joins."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from steepest.graph import Graph
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import product_up
from steepest.ops.gradient_step import gradient_step
from steepest.ops.kinds import Affine, Elementwise, Rearrangement
from steepest.ops.region import enclose_domain
from steepest.results import Domain, Step, UpperBound


@dataclass(frozen=True)
class Product:
    """Composition of the constants of single operators.

    With ``L_k`` a Lipschitz constant of node k as a map of the network's input, from lp to lp over the domain: an affine
    node has ``|W|_p L``, an activation its steepest slope over the node's enclosure times L, a sum ``L_1 + L_2``, a product
    of branches the product rule, and so on (``Operator.lipschitz``); in l2 a residual branch that is a gradient step is taken with
    its shortcut (``gradient_step``). The last node's constant is the bound. Instant, the
    loosest of all, and the only one that never fails to finish.

    Source: Szegedy et al. 2014, section 4.3; Gouk et al. 2021 for residual and pooling layers.
    """

    name: str = "product"

    def bound(self, graph: Graph, domain: Domain, norm: float) -> UpperBound:
        """Bound ``|f(x) - f(y)| <= L |x - y|`` for x, y in the domain, which must be convex.

        Args:
            graph: the network.
            domain: where x and y lie.
            norm: 1, 2 or inf, at both ends.

        Returns:
            The bound; its steps are the l2 operator norms that were proven, one per dense or convolution node. Infinite
            where a node has no constant over its enclosure, which is then named.
        """
        started = time.perf_counter()
        constants = node_constants(graph, enclose_domain(graph, domain), norm)
        blocked_by = next((n.name for n, c in zip(graph.nodes, constants, strict=True) if c == math.inf), None)
        steps = tuple(
            Step(i, {"gain": node.op.norm(norm)})
            for i, node in enumerate(graph.nodes)
            if norm == 2.0 and isinstance(node.op, Affine) and not node.op.keeps_entries_apart and not isinstance(node.op, Rearrangement)
        )
        return UpperBound(self.name, constants[-1], steps, time.perf_counter() - started, blocked_by)


def node_constants(graph: Graph, xs: list[Interval], norm: float) -> list[float]:
    """The constant of every node as a map of the input, rounded up; infinite from the first node that has none.

    Args:
        graph: the network.
        xs: enclosures of every node, of one sample.
        norm: 1, 2 or inf.
    """
    constants = [1.0]
    for index, node in enumerate(graph.nodes[1:], start=1):
        inputs = tuple(constants[i] for i in node.inputs)
        constants.append(node.op.lipschitz(norm, inputs, tuple(xs[i] for i in node.inputs)))
        step = gradient_step(graph.nodes, index) if norm == 2.0 else None
        if step is not None:
            inner, gate = (graph.nodes[i].op for i in (step.inner, step.gate))
            assert isinstance(inner, Affine) and isinstance(gate, Elementwise)
            factor = step.factor(inner.norm(2.0), gate.slopes(xs[step.inner]))
            constants[-1] = min(constants[-1], product_up(factor, constants[step.source]))
    return constants
