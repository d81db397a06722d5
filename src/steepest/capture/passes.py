"""Rewrites that keep the function: batch norm folded into its layer, and activations recognised behind their decomposition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from steepest import ops
from steepest.graph import Graph, Node

Match = Callable[[list[Node], int], Node | None]


def simplify(graph: Graph) -> Graph:
    """Fold and recognise until nothing changes; the map stays the same up to float64 rounding of folded weights.

    The network that is analysed is the folded one, with its float64 weights taken exactly.
    """
    nodes = list(graph.nodes)
    changed = True
    while changed:
        changed = False
        for index in range(1, len(nodes)):
            for rule in _RULES:
                found = rule(nodes, index)
                if found is not None:
                    nodes[index] = found
                    changed = True
        nodes = _live(nodes)
    return Graph(tuple(nodes))


def _live(nodes: list[Node]) -> list[Node]:
    """Only what the output depends on, and the input."""
    used, stack = {0, len(nodes) - 1}, [len(nodes) - 1]
    while stack:
        for i in nodes[stack.pop()].inputs:
            if i not in used:
                used.add(i)
                stack.append(i)
    kept = sorted(used)
    place = {old: new for new, old in enumerate(kept)}
    return [replace(nodes[i], inputs=tuple(place[j] for j in nodes[i].inputs)) for i in kept]


def _users(nodes: list[Node], index: int) -> int:
    return sum(node.inputs.count(index) for node in nodes)


def _fold_scale(nodes: list[Node], index: int) -> Node | None:
    """A scale after a dense, convolution or scale node that nobody else reads, where it is one number per channel."""
    node = nodes[index]
    if not isinstance(node.op, ops.Scale):
        return None
    before = nodes[node.inputs[0]]
    op, (weight, bias) = before.op, (node.op.weight, node.op.bias)
    if isinstance(op, ops.Scale):
        if _users(nodes, node.inputs[0]) > 1:
            return None
        return replace(node, op=replace(op, weight=weight * op.weight, bias=weight * op.bias + bias), inputs=before.inputs)
    if isinstance(op, ops.Dense):
        axis = -1
    elif isinstance(op, (ops.Conv, ops.ConvTranspose)):
        axis = 1
    else:
        return None
    if _users(nodes, node.inputs[0]) > 1:
        return None
    channels, rank = op.shape[axis], len(op.shape)
    aligned = [t.reshape([1] * (rank - t.ndim) + list(t.shape)).movedim(axis, 0) for t in (weight, bias)]
    rows = [t.reshape(len(t), -1) for t in aligned]
    if any(row.shape[1] != 1 for row in rows):
        return None
    w, b = (row[:, 0].expand(channels) for row in rows)
    if isinstance(op, ops.ConvTranspose):
        per_group = w.reshape(op.groups, 1, -1, *[1] * (op.weight.ndim - 2))
        grouped = op.weight.reshape(op.groups, -1, *op.weight.shape[1:])
        scaled = (grouped * per_group).reshape(op.weight.shape)
    else:
        scaled = op.weight * w.reshape(-1, *[1] * (op.weight.ndim - 1))
    return replace(node, op=replace(op, weight=scaled, bias=w * op.bias + b), inputs=before.inputs)


def _fold_reshape(nodes: list[Node], index: int) -> Node | None:
    """A reshape of a reshape."""
    node = nodes[index]
    before = nodes[node.inputs[0]] if node.inputs else node
    if isinstance(node.op, ops.Reshape) and isinstance(before.op, ops.Reshape):
        return replace(node, op=ops.Reshape(before.op.in_shapes, node.op.target), inputs=before.inputs)
    return None


def _fold_dense(nodes: list[Node], index: int) -> Node | None:
    """A dense layer after one, where the product is no larger than both."""
    node = nodes[index]
    before = nodes[node.inputs[0]] if node.inputs else node
    if not isinstance(node.op, ops.Dense) or not isinstance(before.op, ops.Dense) or _users(nodes, node.inputs[0]) > 1:
        return None
    first, second = before.op, node.op
    if first.weight.shape[1] * second.weight.shape[0] > first.weight.numel() + second.weight.numel():
        return None
    return replace(
        node,
        op=ops.Dense(first.in_shapes, second.weight @ first.weight, second.weight @ first.bias + second.bias),
        inputs=before.inputs,
    )


def _gated(nodes: list[Node], index: int) -> Node | None:
    """``x g(x)``: SiLU, GELU of both kinds, Mish, hard swish, by comparison of the functions.

    The product of a node with a chain of elementwise operators that starts at the same node, every constant in the chain
    being one number, is a function of one variable. It is one of the known ones if it agrees with it at points over the whole range.
    """
    node = nodes[index]
    path = _chain(nodes, index)
    if not isinstance(node.op, (ops.Multiply, ops.Scale)) or not any(isinstance(nodes[i].op, ops.Multiply) for i in path[:2]):
        return None
    x = torch.linspace(-12.0, 12.0, 97, dtype=torch.float64)
    for root in path[1:]:
        function = _along(nodes, index, root, x)
        if function is None or nodes[root].shape != node.shape:
            continue
        for kind in (ops.Silu, ops.Gelu, ops.GeluTanh, ops.Mish, ops.HardSwish):
            known = kind(((len(x),),)).evaluate(x)
            if (function - known).abs().max() <= _TOLERANCE * known.abs().max():
                return Node(node.name, kind((node.shape,)), (root,))
    return None


_TOLERANCE = 2e-7
"""Exports write 1 / sqrt(2) and the like in float32; the recognised function replaces theirs by the exact one."""


def _chain(nodes: list[Node], index: int) -> list[int]:
    """From a node back through elementwise operators and one-number scales (and products of such) to where they all begin."""
    path = [index]
    while True:
        node = nodes[path[-1]]
        if not _linked(node):
            return path
        if isinstance(node.op, (ops.Add, ops.Multiply)):
            branches = [_chain(nodes, i) for i in node.inputs]
            common = [i for i in branches[0] if all(i in branch for branch in branches[1:])]
            return [*path, *common]
        path.append(node.inputs[0])


def _linked(node: Node) -> bool:
    """Whether a node is a function of one variable, entry by entry, of inputs that are."""
    if isinstance(node.op, ops.Scale):
        return node.op.weight.numel() == 1 and node.op.bias.numel() == 1
    return isinstance(node.op, (ops.Add, ops.Multiply, *_LINKS))


_LINKS = (ops.Sigmoid, ops.Tanh, ops.Erf, ops.Softplus, ops.Clamp, ops.Power, ops.Log, ops.Exp, ops.Silu)


def _along(nodes: list[Node], index: int, root: int, x: Tensor) -> Tensor | None:
    """The chain from ``root`` to a node as a function of one variable, at the points x."""
    if index == root:
        return x
    node = nodes[index]
    if not _linked(node):
        return None
    inputs = [_along(nodes, i, root, x) for i in node.inputs]
    if any(value is None for value in inputs) or not node.inputs:
        return None
    values = [value for value in inputs if value is not None]
    if isinstance(node.op, ops.Scale):
        return values[0] * node.op.weight.item() + node.op.bias.item()
    return node.op.evaluate(*values)


def _normalised(nodes: list[Node], index: int) -> Node | None:
    """``d / sqrt(mean(d^2) + eps)`` over the last axis, written out: layer norm (d already centred) and RMS norm of older exports."""
    node = nodes[index]
    if not isinstance(node.op, ops.Multiply):
        return None
    for d, other in (node.inputs, node.inputs[::-1]):
        spread = nodes[other]
        if isinstance(spread.op, ops.Select):
            spread = nodes[spread.inputs[0]]
        if not isinstance(spread.op, ops.Reciprocal):
            continue
        root = nodes[spread.inputs[0]]
        if not isinstance(root.op, ops.Sqrt):
            continue
        shifted = nodes[root.inputs[0]]
        eps, mean_at = 0.0, root.inputs[0]
        if isinstance(shifted.op, ops.Scale) and shifted.op.bias.numel() == 1 and bool((shifted.op.weight == 1).all()):
            eps, mean_at = shifted.op.bias.item(), shifted.inputs[0]
        mean = nodes[mean_at]
        if isinstance(mean.op, ops.Reshape):
            mean = nodes[mean.inputs[0]]
        if not isinstance(mean.op, ops.Dense) or eps < 0:
            continue
        n = node.shape[-1] if node.shape else 0
        square = nodes[mean.inputs[0]]
        even = mean.op.weight.shape == (1, n) and bool((mean.op.weight == 1.0 / n).all()) and not bool(mean.op.bias.any())
        if even and isinstance(square.op, ops.Power) and square.op.exponent == 2 and square.inputs[0] == d:
            return Node(node.name, ops.Normalize((node.shape,), False, float(eps)), (d,))
    return None


_RULES: tuple[Match, ...] = (_fold_reshape, _fold_scale, _fold_dense, _gated, _normalised)
