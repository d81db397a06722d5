"""Enclosures of every node over a domain, computed once for all bounds that begin with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steepest.graph import Graph
from steepest.numerics.interval import Interval
from steepest.ops.backward import BackwardBounds, tighten_domain
from steepest.ops.region import enclose_domain
from steepest.results import Domain


@dataclass(frozen=True, eq=False)
class Enclosures:
    """Sets that hold every node's output (of one sample) over a domain.

    Args:
        values: node by node.
        work: that of the backward linear bounds by which they were tightened, which a certificate names; None for intervals alone.
    """

    values: list[Interval]
    work: float | None = None

    @staticmethod
    def over(graph: Graph, domain: Domain, bounds: BackwardBounds | None = None) -> Enclosures:
        """By backward linear bounds where the domain is bounded, by intervals elsewhere."""
        if not is_bounded(graph, domain):
            return Enclosures(enclose_domain(graph, domain))
        bounds = bounds or BackwardBounds()
        return Enclosures(tighten_domain(graph, domain, bounds), bounds.work)

    def headed(self, graph: Graph) -> Enclosures:
        """With those of the nodes that the graph has behind the ones enclosed here."""
        values = list(self.values)
        for node in graph.nodes[len(values) :]:
            values.append(node.op.enclose(*(values[i] for i in node.inputs)))
        return Enclosures(values, self.work)


def is_bounded(graph: Graph, domain: Domain) -> bool:
    """Whether the domain lies in a finite box."""
    return all(bool(np.isfinite(end).all()) for end in domain.bounds(graph.input_shape))
