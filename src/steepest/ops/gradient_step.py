"""Residual branches that are gradient steps: ``x - c A' s(A x + b)``, which expand nothing where the step is small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.graph import Node
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import product_up, up
from steepest.ops.conv import Conv, ConvTranspose
from steepest.ops.dense import Dense
from steepest.ops.join import Add
from steepest.ops.kinds import Affine, Elementwise


@dataclass(frozen=True)
class GradientStep:
    """A sum that was recognised.

    Args:
        source: the node x.
        inner: the node ``A x + b``.
        gate: the node ``s(A x + b)``.
        length: c, a power of two.
    """

    source: int
    inner: int
    gate: int
    length: float

    def factor(self, norm: float, slopes: Interval) -> float:
        """An l2 Lipschitz constant of the step, given ``|A|`` and the slopes of s; infinite where a slope may be negative.

        Two points differ afterwards by ``(I - c A' S A)`` of their difference, with S diagonal and within the slopes. That matrix is
        symmetric with eigenvalues between ``1 - c max S |A|^2`` and 1. (Baillon and Haddad 1977 for gradients of convex functions.)
        """
        if slopes.lo.numel() and not slopes.lo.min() >= 0:
            return math.inf
        steepest = slopes.hi.max().item() if slopes.hi.numel() else 0.0
        return max(1.0, up(product_up(self.length, steepest, norm, norm) - 1.0))


def gradient_step(nodes: Sequence[Node], index: int) -> GradientStep | None:
    """The gradient step that ends in a node, or None.

    The outer map must be ``-c`` times the adjoint of the inner, entry by entry, with c a power of two, so that nothing is lost in
    comparing.

    Source: Meunier, Delattre, Araujo and Allauzen, "A dynamical system perspective for Lipschitz neural networks" (2022); Araujo, Havens,
    Delattre, Allauzen and Hu, "A unified algebraic perspective on Lipschitz neural networks" (2023).
    """
    node = nodes[index]
    if not isinstance(node.op, Add) or len(node.inputs) != 2:
        return None
    for k in (0, 1):
        source, branch = node.inputs[k], node.inputs[1 - k]
        outer = nodes[branch]
        if node.op.signs[k] < 0 or not isinstance(outer.op, (Dense, ConvTranspose)):
            continue
        gate = nodes[outer.inputs[0]]
        if not isinstance(gate.op, Elementwise) or len(gate.inputs) != 1:
            continue
        inner = nodes[gate.inputs[0]]
        if inner.inputs != (source,):
            continue
        length = _length(inner.op, outer.op, -node.op.signs[1 - k])
        if length is not None:
            return GradientStep(source, gate.inputs[0], outer.inputs[0], length)
    return None


def _length(inner: object, outer: Affine, sign: int) -> float | None:
    """C with ``sign outer = c inner'``, if there is one."""
    if isinstance(inner, Dense) and isinstance(outer, Dense):
        return _multiple(inner.weight.mT, sign * outer.weight)
    if isinstance(inner, Conv) and isinstance(outer, ConvTranspose) and not any(m != "zeros" for m in inner.modes):
        settings = ((o.stride, o.padding, o.dilation, o.groups) for o in (inner, outer))
        return _multiple(inner.weight, sign * outer.weight) if len(set(settings)) == 1 else None
    return None


def _multiple(a: Tensor, b: Tensor) -> float | None:
    if a.shape != b.shape or not a.numel():
        return None
    most = a.abs().max().item()
    c = b.abs().max().item() / most if most > 0 else math.nan
    return c if c > 0 and math.frexp(c)[0] == 0.5 and torch.equal(c * a, b) else None
