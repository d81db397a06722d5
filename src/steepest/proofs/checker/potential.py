"""Residual branches ``x - c A' s(A x + b)``: their l2 constants from a proven norm of A."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from steepest.proofs.checker.box import Array, Box
from steepest.proofs.checker.functions import FUNCTIONS, slope_over
from steepest.proofs.checker.linear import NodeLike


def step_constant(nodes: Sequence[NodeLike], k: int, boxes: Sequence[Box], norms: Mapping[int, float]) -> float | None:
    """The l2 constant of node k as a map of x, where it is ``x - c A' s(A x + b)`` with slopes of s in [0, m]; None where it is not.

    Differences go through ``I - c A' S A``, S diagonal with entries in [0, m]: symmetric, with eigenvalues from ``1 - c m |A|^2`` to 1.

    Args:
        nodes: the network.
        k: the node.
        boxes: around every node's output.
        norms: of affine nodes, l2, proven.
    """
    parts = _parts(nodes, k)
    if parts is None:
        return None
    inner, gate, length = parts
    at = nodes[gate]
    slopes = slope_over(at.op, at.attributes, at.arrays, boxes[inner])
    if inner not in norms or not (slopes.lo >= 0).all():
        return None
    norm, steepest = norms[inner], float(slopes.hi.max(initial=0.0))
    # length is a power of two; three products and a difference are rounded.
    return max(1.0, length * steepest * norm * norm * (1 + 2.0**-50) - 1.0)


def source_of(nodes: Sequence[NodeLike], k: int) -> int:
    """X of a node for which ``step_constant`` is a number."""
    parts = _parts(nodes, k)
    assert parts is not None
    return nodes[parts[0]].inputs[0]


def _parts(nodes: Sequence[NodeLike], k: int) -> tuple[int, int, float] | None:
    """A x + b, s of it, and c."""
    node = nodes[k]
    if node.op != "add" or len(node.inputs) != 2:
        return None
    signs = node.attributes["signs"]
    for x, branch, sign_x, sign in ((*node.inputs, *signs), (*node.inputs[::-1], *signs[::-1])):
        outer = nodes[branch]
        if sign_x != 1 or sign not in (-1, 1) or outer.op not in ("dense", "conv_transpose"):
            continue
        gate = nodes[outer.inputs[0]]
        if gate.op not in FUNCTIONS or len(gate.inputs) != 1:
            continue
        inner = nodes[gate.inputs[0]]
        if tuple(inner.inputs) != (x,):
            continue
        length = _length(inner, outer, -sign)
        if length is not None:
            return gate.inputs[0], outer.inputs[0], length
    return None


def _length(inner: NodeLike, outer: NodeLike, sign: int) -> float | None:
    if (inner.op, outer.op) == ("dense", "dense"):
        return _power(inner.arrays["weight"].T, sign * outer.arrays["weight"])
    if (inner.op, outer.op) != ("conv", "conv_transpose"):
        return None
    a, b = inner.attributes, outer.attributes
    if any(m != "zeros" for m in a.get("modes") or ()):
        return None
    same = all(np.array_equal(a[name], b[name]) for name in ("stride", "padding", "dilation", "groups"))
    return _power(inner.arrays["weight"], sign * outer.arrays["weight"]) if same else None


def _power(a: Array, b: Array) -> float | None:
    """The power of two c with ``b = c a`` exactly."""
    if a.shape != b.shape or not a.any():
        return None
    c = float(np.abs(b).max() / np.abs(a).max())
    return c if c > 0 and math.frexp(c)[0] == 0.5 and np.array_equal(c * a, b) else None
