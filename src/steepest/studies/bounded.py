"""Dense ReLU networks as graphs, from their weights alone; their proven constants; radii from both sides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context

from torch import Tensor
from torch.nn import functional

from steepest.bounds import LipSDP
from steepest.capture.builder import Builder
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.results import Domain
from steepest.robustness.batch import EFFORTS, attack, make_sources
from steepest.robustness.decisions import Decisions
from steepest.robustness.radii import RadiusSearch


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


@dataclass(frozen=True, eq=False)
class Radii:
    """In l2, of inputs ``[n, inputs]``.

    Args:
        attacked: ``[n]``, distance of the nearest other answer found; infinite where none was found.
        towards: ``[n, inputs]``, its direction, of length one.
        proven: per kind of constant, ``[n]``: ``margin / (sqrt(2) L)`` for constants over all inputs, bounds over the ball for ``local``.
    """

    attacked: Tensor
    towards: Tensor
    proven: dict[str, Tensor]


def radii(graph: Graph, x: Tensor, constants: Mapping[str, float], local: bool, seed: int) -> Radii:
    """Attacks, and proofs.

    Args:
        graph: a classifier of ``[1, inputs]``.
        x: ``[n, inputs]``, float64.
        constants: proven ones of the network over all inputs, by name.
        local: whether local bounds are asked too.
        seed: of the attack.
    """
    effort, at = EFFORTS["normal"], Decisions.of(graph, x[:, None])
    found = attack(at, 2.0, effort, seed)
    proven = {name: at.margins.amin(1).clamp(min=0.0) / (math.sqrt(2.0) * value) for name, value in constants.items()}
    if local:
        search = RadiusSearch(2.0, effort.tries)
        proven["local"] = search.search(at, make_sources(2.0, effort, None), found.distance).radius
    return Radii(found.distance, functional.normalize((found.point - at.x)[:, 0], dim=1), proven)
