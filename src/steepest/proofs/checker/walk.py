"""Walks over a network: boxes of every node, Lipschitz constants forwards, rows of the Jacobian backwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from steepest.proofs.checker import functions, groups
from steepest.proofs.checker.box import Array, Box, add, image, middle, multiply, norm_above, overlap, point, slack, widen
from steepest.proofs.checker.definite import matrix_norm_at_most
from steepest.proofs.checker.linear import NodeLike, Shape, linear_part
from steepest.proofs.checker.potential import source_of, step_constant

OPERATORS = {"input", "dense", "conv", "conv_transpose", "scale", "reshape", "permute", "select", *functions.FUNCTIONS, *groups.GROUPS}
"""Codes the checker knows; any other is refused."""


def _source(nodes: Sequence[NodeLike], node: NodeLike) -> Shape:
    return nodes[node.inputs[0]].shape


def _affine(nodes: Sequence[NodeLike], node: NodeLike, x: Box) -> Box:
    linear = linear_part(node, _source(nodes, node))
    assert linear is not None
    bias = linear.bias()
    if node.op in ("reshape", "permute", "select"):
        y = x.moved(lambda t: linear.apply(t[None])[0])
        return y if bias is None else add(y, point(np.broadcast_to(bias, node.shape)))
    if node.op == "scale":
        y = multiply(x, point(np.broadcast_to(node.arrays["weight"], node.shape)))
        return y if bias is None else add(y, point(np.broadcast_to(bias, node.shape)))
    y = image(x, lambda t: linear.apply(t[None])[0], lambda t: linear.apply(t[None], 0)[0], linear.terms)
    return y if bias is None else add(y, point(np.broadcast_to(bias, node.shape)))


def value_of(nodes: Sequence[NodeLike], node: NodeLike, xs: Sequence[Box]) -> Box:
    """A box around a node's output, for boxes of its inputs."""
    if linear_part(node, _source(nodes, node)) is not None:
        return _affine(nodes, node, xs[0])
    if node.op in functions.FUNCTIONS:
        return functions.value_over(node.op, node.attributes, node.arrays, xs[0])
    return groups.value(node, xs)


def values(nodes: Sequence[NodeLike], region: Box, ball: tuple[Array, float] | None = None) -> list[Box]:
    """Boxes around every node's output over a region of inputs.

    Args:
        nodes: the network.
        region: of the input's shape.
        ball: centre and radius of an l2 ball around the region's inputs, where there is one: an affine map of it moves entry i
            by at most ``radius |row i|_2``, which is used while entries have only been moved and scaled.
    """
    found = [region]
    apart: dict[int, tuple[Box, Array]] = {} if ball is None else {0: (point(ball[0]), np.ones(nodes[0].shape))}
    for k, node in enumerate(nodes[1:], start=1):
        box = value_of(nodes, node, [found[i] for i in node.inputs])
        linear = linear_part(node, _source(nodes, node))
        if ball is not None and linear is not None and node.inputs[0] in apart:
            centre, scale = apart[node.inputs[0]]
            centre = _affine(nodes, node, centre)
            if linear.entry_by_entry:
                apart[k] = (centre, np.nextafter(linear.apply(scale[None], 0)[0], np.inf))
            else:
                squares = linear.apply((scale * scale)[None], 2)[0]
                reach = np.nextafter((np.sqrt(squares) * (1 + 2 * slack(linear.terms + 8)) + 2.0**-500) * ball[1], np.inf)
                box = overlap(box, widen(centre.lo - reach, centre.hi + reach))
        found.append(box)
    return found


