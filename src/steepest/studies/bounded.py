"""Dense ReLU networks as graphs, from their weights alone, and their proven constants."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Context

from torch import Tensor

from steepest.bounds import LipSDP
from steepest.capture.builder import Builder
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.results import Domain


def relu_graph(weights: Sequence[Tensor], biases: Sequence[Tensor] | None = None, slope: float = 0.0) -> Graph:
    """The network with ReLU, or leaky ReLU, between its dense layers.

    Args:
        weights: ``[out, in]`` each.
        biases: ``[out]`` each, or none.
        slope: of negative arguments.
    """
    builder = Builder()
    x = builder.input((1, weights[0].shape[1]))
    for k, weight in enumerate(weights):
        bias = None if biases is None else biases[k].detach().double()
        x = builder.dense(builder.relu(x, slope) if k else x, weight.detach().double(), bias)
    return builder.finish(x)


def proven_constant(graph: Graph, steps: int = 30) -> float:
    """LipSDP's bound of the global Lipschitz constant in l2, rounded up to five digits.

    No clock takes part; the last digits of the optimum depend on the order of sums, which is not always the same.
    """
    value = LipSDP(deadline=Deadline(), steps=steps).bound(graph, Domain("all"), 2.0).value
    return float(Context(prec=5, rounding=ROUND_CEILING).create_decimal_from_float(value))
