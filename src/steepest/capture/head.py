"""One output of a network, or the difference of two: a row appended to its graph."""

from __future__ import annotations

import math

import torch

from steepest.errors import UsageError
from steepest.graph import Graph, Node
from steepest.ops import Dense, Reshape


def with_output(graph: Graph, output: tuple[int, ...] | None) -> Graph:
    """The scalar map ``f_i`` or ``f_i - f_j`` of a network f.

    Args:
        graph: the network.
        output: positions in the flattened output: ``(i,)`` or ``(i, j)``; None leaves the network as it is.

    Raises:
        UsageError: where there is no such output.
    """
    if output is None:
        return graph
    size = math.prod(graph.shape)
    if len(output) not in (1, 2) or not all(0 <= i < size for i in output) or len(set(output)) < len(output):
        given = ",".join(map(str, output))
        raise UsageError(f"output {given} does not fit: give I, or I,J with I != J, between 0 and {size - 1}")
    row = torch.zeros(1, size, dtype=torch.float64)
    for i, sign in zip(output, (1.0, -1.0), strict=False):
        row[0, i] = sign
    last = len(graph.nodes) - 1
    flat = Node("output", Reshape((graph.shape,), (size,)), (last,))
    pick = Node("output", Dense(((size,),), row, torch.zeros(1, dtype=torch.float64)), (last + 1,))
    return Graph((*graph.nodes, flat, pick))