def product_constant(nodes: Sequence[NodeLike], p: float, boxes: Sequence[Box], claims: Mapping[int, float]) -> float:
    """The last node's Lipschitz constant, composed of those of all nodes; l2 norms are the claims, each proven here.

    Raises:
        ValueError: naming the node whose claim is missing or not proven.
    """
    constants = [1.0]
    for k, node in enumerate(nodes[1:], start=1):
        inputs, xs = [constants[i] for i in node.inputs], [boxes[i] for i in node.inputs]
        linear = linear_part(node, _source(nodes, node))
        if linear is not None:
            try:
                gain = linear.norm(p, claims.get(k))
            except ValueError as error:
                raise ValueError(f"Node {k} ({node.name!r}): {error}.") from error
            constants.append(groups.times(gain, inputs[0]))
        elif node.op in functions.FUNCTIONS:
            slope = functions.slope_over(node.op, node.attributes, node.arrays, xs[0])
            constants.append(groups.times(float(slope.size.max(initial=0.0)), inputs[0]))
        else:
            constants.append(groups.constant(node, p, inputs, xs))
            # The claims of earlier nodes have been proven by now.
            factor = step_constant(nodes, k, boxes, claims) if p == 2 else None
            if factor is not None:
                constants[-1] = min(constants[-1], groups.times(factor, constants[source_of(nodes, k)]))
    return constants[-1]


def jacobian_constant(nodes: Sequence[NodeLike], p: float, boxes: Sequence[Box], entries: int = 2**21) -> float:
    """Upper bound of the norm of every Clarke Jacobian over the boxes."""
    return matrix_constant(pulled_rows(nodes, boxes, entries), p)


def pulled_rows(nodes: Sequence[NodeLike], boxes: Sequence[Box], entries: int = 2**21) -> Box:
    """A box around every Clarke Jacobian over the boxes, ``[outputs, inputs]``."""
    rows, columns = math.prod(nodes[-1].shape), math.prod(nodes[0].shape)
    step = max(1, entries // max(math.prod(n.shape) for n in nodes))
    parts = []
    for i in range(0, rows, step):
        unit = np.zeros((min(step, rows - i), rows))
        unit[np.arange(len(unit)), i + np.arange(len(unit))] = 1.0
        part = _pull(nodes, point(unit.reshape(-1, *nodes[-1].shape)), boxes)
        parts.append(part.moved(lambda t: t.reshape(-1, columns)))
    return Box(np.concatenate([b.lo for b in parts]), np.concatenate([b.hi for b in parts]))


def matrix_constant(whole: Box, p: float) -> float:
    """Upper bound of the operator norm of every matrix in a box."""
    rows, size = len(whole.lo), whole.size
    if not np.isfinite(size).all():
        return math.inf
    if p == math.inf:
        return max(norm_above(row, 1.0) for row in size)
    if p == 1:
        return max(norm_above(column, 1.0) for column in size.T)
    if rows == 1:
        return norm_above(size, 2.0)
    m, r = middle(whole)
    split = _norm_2(m) + _norm_2(r)
    return min(split * (1 + 2.0**-50), _norm_2(size))


def _norm_2(matrix: Array) -> float:
    """A proven upper bound of one matrix's l2 norm: a guess, raised until it is proven."""
    if not matrix.any():
        return 0.0
    guess = float(np.linalg.norm(matrix, 2))
    for rise in (1e-9, 1e-7, 1e-5, 1e-3):
        if matrix_norm_at_most(matrix, guess * (1 + rise)):
            return guess * (1 + rise)
    return norm_above(matrix, 2.0)


def _pull(nodes: Sequence[NodeLike], rows: Box, boxes: Sequence[Box]) -> Box:
    waiting: dict[int, Box] = {len(nodes) - 1: rows}
    for k in range(len(nodes) - 1, 0, -1):
        if k not in waiting:
            continue
        g, node = waiting.pop(k), nodes[k]
        xs = [boxes[i] for i in node.inputs]
        linear = linear_part(node, _source(nodes, node))
        if linear is not None:
            transpose = linear.transpose
            parts = [image(g, transpose, lambda t, f=transpose: f(t, absolute=True), linear.terms)]
        elif node.op in functions.FUNCTIONS:
            parts = [multiply(g, functions.slope_over(node.op, node.attributes, node.arrays, xs[0]))]
        else:
            parts = groups.pulled(node, g, xs)
        for i, part in zip(node.inputs, parts, strict=True):
            waiting[i] = add(waiting[i], part) if i in waiting else part
    return waiting[0]
