"""Rewrites that keep the function: batch norm and padding folded into layers, activations recognised behind their decomposition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steepest import ops
from steepest.graph import Graph, Node, Operator, Shape, depended_on
from steepest.numerics.torus import padded_positions


@dataclass(frozen=True)
class Chain:
    """What takes a node's place: operators one after the other, of which the first reads ``inputs``."""

    inputs: tuple[int, ...]
    ops: tuple[Operator, ...]


Rule = Callable[[list[Node], int], Chain | None]


def simplify(graph: Graph) -> Graph:
    """Fold and recognise until nothing changes.

    Every rewrite is an identity of real functions; new constants are computed from the old in float64 and rounded. The network
    that is analysed is the rewritten one, with its float64 weights taken exactly.
    """
    nodes, changed = list(graph.nodes), True
    while changed:
        changed, index = False, 1
        while index < len(nodes):
            found = next((chain for rule in _RULES if (chain := rule(nodes, index)) is not None), None)
            if found is not None:
                _put(nodes, index, found)
                changed = True
            index += 1
        nodes = list(depended_on(nodes))
    return Graph(tuple(nodes))


def _put(nodes: list[Node], index: int, chain: Chain) -> None:
    """Replace one node by a chain; the last of it takes over what read the node."""
    more, name = len(chain.ops) - 1, nodes[index].name
    links = [Node(name, op, chain.inputs if k == 0 else (index + k - 1,)) for k, op in enumerate(chain.ops)]
    later = [replace(n, inputs=tuple(i + more if i >= index else i for i in n.inputs)) for n in nodes[index + 1 :]]
    nodes[index:] = [*links, *later]


def _users(nodes: list[Node], index: int) -> int:
    return sum(node.inputs.count(index) for node in nodes)


def _fold_scale(nodes: list[Node], index: int) -> Chain | None:
    """A scale after a dense, convolution or scale node that nobody else reads, where it is one number per channel."""
    node = nodes[index]
    if not isinstance(node.op, ops.Scale):
        return None
    before = nodes[node.inputs[0]]
    op, (weight, bias) = before.op, (node.op.weight, node.op.bias)
    if isinstance(op, ops.Scale):
        if _users(nodes, node.inputs[0]) > 1:
            return None
        return Chain(before.inputs, (replace(op, weight=weight * op.weight, bias=weight * op.bias + bias),))
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
    return Chain(before.inputs, (replace(op, weight=scaled, bias=w * op.bias + b),))


def _fold_reshape(nodes: list[Node], index: int) -> Chain | None:
    """A reshape of a reshape."""
    node = nodes[index]
    before = nodes[node.inputs[0]] if node.inputs else node
    if isinstance(node.op, ops.Reshape) and isinstance(before.op, ops.Reshape):
        return Chain(before.inputs, (ops.Reshape(before.op.in_shapes, node.op.target),))
    return None


def _fold_dense(nodes: list[Node], index: int) -> Chain | None:
    """A dense layer after one, where the product is no larger than both."""
    node = nodes[index]
    before = nodes[node.inputs[0]] if node.inputs else node
    if not isinstance(node.op, ops.Dense) or not isinstance(before.op, ops.Dense) or _users(nodes, node.inputs[0]) > 1:
        return None
    first, second = before.op, node.op
    if first.weight.shape[1] * second.weight.shape[0] > first.weight.numel() + second.weight.numel():
        return None
    return Chain(before.inputs, (ops.Dense(first.in_shapes, second.weight @ first.weight, second.weight @ first.bias + second.bias),))


