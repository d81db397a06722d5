"""The Clarke Jacobian over boxes, row by row: directions pushed forward from a node to the output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from steepest.proofs.checker import functions, groups
from steepest.proofs.checker.backward import least_over, rows_dot
from steepest.proofs.checker.box import EPS, Array, Box, add, image, multiply, norm_above, point, slack
from steepest.proofs.checker.linear import NodeLike, linear_part
from steepest.proofs.checker.walk import matrix_constant

_ENTRIES = 2**21


def linear_jacobian_constant(nodes: Sequence[NodeLike], p: float, boxes: Sequence[Box], work: float) -> float:
    """Upper bound of the norm of every Clarke Jacobian over the boxes.

    For a row e of the output let ``G_k`` be the derivative of the row by node k's value: ``e`` at the output and ``sum J_r' G_r``
    over the readers r of k elsewhere. Then ``<c, G_k> = sum <J_r c, G_r>``. The entries of ``J_r c`` lie in intervals [a, b]; with g,
    an entry of ``G_r``, in [l, u], their product is at least ``min(a g, b g)``, which is concave in g and so at least the line
    through its ends. The slopes of these lines are the next direction. At any time the sum is at least what the boxes of the G
    reached allow.
    """
    if p == math.inf:
        return max(row_length(nodes, boxes, i, work) for i in range(math.prod(nodes[-1].shape)))
    whole = [_row(nodes, boxes, i, work).derivative.moved(np.ravel) for i in range(math.prod(nodes[-1].shape))]
    matrix = Box(np.stack([b.lo for b in whole]), np.stack([b.hi for b in whole]))
    return matrix_constant(matrix, p)


def row_length(nodes: Sequence[NodeLike], boxes: Sequence[Box], row: int, work: float, p: float = 1.0) -> float:
    """Upper bound of the lp norm of one row of every Clarke Jacobian over the boxes: for p = 1, the sum of its magnitudes."""
    found = _row(nodes, boxes, row, work)
    if p != 1:
        return norm_above(found.derivative.size, p)
    return min(norm_above(found.derivative.size, 1.0), found.length())


def _row(nodes: Sequence[NodeLike], boxes: Sequence[Box], row: int, work: float) -> _Row:
    """The work is that for all rows together."""
    count = math.prod(nodes[-1].shape)
    unit = np.zeros(count)
    unit[row] = 1.0
    return _Row(nodes, boxes, unit.reshape(nodes[-1].shape), work / count)


class _Row:
    """Boxes of ``G_k`` for one row, the last node first; ``derivative`` is that of the input."""

    def __init__(self, nodes: Sequence[NodeLike], boxes: Sequence[Box], row: Array, work: float) -> None:
        self.nodes, self.boxes, self.work = nodes, boxes, work
        self.readers = [[r for r, n in enumerate(nodes) if k in n.inputs] for k in range(len(nodes))]
        self.known: dict[int, Box] = {}
        waiting: dict[int, Box] = {len(nodes) - 1: point(row)}
        for k in range(len(nodes) - 1, -1, -1):
            if k not in waiting:
                continue
            box, node = waiting.pop(k), nodes[k]
            self.known[k] = box if k == len(nodes) - 1 else self._better(k, box)
            if k == 0:
                break
            for i, part in zip(node.inputs, self._pulled(node, self.known[k]), strict=True):
                waiting[i] = add(waiting[i], part) if i in waiting else part
        zero = np.zeros(nodes[0].shape)
        self.derivative = self.known.setdefault(0, point(zero))

    def length(self) -> float:
        """Upper bound of the sum of the derivative's magnitudes: each is at most the chord of ``|t|`` over its interval."""
        lo, hi = self.derivative.lo, self.derivative.hi
        if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
            return math.inf
        both = (lo < 0) & (hi > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.clip(np.where(both, (hi + lo) / (hi - lo), np.where(lo >= 0, 1.0, -1.0)), -1.0, 1.0)
        rest = np.where(both, np.maximum(-lo - slope * lo, hi - slope * hi) + 8 * EPS * (hi - lo), 0.0)
        total = float(rest.sum()) * (1 + 2 * slack(rest.size)) - float(self._below(0, -slope[None])[0])
        return math.nextafter(total, math.inf)

    def _pulled(self, node: NodeLike, g: Box) -> list[Box]:
        xs = [self.boxes[i] for i in node.inputs]
        g = g.moved(lambda t: t[None])
        linear = linear_part(node, self.nodes[node.inputs[0]].shape)
        if linear is not None:
            parts = [image(g, linear.transpose, lambda t: linear.transpose(t, absolute=True), linear.terms)]
        elif node.op in functions.FUNCTIONS:
            parts = [multiply(g, functions.slope_over(node.op, node.attributes, node.arrays, xs[0]))]
        else:
            parts = groups.pulled(node, g, xs)
        return [b.moved(lambda t: t[0]) for b in parts]

    def _better(self, k: int, box: Box) -> Box:
        node = self.nodes[k]
        unknown = box.lo < box.hi
        if k > 0:
            if node.op in functions.FUNCTIONS:
                slope = functions.slope_over(node.op, node.attributes, node.arrays, self.boxes[node.inputs[0]])
                unknown = unknown & (box.lo < 0) & (box.hi > 0) & np.broadcast_to(slope.lo != slope.hi, node.shape)
            elif node.op in ("add", "concat") or linear_part(node, self.nodes[node.inputs[0]].shape) is not None:
                return box
        at = np.flatnonzero(unknown)
        if len(at) == 0 or 2.0 * len(at) * self._price(k) > 4 * self.work:
            return box
        lo, hi = box.lo.ravel().copy(), box.hi.ravel().copy()
        step = max(1, _ENTRIES // (2 * max(math.prod(n.shape) for n in self.nodes[k:])))
        for i in range(0, len(at), step):
            part = at[i : i + step]
            unit = np.zeros((len(part), lo.size))
            unit[np.arange(len(part)), part] = 1.0
            found = self._below(k, np.concatenate([unit, -unit]).reshape(-1, *node.shape))
            lo[part], hi[part] = np.maximum(lo[part], found[: len(part)]), np.minimum(hi[part], -found[len(part) :])
        return Box(lo.reshape(box.lo.shape), hi.reshape(box.hi.shape))

    def _price(self, k: int) -> float:
        price, reached = 0.0, {k}
        for i, node in enumerate(self.nodes[k + 1 :], start=k + 1):
            if reached & set(node.inputs):
                reached.add(i)
                linear = linear_part(node, self.nodes[node.inputs[0]].shape)
                price += math.prod(node.shape) * (4.0 if linear is None or linear.entry_by_entry else linear.terms)
        return price

    def _below(self, k: int, directions: Array) -> Array:
        """Lower bounds of ``<c, G_k>`` for directions ``[rows, *shape of node k]``."""
        rows = len(directions)
        left, owed = {k: directions}, {k: set(self.readers[k])}
        constant, error, size = np.zeros(rows), np.zeros(rows), np.zeros(rows)
        best = np.full(rows, -np.inf)
        for r in range(k + 1, len(self.nodes)):
            node = self.nodes[r]
            if not any(i in left for i in node.inputs):
                continue
            linear = linear_part(node, self.nodes[node.inputs[0]].shape)
            if linear is None and k not in left and all(owed[i] == set(self.readers[i]) for i in left):
                best = np.maximum(best, self._total(left, constant, error, size))
            g = self.known[r]
            if linear is not None:
                c = left[node.inputs[0]]
                left[r] = linear.apply(c)
                weight = np.nan_to_num(linear.transpose(g.size[None], absolute=True)[0], nan=np.inf, posinf=np.inf)
                error = error + slack(linear.terms + g.lo.size) * rows_dot(np.abs(c), weight)
            else:
                moved = self._moved(node, left)
                left[r], offset, lost = _straight(moved, g)
                constant, error, size = constant + offset, error + lost, size + np.abs(offset)
            owed[r] = set(self.readers[r])
            for i in set(node.inputs) & set(left):
                owed[i].discard(r)
                if not owed[i]:
                    del left[i], owed[i]
        return np.maximum(best, self._total(left, constant, error, size))

    def _moved(self, node: NodeLike, left: Mapping[int, Array]) -> Box:
        rows = len(next(iter(left.values())))
        given = [left[i] if i in left else np.zeros((rows, *self.nodes[i].shape)) for i in node.inputs]
        xs = [self.boxes[i] for i in node.inputs]
        if node.op in functions.FUNCTIONS:
            return multiply(point(given[0]), functions.slope_over(node.op, node.attributes, node.arrays, xs[0]))
        return groups.pushed(node, given, xs)

    def _total(self, left: Mapping[int, Array], constant: Array, error: Array, size: Array) -> Array:
        for i, c in left.items():
            low, off = least_over(c, self.known[i])
            constant, error, size = constant + low, error + off, size + np.abs(low)
        with np.errstate(invalid="ignore"):
            found = constant - 2 * (error + slack(2 * len(self.nodes)) * size) - 2.0**-500
        return np.where(np.isnan(found), -np.inf, np.nextafter(found, -np.inf))


def _straight(moved: Box, g: Box) -> tuple[Array, Array, Array]:
    """Slopes of lines below ``min(a g, b g)``, the sum of their offsets, and a bound of what rounding took."""
    a, b, low, high = moved.lo, moved.hi, g.lo, g.hi
    both = (low < 0) & (high > 0)
    with np.errstate(all="ignore"):
        share = np.nan_to_num(np.where(both, high / (high - low), np.where(low >= 0, 1.0, 0.0)), nan=0.5)
        slope = np.where(a == b, a, share * a + (1 - share) * b)
        offset = np.where(both & (a != b), np.minimum((a - slope) * high, (b - slope) * low), 0.0)
    wild = ~(np.isfinite(slope) & np.isfinite(offset))
    slope = np.where(wild, 0.0, slope)
    offset = np.where(wild, np.where((low == 0) & (high == 0), 0.0, -np.inf), offset)
    most = np.maximum(np.abs(a), np.abs(b))
    lost = 8 * slack(g.lo.size + 4) * rows_dot(np.where(np.isfinite(most), most, 0.0), g.size)
    return slope, offset.reshape(len(a), -1).sum(1), lost
