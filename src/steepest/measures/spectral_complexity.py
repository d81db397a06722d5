"""Spectral complexity of a chain of layers, from proven norms of their operators."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from steepest import ops
from steepest.errors import UnsupportedOperatorError, UsageError
from steepest.graph import Graph, Node
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import product_up, sum_above, up
from steepest.results.generalisation import LayerNorms

_WEIGHTED = (ops.Dense, ops.Conv, ops.ConvTranspose, ops.Scale)


@dataclass(frozen=True)
class Chain:
    """A network as ``sigma_L(A_L ... sigma_1(A_1 x))``, by its norms.

    Args:
        layers: from first to last.
        gain: Lipschitz constant of what comes before the first layer.
        biased: whether every layer carries a constant one, by which biases are weights.
        width: the most entries between two layers.
    """

    layers: tuple[LayerNorms, ...]
    gain: float
    biased: bool
    width: int

    @property
    def product(self) -> float:
        """``prod rho_i s_i``, rounded up."""
        return product_up(self.gain, *(product_up(layer.gain, layer.spectral) for layer in self.layers))

    @property
    def complexity(self) -> float:
        """``R_A = (prod rho_i s_i) (sum (b_i / s_i)^(2/3))^(3/2)``, rounded up."""
        return complexity([layer.spectral for layer in self.layers], [layer.distance for layer in self.layers], self.gains)

    @property
    def gains(self) -> float:
        """``prod rho_i``, rounded up."""
        return product_up(self.gain, *(layer.gain for layer in self.layers))


def complexity(spectral: list[float], distance: list[float], gains: float) -> float:
    """Spectral complexity from norms: ``gains (sum_i (b_i prod_{j != i} s_j)^(2/3))^(3/2)``, rounded up.

    It rises in every argument, so that upper bounds of norms give an upper bound.

    Args:
        spectral: s_i, non-negative.
        distance: b_i, non-negative.
        gains: the product of the rho_i.
    """
    logs = [math.log(s) if s > 0 else -math.inf for s in spectral]
    terms = [math.log(b) + math.fsum(logs[:i] + logs[i + 1 :]) for i, b in enumerate(distance) if b > 0]
    top = max(terms, default=-math.inf)
    if top == -math.inf or gains == 0.0:
        return 0.0
    total = top + 1.5 * math.log(math.fsum(math.exp((t - top) / 1.5) for t in terms)) + math.log(gains)
    # Logarithms of up to a few hundred are right to 1e-13.
    return math.exp(total) * (1.0 + 1e-11) if total < 700.0 else math.inf


def chain(graph: Graph, reference: Graph | None = None) -> Chain:
    """The layers of a network and their norms.

    A layer is an affine operator with the matrix by which it acts on a whole input: a convolution's has one row for every channel and
    position of its output, with the entries that padding and stride leave there, and its largest singular value is proven for
    that matrix. Whatever stands between two layers must be a Lipschitz map that sends zero to zero. Biases are taken as weights of one more
    input that is constantly one and that every layer up to the last with a bias passes on: ``[[W, b], [0, 1]]``; its norm is bounded by
    that of the 2 x 2 matrix of the norms. The reference has the same last row, which therefore adds nothing to the distance.

    Args:
        graph: the network.
        reference: of the same architecture, chosen before the data were seen: the network at its start. None: zero.

    Raises:
        UnsupportedOperatorError: for an operator that is no layer and no such map, or joins branches, by name.
        UsageError: for a reference of another architecture.

    Source: Bartlett, Foster, Telgarsky 2017, section 1.
    """
    others = _aligned(graph, reference)
    constant = max((k for k, n in enumerate(graph.nodes) if _is_layer(n) and _bias(n).any()), default=-1)
    everywhere = Interval(torch.full((), -torch.inf, dtype=torch.float64), torch.full((), torch.inf, dtype=torch.float64))
    gains: list[float] = [1.0]
    found: list[LayerNorms] = []
    for k, (node, other) in enumerate(zip(graph.nodes[1:], others[1:], strict=True), start=1):
        if _is_layer(node):
            found.append(_norms(node, other, carried=k <= constant, passed_on=k < constant))
            gains.append(1.0)
        else:
            gain = _gain(node, everywhere)
            # The constant one passes by; beside it the map is as steep as the steeper of the two.
            gains[-1] = product_up(gains[-1], max(gain, 1.0) if k < constant else gain)
    if not found:
        raise UnsupportedOperatorError(graph.nodes[-1].op.code, graph.nodes[-1].name, "there is no layer with weights in the network")
    layers = tuple(replace(layer, gain=gain) for layer, gain in zip(found, gains[1:], strict=True))
    width = max(max(layer.inputs, layer.outputs) for layer in layers)
    return Chain(layers, gains[0], constant > 0, max(width, math.prod(graph.input_shape) + (constant > 0)))


def _is_layer(node: Node) -> bool:
    return isinstance(node.op, ops.Affine) and not isinstance(node.op, ops.Rearrangement)


def _bias(node: Node) -> Tensor:
    assert isinstance(node.op, ops.Affine)
    offset = node.op.offset
    return torch.zeros(node.shape, dtype=torch.float64) if offset is None else torch.broadcast_to(offset, node.shape)


def _gain(node: Node, everywhere: Interval) -> float:
    """The Lipschitz constant in l2 of a map between layers."""
    op = node.op
    if len(node.inputs) != 1:
        raise UnsupportedOperatorError(op.code, node.name, "the theorem speaks of chains of layers, and this joins branches")
    shape = op.in_shapes[0]
    if op.evaluate(torch.zeros(shape, dtype=torch.float64)).any():
        raise UnsupportedOperatorError(op.code, node.name, "the theorem needs maps between layers to send zero to zero, and this does not")
    gain = op.lipschitz(2.0, (1.0,), (everywhere.map(lambda t: t.expand(shape)),))
    if not gain < math.inf:
        raise UnsupportedOperatorError(op.code, node.name, "the theorem needs Lipschitz maps between layers, and this is none")
    return gain


def _norms(node: Node, other: Node | None, carried: bool, passed_on: bool) -> LayerNorms:
    """The norms of one layer; its gain is one until what follows is known.

    Args:
        node: the layer.
        other: the same one of the reference.
        carried: whether its input has the constant one.
        passed_on: whether its output has.
    """
    op = node.op
    assert isinstance(op, ops.Affine)
    spectral, bias = op.norm(2.0), _length(_bias(node))
    if carried:
        spectral = _with_constant(spectral, bias) if passed_on else up(math.hypot(spectral, bias) * (1.0 + 1e-15))
    inputs, outputs = math.prod(op.in_shapes[0]) + carried, math.prod(op.shape) + passed_on
    return LayerNorms(node.name, op.code, inputs, outputs, spectral, _distance(node, other), 1.0)


def _with_constant(spectral: float, bias: float) -> float:
    """The largest singular value of ``[[s, b], [0, 1]]``, rounded up: root of half of ``t + sqrt(t^2 - 4 s^2)``, t the sum of squares."""
    below, over = (spectral - 1.0) ** 2 + bias**2, (spectral + 1.0) ** 2 + bias**2
    return math.sqrt(0.5 * (spectral**2 + bias**2 + 1.0 + math.sqrt(below * over))) * (1.0 + 1e-14)


def _length(x: Tensor) -> float:
    """The l2 norm, rounded up."""
    return up(math.sqrt(float(sum_above(x.square().flatten(), 0)))) if x.any() else 0.0


def _distance(node: Node, other: Node | None) -> float:
    """``|A' - M'|_{2,1}`` with the bias as one more column, rounded up."""
    op, bias = node.op, _bias(node)
    assert isinstance(op, ops.Affine)
    if other is not None:
        assert isinstance(op, _WEIGHTED) and isinstance(other.op, _WEIGHTED)
        op, bias = replace(op, weight=op.weight - other.op.weight), bias - _bias(other)
    if not bias.any() and isinstance(op, _WEIGHTED) and not op.weight.any():
        return 0.0
    rows = op.row_norms_2(torch.ones(op.in_shapes[0], dtype=torch.float64))
    # Each difference of weights was rounded once, each row's root and squares a few times.
    return up(float(sum_above(torch.hypot(rows, bias).flatten(), 0)) * (1.0 + 1e-14))


def _aligned(graph: Graph, reference: Graph | None) -> list[Node | None]:
    """The reference's nodes, one for each of the network's."""
    if reference is None:
        return [None] * len(graph.nodes)
    if len(graph.nodes) != len(reference.nodes):
        raise UsageError(
            f"the reference has {len(reference.nodes)} operators and the network {len(graph.nodes)}: give the same architecture with "
            "the weights it began with"
        )
    for node, other in zip(graph.nodes, reference.nodes, strict=True):
        same = type(node.op) is type(other.op) and node.op.attributes() == other.op.attributes() and node.inputs == other.inputs
        # Weights may differ; everything else that is a tensor (indices, slopes) belongs to the architecture.
        mine, theirs = node.op.arrays(), other.op.arrays()
        same = same and mine.keys() == theirs.keys() and all(mine[key].shape == theirs[key].shape for key in mine)
        if not same or (not _is_layer(node) and any(not np.array_equal(mine[key], theirs[key]) for key in mine)):
            raise UsageError(
                f"the reference differs from the network at {node.name!r} ({node.op.code}) in more than weights: give the same "
                "architecture with the weights it began with"
            )
    return list(reference.nodes)
