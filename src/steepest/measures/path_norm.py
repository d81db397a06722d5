"""Path norms: the weights along every path from an input to an output, multiplied, and summed over all paths."""

from __future__ import annotations

import torch
from torch import Tensor

from steepest import ops
from steepest.errors import UnsupportedOperatorError
from steepest.graph import Graph, Node


def path_norm(graph: Graph, p: int) -> float:
    """``(sum over paths of prod |w|^p)^(1/p)``, on any graph of affine layers, ReLU or leaky ReLU, max pooling, sums and concatenations.

    One pass of ones through the graph with every weight replaced by ``|w|^p``. A bias is the weight of a path that begins there. Leaky
    ReLU counts with its steeper slope, an entry of a pooling window as one of the window's paths. It does not change where units are
    permuted, nor where one's incoming weights are multiplied and its outgoing weights divided by the same positive number. The l1
    norm without biases bounds the Lipschitz constant from linf to l1.

    Args:
        graph: the network, with batch norm folded into its layers.
        p: 1 or 2.

    Returns:
        The norm in float64, accurate to rounding (convolutions with reflected or replicated padding: at least the norm).

    Raises:
        UnsupportedOperatorError: for any other operator, by name.

    Source: Neyshabur, Tomioka, Srebro 2015, Norm-based capacity control in neural networks; biases and pooling as in Gonon, Brisebarre,
    Riccietti, Gribonval 2024.
    """
    assert p in (1, 2)
    values = [torch.ones(graph.input_shape, dtype=torch.float64)]
    for node in graph.nodes[1:]:
        values.append(_push(node, [values[i] for i in node.inputs], p))
    return float(values[-1].sum()) ** (1.0 / p)


def _push(node: Node, xs: list[Tensor], p: int) -> Tensor:
    """The sums over all paths to each of the node's outputs, from those to its inputs."""
    op, x = node.op, xs[0]
    if isinstance(op, ops.Affine):
        y = op.linear(x, absolute=True) if p == 1 else op.row_norms_2(x.sqrt()).square()
        return y if op.offset is None else y + op.offset.abs() ** p
    if isinstance(op, ops.LeakyRelu):
        return x * op.slope.abs().clamp(min=1.0) ** p
    if isinstance(op, ops.GroupMax):
        return torch.where(op.index >= 0, x.flatten()[op.index.clamp(min=0)], 0.0).sum(-1)
    if isinstance(op, ops.Add):
        return torch.stack(xs).sum(0)
    if isinstance(op, ops.Concat):
        return op.evaluate(*xs)
    raise UnsupportedOperatorError(op.code, node.name, "path norms are those of ReLU layers, pooling, sums and concatenations")
