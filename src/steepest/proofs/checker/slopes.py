"""LipSDP: multipliers for slope restrictions, and the one matrix whose definiteness is the proof."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steepest.proofs.checker import functions, groups
from steepest.proofs.checker.blocks import BlockMatrix
from steepest.proofs.checker.box import Array, Box, slack
from steepest.proofs.checker.linear import NodeLike, Shape, linear_part
from steepest.proofs.checker.rows import Block, Rows, joined, total

_LARGEST = 2**27


@dataclass(frozen=True)
class _Restriction:
    """``sum t_z z^2 - 2 t_v middle v z + t_v (middle^2 - radius^2) v^2 <= 0``: entry by entry, or (middle 0) summed over all."""

    z: int
    v: Rows
    middle: Array
    radius: Array
    t_z: Array
    t_v: Array


class _Inequality:
    """The restrictions found so far; variable 0 is the input."""

    def __init__(self, steps: Mapping[int, Array]) -> None:
        self.variables = 1
        self.steps = dict(steps)
        self.restrictions: list[_Restriction] = []

    def multipliers(self, node: int, shape: Shape) -> Array:
        t = self.steps.pop(node, None)
        if t is None:
            raise ValueError(f"node {node} has no multipliers")
        if t.shape != shape or not (np.isfinite(t) & (t >= 0)).all():
            raise ValueError(f"the multipliers of node {node} are not finite, non-negative and of shape {list(shape)}")
        return t

    def fresh(self, shape: Shape) -> Rows:
        self.variables += 1
        return Rows(shape, {self.variables - 1: Block(None)})

    def restrict(self, v: Rows, low: Array, high: Array, t: Array) -> Rows:
        """``z = phi(v)`` with slopes in [low, high], entry by entry."""
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("a slope is unbounded over the domain")
        low, high, t = low.ravel(), high.ravel(), t.ravel()
        fixed = low == high
        middle = np.where(fixed, low, low / 2 + high / 2)
        # Whatever the middle is as a float, this radius reaches both ends.
        # At least so large that its square does not underflow.
        radius = np.maximum(np.maximum(_difference_up(high, middle), _difference_up(middle, low)), 2.0**-460)
        if not fixed.any():
            z = self.fresh(v.shape)
            self.restrictions.append(_Restriction(self.variables - 1, v, middle, radius, t, t))
            return z
        # Where the slope is one number the node is linear and needs no variable.
        straight = v.scaled(np.where(fixed, middle, 0.0).reshape(v.shape))
        free = np.flatnonzero(~fixed)
        if len(free) == 0:
            return straight
        place = np.full(len(fixed), -1)
        place[free] = np.arange(len(free))
        z = self.fresh((len(free),))
        few = v.picked(free, (len(free),))
        self.restrictions.append(_Restriction(self.variables - 1, few, middle[free], radius[free], t[free], t[free]))
        return total([straight, z.picked(place, v.shape)], [1, 1])

    def contract(self, v: Rows, gain: float, shape: Shape, t: Array) -> Rows:
        """``z = phi(v)`` with ``|dz| <= gain |dv|``."""
        if not math.isfinite(gain):
            raise ValueError("a node has no Lipschitz constant over the domain")
        z = self.fresh(shape)
        size = math.prod(v.shape)
        of_v, of_z = (np.broadcast_to(t.ravel(), (n,)) for n in (size, math.prod(shape)))
        self.restrictions.append(_Restriction(self.variables - 1, v, np.zeros(size), np.full(size, gain), of_z, of_v))
        return z


def _difference_up(a: Array, b: Array) -> Array:
    """``a - b``, the next float above it where it is rounded."""
    d = a - b
    # What rounding took away, exactly (Knuth).
    shift = d - a
    lost = (a - (d - shift)) - (b + shift)
    return np.where(lost == 0, d, np.nextafter(d, np.inf))


def slopes_prove(
    nodes: Sequence[NodeLike], boxes: Sequence[Box], steps: Mapping[int, Array], bound: float, weights: Array | None = None
) -> bool:
    """Whether multipliers prove an l2 bound over the boxes' region.

    Differences of two inputs x and of the outputs z of all nonlinear nodes obey ``(z - c v)^2 <= r^2 v^2`` for slopes in ``[c - r, c
    + r]``, where v is a linear map of earlier variables, built here from the weights. With multipliers ``t >= 0`` the matrix
    ``bound^2 E + sum t ((z - c v)(z - c v)' - r^2 v v') - C'C`` (E on the inputs, C the output's rows) is semidefinite only if ``|C
    d| <= bound |x|``; with weights, E has them on its diagonal, and ``|C d|^2 <= bound^2 sum weights x^2``. It is scaled by powers of
    two to a diagonal of about one, and a Cholesky factorisation shifted by more than all rounding must run to its end.

    Raises:
        ValueError: saying which step is missing or unusable.
    """
    inequality = _Inequality(steps)
    found: list[Rows | None] = [Rows(nodes[0].shape, {0: Block(None)})]
    last = {i: k for k, node in enumerate(nodes) for i in node.inputs}
    for k, node in enumerate(nodes[1:], start=1):
        xs = [_there(found[i]) for i in node.inputs]
        found.append(_value(inequality, k, node, xs, [boxes[i] for i in node.inputs], nodes[node.inputs[0]].shape))
        if sum(b.value.size for r in inequality.restrictions for b in r.v.blocks.values() if b.value is not None) > _LARGEST:
            raise ValueError(f"the network's matrices hold more than {_LARGEST} numbers")
        for i in node.inputs:
            if last[i] == k:
                found[i] = None
    if inequality.steps:
        raise ValueError(f"a step speaks of node {min(inequality.steps)}, which needs no multipliers")
    entries = math.prod(nodes[0].shape)
    return _definite(np.ones(entries) if weights is None else weights.ravel(), inequality.restrictions, _there(found[-1]), bound)


def _there(rows: Rows | None) -> Rows:
    assert rows is not None
    return rows


def _value(inequality: _Inequality, k: int, node: NodeLike, xs: list[Rows], boxes: list[Box], source: Shape) -> Rows:
    linear = linear_part(node, source)
    x = xs[0]
    if linear is not None:
        return x.linear(linear, node.shape)
    if node.op == "add":
        return total(xs, node.attributes["signs"])
    if node.op == "concat":
        return joined(xs, node.attributes["axis"], node.shape)
    if node.op in functions.FUNCTIONS:
        slope = functions.slope_over(node.op, node.attributes, node.arrays, boxes[0])
        low, high = np.broadcast_to(slope.lo, node.shape), np.broadcast_to(slope.hi, node.shape)
        return inequality.restrict(x, low, high, inequality.multipliers(k, node.shape))
    if node.op == "group_max":
        return _maximum(inequality, k, node, x, boxes[0])
    if node.op == "group_sort" and node.shape[-1] == 2:
        t = inequality.multipliers(k, (*node.shape[:-1], 1))
        places = np.arange(math.prod(node.shape)).reshape(-1, 2)
        a, b = (x.picked(places[:, i], t.shape) for i in (0, 1))
        pairs = [boxes[0].moved(lambda u, i=i: np.broadcast_to(u, node.shape).reshape(-1, 2)[:, i].reshape(t.shape)) for i in (0, 1)]
        top = _larger(inequality, a, b, t, *pairs)
        least = total([a, b, top], [1, 1, -1])
        spread = [np.where(np.arange(places.size) % 2 == i, np.arange(places.size) // 2, -1) for i in (0, 1)]
        return total([least.picked(spread[0], node.shape), top.picked(spread[1], node.shape)], [1, 1])
    if node.op in ("multiply", "matmul"):
        raise ValueError(f"node {k} is a product of two branches, which slope restrictions do not cover")
    gain = groups.constant(node, 2.0, [1.0], boxes)
    return inequality.contract(x, gain, node.shape, inequality.multipliers(k, (1,)))


def _larger(inequality: _Inequality, a: Rows, b: Rows, t: Array, x: Box, y: Box) -> Rows:
    """``max(a, b) = b + phi(a - b)`` where phi is the positive part, for a in x and b in y; linear where one is always the larger."""
    low = np.where(x.lo >= y.hi, 1.0, 0.0)
    high = np.where((x.hi > y.lo) | (low == 1), 1.0, 0.0)
    part = inequality.restrict(total([a, b], [1, -1]), low, high, t)
    return total([part, b], [1, 1])


def _maximum(inequality: _Inequality, k: int, node: NodeLike, x: Rows, box: Box) -> Rows:
    """Maxima pair by pair; an absent entry leaves the other as it is."""
    index = node.arrays["index"].reshape(-1, node.arrays["index"].shape[-1])
    t = inequality.multipliers(k, (index.shape[1] - 1, *node.shape)).reshape(index.shape[1] - 1, *node.shape)
    entries = []
    for column in index.T:
        there = (column >= 0).reshape(node.shape)
        ends = (np.where(there, np.broadcast_to(u, x.shape).ravel()[column].reshape(node.shape), 0.0) for u in (box.lo, box.hi))
        entries.append((x.picked(column, node.shape), there, Box(*ends)))
    used = 0
    while len(entries) > 1:
        merged = []
        for i in range(0, len(entries) - 1, 2):
            (a, has_a, of_a), (b, has_b, of_b) = entries[i], entries[i + 1]
            both = has_a & has_b
            larger = Box(np.maximum(of_a.lo, of_b.lo), np.maximum(of_a.hi, of_b.hi))
            if both.all():
                top, known = _larger(inequality, a, b, t[used], of_a, of_b), larger
            else:
                there, a_only, b_only = (np.where(m, 1.0, 0.0) for m in (both, has_a & ~has_b, has_b & ~has_a))
                parts = (u.moved(lambda end, both=both: np.where(both, end, 0.0)) for u in (of_a, of_b))
                top = _larger(inequality, a.scaled(there), b.scaled(there), t[used], *parts)
                top = total([top, a.scaled(a_only), b.scaled(b_only)], [1, 1, 1])
                alone = [np.where(has_a, p, q) for p, q in ((of_a.lo, of_b.lo), (of_a.hi, of_b.hi))]
                known = Box(np.where(both, larger.lo, alone[0]), np.where(both, larger.hi, alone[1]))
            used += 1
            merged.append((top, has_a | has_b, known))
        if len(entries) % 2:
            merged.append(entries[-1])
        entries = merged
    return entries[0][0]


def _definite(weights: Array, restrictions: Sequence[_Restriction], out: Rows, bound: float) -> bool:
    if not (math.isfinite(bound) and bound > 0):
        return False
    matrix = BlockMatrix()
    square = bound * bound * (1 - 4 * slack(1))
    matrix.add(0, 0, square * weights)
    # For every block: what its entries may be off by, to be scaled; and for sums of squares, by the variables' own entries.
    sides: list[tuple[int, int, Array, float]] = []
    masses: list[tuple[int, Array]] = []
    # Adding up contributions rounds each of them once more.
    count = len(restrictions) + 4
    for r in restrictions:
        matrix.add(r.z, r.z, r.t_z)
        for b, value, most in _flat(r.v):
            weight = r.t_v * r.middle
            if weight.any():
                matrix.add(r.z, b, -weight[:, None] * value.T)
                sides.append((r.z, b, np.abs(weight)[:, None] * most.T, slack(r.v.terms + 8 + count)))
        # Exactly zero where one end of the slopes is.
        product = np.where(np.abs(r.middle) == r.radius, 0.0, (r.middle - r.radius) * (r.middle + r.radius))
        if product.any():
            weight = np.where(product == 0, 0.0, r.middle**2 + r.radius**2)
            _products(matrix, masses, r.v, r.t_v * product, r.t_v * weight, count)
    # Minus C'C as a Schur complement, so that a variable which only the output reads keeps its diagonal block.
    last = 1 + max((r.z for r in restrictions), default=0)
    matrix.add(last, last, np.ones(math.prod(out.shape)))
    for b, value, most in _flat(out):
        matrix.add(last, b, value.T)
        sides.append((last, b, most.T, slack(out.terms + 8 + count)))
    variables = [i for i, j in matrix.blocks if i == j]
    for i in variables:
        d = matrix.diagonal(i)
        if not ((d > 1e-280).all() and (d < 1e280).all()):
            return False
    scale = {i: np.exp2(-np.round(np.log2(matrix.diagonal(i)) / 2)) for i in variables}
    beside = sum((s * float(np.linalg.norm(most * scale[z][:, None] * scale[b])) * (1 + slack(most.size))) ** 2 for z, b, most, s in sides)
    error = math.sqrt(2 * beside) + sum(float((m * scale[b] ** 2).sum()) * (1 + slack(m.size)) for b, m in masses)
    # The multipliers and the bound itself, on the diagonal.
    error = error * (1 + slack(count)) + slack(count) * (4.0 + float((scale[0] ** 2 * weights).max(initial=0.0)) * square)
    return matrix.scaled(scale).semidefinite(error * (1 + slack(64)))


def _flat(rows: Rows) -> Iterator[tuple[int, Array, Array]]:
    for b, block in rows.blocks.items():
        value, most = block.full(rows.shape)
        yield b, value.reshape(len(value), -1), most.reshape(len(most), -1)


def _products(matrix: BlockMatrix, masses: list[tuple[int, Array]], rows: Rows, weight: Array, size: Array, count: int) -> None:
    """Add ``sum weight v v'``; its error is at most ``sum slack size |most|^2`` in the scaled spectral norm."""
    blocks = list(_flat(rows))
    off = slack(len(weight) + 2 * rows.terms + 16 + count)
    for b, value, most in blocks:
        for c, other, _ in blocks:
            if c <= b:
                matrix.add(b, c, (value * weight) @ other.T)
        masses.append((b, off * (most**2 * size).sum(1) * (1 + slack(len(size)))))
