"""The walk back over a graph: rows of the Jacobian as intervals."""

from __future__ import annotations

from steepest.graph import Graph
from steepest.numerics.interval import Interval


def pull_back(graph: Graph, rows: Interval, xs: list[Interval]) -> Interval:
    """Encloses ``g' J`` for every g in ``rows`` and every Clarke Jacobian J of the network over the enclosures.

    Args:
        graph: the network.
        rows: cotangents of the output, ``[*lead, count, *shape]``.
        xs: enclosures of every node, ``[*lead, *node shape]``.

    Returns:
        ``[*lead, count, *input_shape]``.
    """
    pending: dict[int, Interval] = {len(graph.nodes) - 1: rows}
    for index in range(len(graph.nodes) - 1, 0, -1):
        cotangent = pending.pop(index, None)
        if cotangent is None:
            continue
        node = graph.nodes[index]
        for i, part in zip(node.inputs, node.op.pullback(cotangent, *(xs[i] for i in node.inputs)), strict=True):
            pending[i] = pending[i] + part if i in pending else part
    return pending[0]
