"""LipSDP: multipliers for slope restrictions, and the one matrix whose definiteness is the proof."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steepest.proofs.checker import functions, groups
from steepest.proofs.checker.box import Array, Box, slack
from steepest.proofs.checker.definite import definite
from steepest.proofs.checker.linear import NodeLike, Shape, linear_part

_LARGEST = 20000


@dataclass(frozen=True)
class _Rows:
    """The value of a node as a linear map of the variables: ``[variables so far, *shape]``.

    ``value`` is computed; ``most`` is at least the sum of magnitudes of the terms that went into each entry; an entry is
    off by at most ``slack(terms) most``.
    """

    value: Array
    most: Array
    terms: int

    def padded(self, size: int) -> _Rows:
        missing = size - len(self.value)
        if missing == 0:
            return self
        zeros = np.zeros((missing, *self.value.shape[1:]))
        return _Rows(np.concatenate([self.value, zeros]), np.concatenate([self.most, zeros]), self.terms)


class _Inequality:
    """Rows g, h with multipliers, adding up to ``sum t (g g' - h h')``."""

    def __init__(self, inputs: int, steps: Mapping[int, Array]) -> None:
        self.size = inputs
        self.steps = dict(steps)
        self.plus: list[tuple[Array, _Rows]] = []
        self.minus: list[tuple[Array, _Rows]] = []

    def multipliers(self, node: int, shape: Shape) -> Array:
        t = self.steps.pop(node, None)
        if t is None:
            raise ValueError(f"node {node} has no multipliers")
        if t.shape != shape or not (np.isfinite(t) & (t >= 0)).all():
            raise ValueError(f"the multipliers of node {node} are not finite, non-negative and of shape {list(shape)}")
        return t

    def fresh(self, count: int) -> _Rows:
        self.size += count
        rows = np.zeros((self.size, count))
        rows[self.size - count :] = np.eye(count)
        return _Rows(rows, rows, 0)

    def restrict(self, v: _Rows, low: Array, high: Array, t: Array) -> _Rows:
        """``z = phi(v)`` with slopes in [low, high], entry by entry."""
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("a slope is unbounded over the domain")
        fixed = (low == high).ravel()
        middle = np.where(fixed, low.ravel(), (low / 2 + high / 2).ravel())
        # Whatever the middle is as a float, this radius reaches both ends.
        radius = np.nextafter(np.maximum(high.ravel() - middle, middle - low.ravel()), np.inf)[~fixed]
        shape = (-1, *v.value.shape[1:])
        flat = _Rows(v.value.reshape(len(v.value), -1), v.most.reshape(len(v.most), -1), v.terms)
        z = self.fresh(int((~fixed).sum()))
        flat = flat.padded(self.size)
        out = _Rows(flat.value * middle, flat.most * np.abs(middle), flat.terms + 1)
        mine = _Rows(flat.value[:, ~fixed] * radius, flat.most[:, ~fixed] * radius, flat.terms + 2)
        t = t.ravel()[~fixed]
        self.plus.append((t, _Rows(z.value - out.value[:, ~fixed], z.most + out.most[:, ~fixed], flat.terms + 3)))
        self.minus.append((t, mine))
        # Where the slope is one number the node is linear and needs no variable.
        out.value[:, ~fixed], out.most[:, ~fixed] = z.value, z.most
        return _Rows(out.value.reshape(shape), out.most.reshape(shape), out.terms)

    def contract(self, v: _Rows, gain: float, shape: Shape, t: Array) -> _Rows:
        """``z = phi(v)`` with ``|dz| <= gain |dv|``."""
        if not math.isfinite(gain):
            raise ValueError("a node has no Lipschitz constant over the domain")
        z = self.fresh(math.prod(shape))
        flat = _Rows(v.value.reshape(len(v.value), -1), v.most.reshape(len(v.most), -1), v.terms).padded(self.size)
        self.plus.append((np.broadcast_to(t.ravel(), z.value.shape[1:]), z))
        self.minus.append((np.broadcast_to(t.ravel(), flat.value.shape[1:]), _Rows(flat.value * gain, flat.most * gain, flat.terms + 2)))
        return _Rows(z.value.reshape(-1, *shape), z.most.reshape(-1, *shape), 0)


def slopes_prove(nodes: Sequence[NodeLike], boxes: Sequence[Box], steps: Mapping[int, Array], bound: float) -> bool:
    """Whether multipliers prove an l2 bound over the boxes' region.

    Differences of two inputs x and of the outputs z of all nonlinear nodes obey ``(z - c v)^2 <= r^2 v^2`` for slopes in
    ``[c - r, c + r]``, where v is a linear map of earlier variables, built here from the weights. With multipliers ``t >= 0`` the
    matrix ``bound^2 E + sum t (g g' - h h') - C'C`` (E on the inputs, C the output's rows) is semidefinite only if
    ``|C d| <= bound |x|``. It is scaled by powers of two to a diagonal of about one, and a Cholesky factorisation shifted by
    more than all rounding must run to its end.

    Raises:
        ValueError: saying which step is missing or unusable.
    """
    inputs = math.prod(nodes[0].shape)
    inequality = _Inequality(inputs, steps)
    eye = np.eye(inputs).reshape(-1, *nodes[0].shape)
    found: list[_Rows | None] = [_Rows(eye, eye, 0)]
    last = {i: k for k, node in enumerate(nodes) for i in node.inputs}
    for k, node in enumerate(nodes[1:], start=1):
        xs = [_there(found[i]) for i in node.inputs]
        found.append(_value(inequality, k, node, xs, [boxes[i] for i in node.inputs], nodes[node.inputs[0]].shape))
        if inequality.size > _LARGEST:
            raise ValueError(f"the network has more than {_LARGEST} variables")
        for i in node.inputs:
            if last[i] == k:
                found[i] = None
    if inequality.steps:
        raise ValueError(f"a step speaks of node {min(inequality.steps)}, which needs no multipliers")
    out = _there(found[-1]).padded(inequality.size)
    out = _Rows(out.value.reshape(len(out.value), -1), out.most.reshape(len(out.most), -1), out.terms)
    minus = [*inequality.minus, (np.ones(math.prod(nodes[-1].shape)), out)]
    return _definite(inputs, inequality.size, inequality.plus, minus, bound)


def _there(rows: _Rows | None) -> _Rows:
    assert rows is not None
    return rows


def _value(inequality: _Inequality, k: int, node: NodeLike, xs: list[_Rows], boxes: list[Box], source: Shape) -> _Rows:
    linear = linear_part(node, source)
    x = xs[0]
    if linear is not None:
        return _Rows(linear.apply(x.value), linear.apply(x.most, 0), x.terms + linear.terms + 1)
    if node.op == "add":
        xs = [v.padded(inequality.size) for v in xs]
        signed = [v.value if sign > 0 else -v.value for sign, v in zip(node.attributes["signs"], xs, strict=True)]
        return _Rows(sum(signed[1:], signed[0]), sum((v.most for v in xs[1:]), xs[0].most), max(v.terms for v in xs) + len(xs))
    if node.op == "concat":
        axis = node.attributes["axis"] + 1
        xs = [v.padded(inequality.size) for v in xs]
        return _Rows(np.concatenate([v.value for v in xs], axis), np.concatenate([v.most for v in xs], axis), max(v.terms for v in xs))
    if node.op in functions.FUNCTIONS:
        slope = functions.slope_over(node.op, node.attributes, node.arrays, boxes[0])
        low, high = np.broadcast_to(slope.lo, node.shape), np.broadcast_to(slope.hi, node.shape)
        return inequality.restrict(x, low, high, inequality.multipliers(k, node.shape))
    if node.op == "group_max":
        return _maximum(inequality, k, node, x)
    if node.op == "group_sort" and node.shape[-1] == 2:
        t = inequality.multipliers(k, (*node.shape[:-1], 1))
        a, b = (_Rows(x.value[..., i : i + 1], x.most[..., i : i + 1], x.terms) for i in (0, 1))
        top = _larger(inequality, a, b, t)
        a, b = a.padded(inequality.size), b.padded(inequality.size)
        least = _Rows(a.value + b.value - top.value, a.most + b.most + top.most, max(a.terms, top.terms) + 3)
        return _Rows(np.concatenate([least.value, top.value], -1), np.concatenate([least.most, top.most], -1), max(least.terms, top.terms))
    if node.op in ("multiply", "matmul"):
        raise ValueError(f"node {k} is a product of two branches, which slope restrictions do not cover")
    gain = groups.constant(node, 2.0, [1.0], boxes)
    return inequality.contract(x, gain, node.shape, inequality.multipliers(k, (1,)))


def _larger(inequality: _Inequality, a: _Rows, b: _Rows, t: Array) -> _Rows:
    """``max(a, b) = b + phi(a - b)`` where phi is the positive part."""
    difference = _Rows(a.value - b.value, a.most + b.most, max(a.terms, b.terms) + 2)
    part = inequality.restrict(difference, np.zeros(t.shape), np.ones(t.shape), t)
    b = b.padded(inequality.size)
    return _Rows(part.value + b.value, part.most + b.most, b.terms + 2)


def _maximum(inequality: _Inequality, k: int, node: NodeLike, x: _Rows) -> _Rows:
    index = node.arrays["index"].reshape(-1, node.arrays["index"].shape[-1])
    t = inequality.multipliers(k, (index.shape[1] - 1, *node.shape)).reshape(index.shape[1] - 1, -1)
    value, most = x.value.reshape(len(x.value), -1), x.most.reshape(len(x.most), -1)
    entries = []
    for column in index.T:
        there = column >= 0
        entries.append((_Rows(value[:, column] * there, most[:, column] * there, x.terms), there))
    used = 0
    while len(entries) > 1:
        merged = []
        for i in range(0, len(entries) - 1, 2):
            (a, has_a), (b, has_b) = entries[i], entries[i + 1]
            a, b = a.padded(inequality.size), b.padded(inequality.size)
            both, one = has_a & has_b, np.where(has_a & ~has_b, 1.0, 0.0)
            other = np.where(has_b & ~has_a, 1.0, 0.0)
            top = _larger(inequality, _Rows(a.value * both, a.most * both, a.terms), _Rows(b.value * both, b.most * both, b.terms), t[used])
            used += 1
            a, b = a.padded(inequality.size), b.padded(inequality.size)
            merged.append(
                (
                    _Rows(
                        top.value + a.value * one + b.value * other,
                        top.most + a.most * one + b.most * other,
                        max(top.terms, a.terms, b.terms) + 3,
                    ),
                    has_a | has_b,
                )
            )
        if len(entries) % 2:
            merged.append(entries[-1])
        entries = merged
    rows = entries[0][0].padded(inequality.size)
    return _Rows(rows.value.reshape(-1, *node.shape), rows.most.reshape(-1, *node.shape), rows.terms)


def _stack(size: int, rows: Sequence[tuple[Array, _Rows]]) -> tuple[Array, Array]:
    """All rows times the roots of their multipliers, and what each entry may be off by: ``[count, size]``."""
    values, errors = [np.zeros((0, size))], [np.zeros((0, size))]
    for t, part in rows:
        part = part.padded(size)
        root = np.sqrt(t)[:, None]
        values.append(root * part.value.T)
        # The root and the product add two roundings.
        errors.append(2 * slack(part.terms + 4) * root * part.most.T)
    return np.concatenate(values), np.concatenate(errors)


def _definite(inputs: int, size: int, plus: Sequence[tuple[Array, _Rows]], minus: Sequence[tuple[Array, _Rows]], bound: float) -> bool:
    if not (math.isfinite(bound) and bound > 0):
        return False
    (g, g_off), (h, h_off) = _stack(size, plus), _stack(size, minus)
    matrix = g.T @ g - h.T @ h
    square = bound * bound * (1 - 4 * slack(1))
    matrix[np.arange(inputs), np.arange(inputs)] += square
    diagonal = np.diagonal(matrix)
    if not (np.isfinite(matrix).all() and (diagonal > 1e-280).all() and (diagonal < 1e280).all()):
        return False
    scale = np.exp2(-np.round(np.log2(diagonal) / 2))
    error = 0.0
    for rows, off in ((g, g_off), (h, h_off)):
        mass, lost = (float(np.linalg.norm(m * scale)) * (1 + slack(m.size)) for m in (rows, off))
        error += slack(len(rows) + 8) * mass * mass + (2 * mass + lost) * lost
    error += slack(4) * (square * float((scale[:inputs] ** 2).max()) + 4.0)
    return definite((matrix * scale[:, None] * scale)[None], error * (1 + slack(16)))
