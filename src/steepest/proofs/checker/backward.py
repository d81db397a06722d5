"""Boxes of every node over a bounded region by linear bounds propagated backwards to the inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steepest.proofs.checker import functions, groups
from steepest.proofs.checker.box import Array, Box, middle, overlap, point, slack
from steepest.proofs.checker.linear import Linear, NodeLike, linear_part
from steepest.proofs.checker.lines import lines
from steepest.proofs.checker.walk import value_of

WORK = 2.0**38
"""Most multiplications that a certificate may ask for, for the rows of one node."""

_ENTRIES = 2**21


@dataclass(frozen=True)
class Part:
    """``<a, f(x)> >= sum <to[i], x_i> + constant - error``, for rows a."""

    to: list[Array | None]
    constant: Array
    error: Array


def rows_dot(a: Array, v: Array) -> Array:
    """``<a, v>`` of every row; zero times infinity is zero, and infinite terms of both signs make minus infinity."""
    flat, v = a.reshape(len(a), -1), np.broadcast_to(v, a.shape[1:]).ravel()
    finite = np.isfinite(v)
    if finite.all():
        return flat @ v
    found = flat @ np.where(finite, v, 0.0)
    with np.errstate(invalid="ignore"):
        far = np.where(flat[:, ~finite] == 0, 0.0, flat[:, ~finite] * v[~finite])
    found = np.where((far == np.inf).any(1), np.inf, found)
    return np.where((far == -np.inf).any(1) | np.isnan(far).any(1), -np.inf, found)


def least_over(a: Array, x: Box) -> tuple[Array, Array]:
    """The least ``<a, x>`` over a box, and a bound of its rounding error."""
    plus, minus = np.maximum(a, 0.0), np.minimum(a, 0.0)
    e = slack(a[0].size)
    return rows_dot(plus, x.lo) + rows_dot(minus, x.hi), e * rows_dot(np.abs(a), x.size)


def _affine(linear: Linear, a: Array, x: Box) -> Part:
    bias, source = linear.bias(), linear.source
    reach = np.nan_to_num(linear.apply(x.size[None], 0)[0], nan=np.inf, posinf=np.inf)
    constant = np.zeros(len(a))
    if bias is not None:
        constant = rows_dot(a, bias)
        reach = reach + np.abs(bias)
    error = slack(linear.terms + a[0].size) * rows_dot(np.abs(a), reach)
    return Part([linear.transpose(a).reshape(len(a), *source)], constant, error)


def _function(node: NodeLike, a: Array, x: Box) -> Part:
    found = lines(node, x)
    plus, minus = np.maximum(a, 0.0), np.minimum(a, 0.0)
    steep = np.maximum(np.abs(found.low_slope), np.abs(found.high_slope))
    with np.errstate(invalid="ignore"):
        reach = np.nan_to_num(steep * x.size, nan=0.0, posinf=np.inf) + np.maximum(np.abs(found.low), np.abs(found.high))
    return Part(
        [plus * found.low_slope + minus * found.high_slope],
        rows_dot(plus, found.low) + rows_dot(minus, found.high),
        slack(a[0].size + 4) * rows_dot(np.abs(a), reach),
    )


def _product(node: NodeLike, a: Array, xs: Sequence[Box]) -> Part:
    """``B(x, y) = B(x, c) + B(b, y) - B(b, c) + B(x - b, y - c)`` around the middles b, c."""
    parts = [middle(x) for x in xs]
    to, error = [], np.zeros(len(a))
    for g, x in zip(groups.pulled(node, point(a), [point(m) for m, _ in parts]), xs, strict=True):
        centre, radius = middle(g)
        to.append(centre)
        error = error + 2 * rows_dot(radius, x.size)
    low, off = least_over(-a, groups.value(node, [point(m) for m, _ in parts]))
    rest = rows_dot(np.abs(a), groups.value(node, [point(r) for _, r in parts]).hi)
    return Part(to, low - rest, error + off + slack(a[0].size) * rest)


def _mixed(node: NodeLike, a: Array, x: Box, whole: Box) -> Part:
    """Around the middle m: ``<a, f(x) - f(m)> = <g, x - m>`` for some g pulled back; or the enclosure, where it is better."""
    m, r = middle(x)
    centre, spread = middle(groups.pulled(node, point(a), [x])[0])
    low, off = least_over(a, groups.value(node, [point(m)]))
    plain, plain_off = least_over(a, whole)
    lost = rows_dot(spread, r)
    use = low - lost > plain
    error = off + slack(centre[0].size + 4) * (rows_dot(np.abs(centre), np.abs(m)) + lost + np.abs(low))
    kept = np.where(use.reshape(-1, *[1] * x.lo.ndim), centre, 0.0)
    return Part([kept], np.where(use, low - lost - rows_dot(kept, m), plain), np.where(use, error, plain_off))


class Backward:
    """Boxes of the nodes in their order, ``boxes``; each is used for the lines of those behind it.

    A row of a node is bounded from below by a linear function of what the node reads, and so on to the inputs. Wherever a nonlinear
    node is reached, the row is also bounded over the boxes of all nodes that it then speaks of; the best counts. All linear functions
    have floating-point coefficients, and ``error`` is at least what rounding took from the inequality, since the sizes of all nodes'
    values are known.

    Args:
        nodes: the network.
        plain: boxes by intervals.
        ball: centre, radius and norm of a ball that holds the inputs.
        work: multiplications for the rows of one node, at least; a node that needs four times as many is left to intervals.
        last: whether the last node is bounded whatever it takes.
    """

    def __init__(
        self, nodes: Sequence[NodeLike], plain: Sequence[Box], ball: tuple[Array, float, float] | None, work: float, last: bool = False
    ) -> None:
        self.nodes, self.ball, self.work, self.last = nodes, ball, work, last
        self.boxes: list[Box] = []
        affine = [None if k == 0 else linear_part(n, nodes[n.inputs[0]].shape) for k, n in enumerate(nodes)]
        bends = [n.op not in ("input", "add", "concat") and linear is None for n, linear in zip(nodes, affine, strict=True)]
        # Inputs moved and scaled, and their first affine map over a box or an l2 ball: intervals are as good as any bound.
        apart = [True]
        for k, node in enumerate(nodes):
            box = plain[k] if k == 0 else overlap(value_of(nodes, node, [self.boxes[i] for i in node.inputs]), plain[k])
            self.boxes.append(box)
            linear = affine[k]
            first = linear is not None and apart[node.inputs[0]]
            if k > 0:
                apart.append(first and linear is not None and linear.entry_by_entry)
            known = apart[k] or (first and (ball is None or ball[2] != 1))
            readers = [r for r, n in enumerate(nodes) if k in n.inputs]
            if not known and (any(bends[r] for r in readers) or not readers):
                self.boxes[k] = self._better(k, box, [nodes[r] for r in readers])

    def _better(self, k: int, box: Box, readers: Sequence[NodeLike]) -> Box:
        open_ = box.lo < box.hi
        linear = [n.op not in functions.FUNCTIONS and linear_part(n, self.nodes[k].shape) is None for n in readers]
        if readers and not any(linear):
            slopes = [functions.slope_over(n.op, n.attributes, n.arrays, box) for n in readers if n.op in functions.FUNCTIONS]
            open_ = open_ & np.logical_or.reduce([np.broadcast_to(s.lo != s.hi, box.lo.shape) for s in slopes])
        at = np.flatnonzero(open_)
        free = self.last and k == len(self.nodes) - 1
        if len(at) == 0 or (2.0 * len(at) * self._price(k) > 4 * self.work and not free):
            return box
        lo, hi = box.lo.ravel().copy(), box.hi.ravel().copy()
        step = max(1, _ENTRIES // (2 * max(math.prod(n.shape) for n in self.nodes[: k + 1])))
        for i in range(0, len(at), step):
            part = at[i : i + step]
            unit = np.zeros((len(part), lo.size))
            unit[np.arange(len(part)), part] = 1.0
            found = self._below(k, np.concatenate([unit, -unit]).reshape(-1, *self.nodes[k].shape))
            lo[part], hi[part] = np.maximum(lo[part], found[: len(part)]), np.minimum(hi[part], -found[len(part) :])
        return Box(lo.reshape(box.lo.shape), hi.reshape(box.hi.shape))

    def _price(self, k: int) -> float:
        needed, price = {k}, 0.0
        for i in range(k, 0, -1):
            if i in needed:
                node = self.nodes[i]
                needed.update(node.inputs)
                linear = linear_part(node, self.nodes[node.inputs[0]].shape)
                price += math.prod(node.shape) * (4.0 if linear is None or linear.entry_by_entry else linear.terms)
        return price

    def _below(self, k: int, rows: Array) -> Array:
        left: dict[int, Array] = {k: rows}
        best = np.full(len(rows), -np.inf)
        constant, error, size = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
        for i in range(k, 0, -1):
            if i not in left:
                continue
            node = self.nodes[i]
            xs = [self.boxes[j] for j in node.inputs]
            linear = linear_part(node, self.nodes[node.inputs[0]].shape)
            if i < k and linear is None:
                best = np.maximum(best, self._total(left, constant, error, size))
            a = left.pop(i)
            part = self._through(i, node, linear, a, xs)
            constant, error, size = constant + part.constant, error + part.error, size + np.abs(part.constant)
            for j, to in zip(node.inputs, part.to, strict=True):
                if to is None:
                    continue
                if j in left:
                    error = error + slack(2) * rows_dot(np.abs(left[j]) + np.abs(to), self.boxes[j].size)
                    left[j] = left[j] + to
                else:
                    left[j] = to
        return np.maximum(best, self._total(left, constant, error, size))

    def _through(self, i: int, node: NodeLike, linear: Linear | None, a: Array, xs: Sequence[Box]) -> Part:
        if linear is not None:
            return _affine(linear, a, xs[0])
        if node.op in functions.FUNCTIONS:
            return _function(node, a, xs[0])
        if node.op in ("add", "concat"):
            parts = groups.pulled(node, point(a), xs)
            return Part([b.lo for b in parts], np.zeros(len(a)), np.zeros(len(a)))
        bounded = all(np.isfinite(x.lo).all() and np.isfinite(x.hi).all() for x in xs)
        # Of the node whose box is sought only what comes of its inputs helps.
        unknown = np.full(node.shape, np.inf)
        whole = self.boxes[i] if i < len(self.boxes) - 1 else Box(-unknown, unknown)
        if not bounded:
            return Part([None] * len(xs), *least_over(a, whole))
        return _product(node, a, xs) if node.op in ("multiply", "matmul") else _mixed(node, a, xs[0], whole)

    def _total(self, left: dict[int, Array], constant: Array, error: Array, size: Array) -> Array:
        for i, a in left.items():
            low, off = least_over(a, self.boxes[i])
            if i == 0 and self.ball is not None:
                low, off = _better_of((low, off), _over_ball(a, *self.ball))
            constant, error, size = constant + low, error + off, size + np.abs(low)
        with np.errstate(invalid="ignore"):
            found = constant - 2 * (error + slack(2 * len(self.nodes)) * size) - 2.0**-500
        return np.where(np.isnan(found), -np.inf, np.nextafter(found, -np.inf))


def _better_of(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    first = b[0] - b[1] > a[0] - a[1]
    return np.where(first, b[0], a[0]), np.where(first, b[1], a[1])


def _over_ball(a: Array, centre: Array, radius: float, p: float) -> tuple[Array, Array]:
    """Least over a ball, by the dual norm."""
    flat = a.reshape(len(a), -1)
    if p == 1:
        dual = np.abs(flat).max(1, initial=0.0)
    else:
        top = np.abs(flat).max(1, initial=0.0)
        scale = np.where(top > 0, top, 1.0)
        dual = np.sqrt(((flat / scale[:, None]) ** 2).sum(1)) * scale + 2.0**-500
    shift = dual * radius
    return rows_dot(a, centre) - shift, slack(flat.shape[1] + 8) * (rows_dot(np.abs(a), np.abs(centre)) + shift)


def tight_values(
    nodes: Sequence[NodeLike], plain: Sequence[Box], ball: tuple[Array, float, float] | None, work: float, last: bool = False
) -> list[Box]:
    """Boxes around every node's output, within those by intervals."""
    return Backward(nodes, plain, ball, work, last).boxes