def _fold_padding(nodes: list[Node], index: int) -> Chain | None:
    """Padding of positions before a convolution: the two are bounded together, since a copied entry alone has a norm above one."""
    node = nodes[index]
    before = nodes[node.inputs[0]] if node.inputs else node
    if not isinstance(node.op, ops.Conv) or not isinstance(before.op, ops.Select) or before.op.fill != 0.0:
        return None
    op, picked, shape = node.op, before.op.index, before.op.in_shapes[0]
    if len(shape) != picked.ndim or shape[:2] != tuple(picked.shape[:2]) or 0 in shape or 0 in picked.shape:
        return None
    padding, modes, expected = [], [], torch.arange(math.prod(shape)).reshape(shape)
    for a in range(len(shape) - 2):
        coordinate = torch.where(picked >= 0, picked // math.prod(shape[3 + a :]) % shape[2 + a], -1)
        at = coordinate.movedim(2 + a, 0).flatten(1).amax(1)
        found = _padding(at, shape[2 + a])
        mode = op.modes[a] if op.modes else "zeros"
        # Padding of padding is one padding where one of the two is none, or both are zeros.
        longer = len(at) != shape[2 + a]
        if found is None or (longer and op.padding[a] != (0, 0) and (found[0], mode) != ("zeros", "zeros")):
            return None
        modes.append(found[0] if longer else mode)
        padding.append((found[1] + op.padding[a][0], len(at) - shape[2 + a] - found[1] + op.padding[a][1]))
        there = (at >= 0).reshape([-1 if b == 2 + a else 1 for b in range(len(shape))])
        expected = torch.where(there, expected.index_select(2 + a, at.clamp(min=0)), -1)
    if not torch.equal(expected, picked):
        return None
    kinds = tuple(modes) if any(m != "zeros" for m in modes) else ()
    return Chain(before.inputs, (replace(op, in_shapes=(shape,), padding=tuple(padding), modes=kinds),))


def _padding(at: Tensor, size: int) -> tuple[str, int] | None:
    """Mode and amount in front of what padded an axis, given the positions of its entries."""
    longer = len(at) - size
    for mode in ("zeros", "circular", "reflect", "replicate"):
        for low in range(longer + 1):
            if mode == "reflect" and max(low, longer - low) >= size:
                continue
            if torch.equal(padded_positions(mode, size, low, longer - low), at):
                return mode, low
    return None


@dataclass(frozen=True)
class Line:
    """A node as ``weight x + bias`` of another, with one number each."""

    root: int
    weight: float
    bias: float


def _lines(nodes: list[Node], index: int) -> list[Line]:
    """The node as itself, and as a line of what a one-number scale reads."""
    op, itself = nodes[index].op, Line(index, 1.0, 0.0)
    if isinstance(op, ops.Scale) and op.weight.numel() == 1 and op.bias.numel() == 1:
        return [itself, Line(nodes[index].inputs[0], op.weight.item(), op.bias.item())]
    return [itself]


def _gated(nodes: list[Node], index: int) -> Chain | None:
    """A product of ``c x`` and a gate of ``r x``: SiLU, GELU, Mish and hard swish written out.

    Exports round the gate's constants (1 / sqrt 2 in float32, say). The function is then the activation with its argument and
    its value scaled, which it is replaced by: ``x s(r x) = silu(r x) / r``, ``x tanh(log(1 + e^(r x))) = mish(r x) / r``,
    ``x clip(s x + 1/2, 0, 1) = hardswish(6 s x) / (6 s)``, and with ``u = sqrt(2) a x``, ``x (1 + erf(a x)) = 2 gelu(u) / (sqrt(2) a)``.
    """
    node = nodes[index]
    if not isinstance(node.op, ops.Multiply):
        return None
    for factor, gate in (node.inputs, node.inputs[::-1]):
        for outer in _lines(nodes, gate):
            for kind, root, rate, value in _gates(nodes, outer):
                for plain in _lines(nodes, factor):
                    if plain.root == root and plain.bias == 0.0 and rate != 0.0:
                        return _stretched(nodes, root, kind, rate, plain.weight * value / rate)
    return None


def _gates(nodes: list[Node], outer: Line) -> list[tuple[type[ops.Elementwise], int, float, float]]:
    """For a line of an operator: ``(kind, x, r, v)`` such that ``x`` times it is ``v kind(r x) / r``."""
    gate, found = nodes[outer.root], []
    if not isinstance(gate.op, (ops.Sigmoid, ops.Erf, ops.Tanh, ops.Clamp)):
        return []
    for inner in _lines(nodes, gate.inputs[0]):
        if isinstance(gate.op, ops.Sigmoid) and inner.bias == outer.bias == 0.0:
            found.append((ops.Silu, inner.root, inner.weight, outer.weight))
        elif isinstance(gate.op, ops.Erf) and inner.bias == 0.0 and outer.bias == outer.weight:
            found.append((ops.Gelu, inner.root, math.sqrt(2.0) * inner.weight, 2.0 * outer.weight))
        elif isinstance(gate.op, ops.Clamp) and (gate.op.low, gate.op.high) == (0.0, 1.0) and inner.bias == 0.5 and outer.bias == 0.0:
            found.append((ops.HardSwish, inner.root, 6.0 * inner.weight, outer.weight))
        elif isinstance(gate.op, ops.Clamp) and (gate.op.low, gate.op.high) == (0.0, 6.0) and inner.bias == 3.0 and outer.bias == 0.0:
            found.append((ops.HardSwish, inner.root, inner.weight, 6.0 * outer.weight))
        elif isinstance(gate.op, ops.Tanh) and isinstance(nodes[inner.root].op, ops.Softplus) and inner.weight == 1.0:
            if inner.bias == outer.bias == 0.0:
                lines = _lines(nodes, nodes[inner.root].inputs[0])
                found.extend((ops.Mish, line.root, line.weight, outer.weight) for line in lines if line.bias == 0.0)
    return found


def _stretched(nodes: list[Node], root: int, kind: type[ops.Elementwise], rate: float, value: float) -> Chain:
    """``value kind(rate x)``."""
    shape = nodes[root].shape
    before, after = (_times(shape, number) for number in (rate, value))
    return Chain((root,), (*before, kind((shape,)), *after))


def _times(shape: Shape, number: float) -> tuple[Operator, ...]:
    one = torch.ones([1] * len(shape), dtype=torch.float64)
    return () if number == 1.0 else (ops.Scale((shape,), number * one, 0.0 * one),)


def _normalised(nodes: list[Node], index: int) -> Chain | None:
    """``d / sqrt(mean(d^2) + eps)`` over the last axis, written out: layer norm (d already centred) and RMS norm of older exports."""
    node = nodes[index]
    if not isinstance(node.op, ops.Multiply):
        return None
    for d, other in (node.inputs, node.inputs[::-1]):
        spread = nodes[other]
        if isinstance(spread.op, ops.Select):
            if not _repeats_rows(spread.op, node.shape):
                continue
            spread = nodes[spread.inputs[0]]
        if not isinstance(spread.op, ops.Reciprocal):
            continue
        root = nodes[spread.inputs[0]]
        if not isinstance(root.op, ops.Sqrt):
            continue
        # The floor is by now the bias of the dense row that takes the mean.
        mean = nodes[root.inputs[0]]
        if isinstance(mean.op, ops.Reshape):
            mean = nodes[mean.inputs[0]]
        if not isinstance(mean.op, ops.Dense):
            continue
        n = node.shape[-1] if node.shape else 0
        square = nodes[mean.inputs[0]]
        even = mean.op.weight.shape == (1, n) and bool((mean.op.weight == 1.0 / n).all()) and mean.op.bias.item() >= 0.0
        if even and isinstance(square.op, ops.Power) and square.op.exponent == 2 and square.inputs[0] == d:
            return Chain((d,), (ops.Normalize((node.shape,), False, mean.op.bias.item()),))
    return None


def _repeats_rows(op: ops.Select, shape: Shape) -> bool:
    """Whether a selection is one number per row, repeated along the last axis."""
    if tuple(op.index.shape) != shape or not shape:
        return False
    rows = torch.arange(math.prod(shape[:-1])).reshape(*shape[:-1], 1).expand(shape)
    return torch.equal(op.index, rows)


_RULES: tuple[Rule, ...] = (_fold_reshape, _fold_scale, _fold_dense, _fold_padding, _gated, _normalised)
