"""Arguments by pieces: boxes that cover the domain, and a bound of the Jacobian over each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from steepest.proofs.checker import functions, groups
from steepest.proofs.checker.box import EPS, Array, Box, add, image, multiply, negative, overlap, point, slack, widen
from steepest.proofs.checker.linear import NodeLike, linear_part
from steepest.proofs.checker.slopes import slopes_prove
from steepest.proofs.checker.walk import jacobian_constant, matrix_constant

HOMOGENEOUS = {"dense", "conv", "conv_transpose", "scale", "reshape", "permute", "select", "leaky_relu", "add", "concat", "group_max"}
"""Operators that commute with scaling by positive numbers once their biases are scaled too."""

_BATCHED = {"dense", "conv", "conv_transpose", "scale", "reshape", "permute", "select", "add", *functions.FUNCTIONS}
_BATCH = 64


@dataclass(frozen=True)
class Cover:
    """As in the certificate: half sides of the cube, trees in preorder, and what bounds each piece."""

    scale: Array
    coordinate: Array
    at: Array
    pieces: tuple[Mapping[int, Array], ...]


def cover_proves(
    nodes: Sequence[NodeLike], region: Box, outer: Sequence[Box], cover: Cover, p: float, bound: float, ball: tuple[Array, float] | None
) -> float:
    """A bound over the region, at most ``bound``, that the pieces prove.

    Pieces are boxes in ``(u, tau)``, which speak of the inputs ``u / tau``, cut along coordinates and by the signs of neurons whose
    only readers have a kink at zero; both sides are closed and together the whole. Two inputs of a piece, convex or not, have values
    within its boxes, between which every nonlinearity has a slope that the box allows (and a kink at whose one side both are, one
    slope), so the piece's bound is one of their secant. On a segment within the domain f is absolutely continuous, and almost every
    point is one of density of a piece, where secants within it give the derivative: so the largest bound of a piece is one of the
    domain.

    If the region is bounded, or there is no scale, there is one tree, and tau is one. If not, the network must be positively
    homogeneous but for its biases: its values at ``u / tau`` are those at u with biases times tau, divided by tau, and so have the same
    signs and slopes. Every x is ``u / tau`` with ``tau = min(1, 1 / m)``, ``m = max |x_i| / scale_i``, on a face of the cube; without
    biases tau is free, and x = 0, a single point, needs no piece.

    Args:
        nodes: the network.
        region: a box around the domain.
        outer: boxes around every node's output over the domain.
        cover: the argument.
        p: the norm.
        bound: what is claimed.
        ball: centre and radius of an l2 ball that holds the domain, where there is one.

    Raises:
        ValueError: saying what is not proven.
    """
    bounded = np.isfinite(region.lo).all() and np.isfinite(region.hi).all()
    proven, waiting = 0.0, []
    # A box that was cut is no longer the one around the ball; signs leave it whole.
    if ((cover.coordinate >= 0) & (cover.coordinate <= math.prod(nodes[0].shape))).any():
        ball = None
    together = _BATCH if all(n.op in _BATCHED for n in nodes[1:]) else 1

    def settle() -> float:
        boxes = _values(nodes, [piece for _, piece in waiting], outer if bounded else None, ball)
        value = max(_jacobians(nodes, p, boxes, bound))
        if not value <= bound * (1 + 1e-6):
            raise ValueError(f"over a piece of {waiting[0][0]} to {waiting[-1][0]} the checker proves {value!r}, which is above {bound!r}")
        return value

    for number, (piece, multipliers) in enumerate(_pieces(nodes, _roots(nodes, region, cover.scale), cover)):
        if not multipliers:
            waiting.append((number, piece))
            if len(waiting) == together:
                proven, waiting = max(proven, settle()), []
            continue
        if p != 2:
            raise ValueError("Slope restrictions bound the l2 norm alone.")
        boxes = [b.moved(lambda t: t[0]) for b in _values(nodes, [piece], outer if bounded else None, ball)]
        if not any((b.lo > b.hi).any() for b in boxes) and not slopes_prove(nodes, boxes, multipliers, bound):
            raise ValueError(f"the multipliers of piece {number} do not prove {bound!r}")
        proven = max(proven, bound)
    return max(proven, settle()) if waiting else proven


def _jacobians(nodes: Sequence[NodeLike], p: float, boxes: list[Box], enough: float) -> Iterator[float]:
    """Bounds of the Jacobian's norm over every piece of a batch; where Frobenius' norm is small enough, that one."""
    empty = np.logical_or.reduce([(b.lo > b.hi).reshape(len(b.lo), -1).any(1) for b in boxes])
    if not all(n.op in _BATCHED for n in nodes[1:]):
        singles = ([b.moved(lambda t, i=i: t[i]) for b in boxes] for i in range(len(empty)))
        yield from (0.0 if none else jacobian_constant(nodes, p, single) for none, single in zip(empty, singles, strict=True))
        return
    rows, count = math.prod(nodes[-1].shape), len(boxes[0].lo)
    unit = np.broadcast_to(np.eye(rows).reshape(1, rows, *nodes[-1].shape), (count, rows, *nodes[-1].shape))
    left: dict[int, Box] = {len(nodes) - 1: point(unit)}
    for k in range(len(nodes) - 1, 0, -1):
        if k not in left:
            continue
        g, node = left.pop(k), nodes[k]
        linear = linear_part(node, nodes[node.inputs[0]].shape)
        if linear is not None:
            flat, transpose = g.moved(lambda t, s=node.shape: t.reshape(-1, *s)), linear.transpose
            part = image(flat, transpose, lambda t, f=transpose: f(t, absolute=True), linear.terms)
            parts = [part.moved(lambda t, s=nodes[node.inputs[0]].shape: t.reshape(count, rows, *s))]
        elif node.op == "add":
            parts = [g if sign > 0 else negative(g) for sign in node.attributes["signs"]]
        else:
            slope = functions.slope_over(node.op, node.attributes, node.arrays, boxes[node.inputs[0]])
            parts = [multiply(g, slope.moved(lambda t: t[:, None]))]
        for i, part in zip(node.inputs, parts, strict=True):
            left[i] = add(left[i], part) if i in left else part
    whole = left[0].moved(lambda t: t.reshape(count, rows, -1))
    frobenius = np.sqrt((whole.size**2).sum((1, 2))) * (1 + 2 * slack(whole.size[0].size)) + 2.0**-500
    for i in range(count):
        if empty[i]:
            yield 0.0
            continue
        matrix = whole.moved(lambda t, i=i: t[i])
        yield float(frobenius[i]) if p == 2 and frobenius[i] <= enough else matrix_constant(matrix, p)


def _roots(nodes: Sequence[NodeLike], region: Box, scale: Array) -> list[tuple[Array, Array]]:
    if np.isfinite(region.lo).all() and np.isfinite(region.hi).all():
        return [(np.append(region.lo.ravel(), 1.0), np.append(region.hi.ravel(), 1.0))]
    if scale.size == 0:
        return [(np.append(region.lo.ravel(), 1.0), np.append(region.hi.ravel(), 1.0))]
    strange = next((n for n in nodes[1:] if n.op not in HOMOGENEOUS), None)
    if strange is not None:
        raise ValueError(f"node {strange.name!r} is not positively homogeneous, and the domain is unbounded")
    if not ((scale > 0) & np.isfinite(scale)).all():
        raise ValueError("the cover's scale is not positive and finite")
    found = []
    biased = any((bias := _bias(nodes, n)) is not None and bias.any() for n in nodes[1:])
    for i in range(len(scale)):
        for sign in (-1.0, 1.0):
            lo, hi = np.append(-scale, 0.0 if biased else 1.0), np.append(scale, 1.0)
            lo[i] = hi[i] = sign * scale[i]
            found.append((lo, hi))
    if biased:
        found.append((np.append(-scale, 1.0), np.append(scale, 1.0)))
    return found


def _bias(nodes: Sequence[NodeLike], node: NodeLike) -> Array | None:
    linear = linear_part(node, nodes[node.inputs[0]].shape)
    return None if linear is None else linear.bias()


@dataclass(frozen=True)
class _Piece:
    """A box of ``(u, tau)``, and the signs of entries of nodes, numbered one node after the other."""

    lo: Array
    hi: Array
    signs: Mapping[int, int]


def _pieces(nodes: Sequence[NodeLike], roots: list[tuple[Array, Array]], cover: Cover) -> Iterator[tuple[_Piece, Mapping[int, Array]]]:
    """Every piece in preorder, or an error where trees and pieces do not fit."""
    waiting = [_Piece(lo, hi, {}) for lo, hi in roots[::-1]]
    readers = [{n.op for n in nodes if k in n.inputs} for k in range(len(nodes))]
    able = np.concatenate([np.full(math.prod(n.shape), r == {"leaky_relu"}) for n, r in zip(nodes, readers, strict=True)])
    used = 0
    for coordinate, at in zip(cover.coordinate.tolist(), cover.at.tolist(), strict=True):
        if not waiting:
            raise ValueError("the cover has more nodes than its trees")
        piece = waiting.pop()
        if coordinate < 0:
            if used == len(cover.pieces):
                raise ValueError("the cover has fewer pieces than its trees")
            yield piece, cover.pieces[used]
            used += 1
            continue
        if coordinate < len(piece.lo):
            if not piece.lo[coordinate] <= at <= piece.hi[coordinate]:
                raise ValueError(f"a cut at {at!r} is outside the piece that it cuts")
            below, above = piece.hi.copy(), piece.lo.copy()
            below[coordinate] = above[coordinate] = at
            waiting += [_Piece(above, piece.hi, piece.signs), _Piece(piece.lo, below, piece.signs)]
            continue
        entry = coordinate - len(piece.lo)
        if entry >= len(able) or not able[entry] or at != 0 or entry in piece.signs:
            raise ValueError(f"entry {entry} is none whose sign tells slopes apart, or its sign is known, or it is not cut at zero")
        waiting += [_Piece(piece.lo, piece.hi, {**piece.signs, entry: sign}) for sign in (1, -1)]
    if waiting or used != len(cover.pieces):
        raise ValueError("the cover is not whole: its trees end early, or pieces are left over")


@dataclass(frozen=True)
class _Form:
    """``sum_c s_c linear_c + rest`` for s in [-1, 1]; ``[pieces, coordinates, *shape]`` and ``[pieces, *shape]``."""

    linear: Array
    rest: Box

    @property
    def size(self) -> Array:
        return np.abs(self.linear).sum(1)

    def range(self, euclidean: bool) -> Box:
        """Over s of norm one at most: Euclid's norm, or the largest entry."""
        size = np.sqrt((self.linear**2).sum(1)) + 2.0**-500 if euclidean else self.size
        reach = size * (1 + 2 * slack(self.linear.shape[1]))
        return widen(self.rest.lo - reach, self.rest.hi + reach)


def _values(
    nodes: Sequence[NodeLike], pieces: Sequence[_Piece], outer: Sequence[Box] | None, ball: tuple[Array, float] | None
) -> list[Box]:
    """Boxes ``[pieces, *shape]`` around every node's output with biases times tau, for ``(u, tau)`` between lo and hi.

    Each is enclosed twice, by intervals and as a linear form of the piece's coordinates with an interval for what that leaves.
    Where a sign is given the box ends at zero; in what is returned, at the least float beside it, so that a kink has one slope. A piece
    without inputs has an empty box. If there is a ball, the inputs spoken of lie in it.
    """
    lo, hi = np.stack([piece.lo for piece in pieces]), np.stack([piece.hi for piece in pieces])
    shape, count = nodes[0].shape, len(lo)
    firsts = np.cumsum([0, *(math.prod(n.shape) for n in nodes)])
    signs: dict[int, Array] = {}
    for i, piece in enumerate(pieces):
        for entry, sign in piece.signs.items():
            k = int(np.searchsorted(firsts, entry, "right")) - 1
            if k not in signs:
                signs[k] = np.zeros((count, math.prod(nodes[k].shape)))
            signs[k][i, entry - firsts[k]] = sign
    sides = np.isfinite(lo) & np.isfinite(hi)
    centre = np.where(sides, lo / 2 + hi / 2, 0.0)
    radius = np.where(sides & (lo != hi), np.nextafter(np.maximum(hi - centre, centre - lo), np.inf), 0.0)
    if ball is not None:
        # Then s is what divides the distance from the centre by the radius.
        centre[:, :-1], radius[:, :-1] = ball[0].ravel(), ball[1]
    tau = Box(lo[:, -1], hi[:, -1]), centre[:, -1], radius[:, -1]
    boxes = [Box(lo[:, :-1].reshape(count, *shape), hi[:, :-1].reshape(count, *shape))]
    linear = np.zeros((count, lo.shape[1], lo.shape[1]))
    linear[:, np.arange(lo.shape[1]), np.arange(lo.shape[1])] = radius
    # Of an unbounded side there is no linear form; it is all remainder.
    rest = Box(*(np.where(sides, centre, end)[:, :-1].reshape(count, *shape) for end in (lo, hi)))
    forms = [_Form(linear[:, :, :-1].reshape(count, -1, *shape), rest)]
    for k, node in enumerate(nodes[1:], start=1):
        form, plain = _through(nodes, node, [forms[i] for i in node.inputs], [boxes[i] for i in node.inputs], tau)
        box = overlap(form.range(ball is not None), plain)
        box = box if outer is None else overlap(box, outer[k])
        boxes.append(_clipped(box, signs[k], 0.0) if k in signs else box)
        forms.append(form)
    return [_clipped(box, signs[k], 2.0**-1074) if k in signs else box for k, box in enumerate(boxes)]


def _clipped(box: Box, sign: Array, at: float) -> Box:
    sign = sign.reshape(box.lo.shape)
    return Box(np.where(sign > 0, np.maximum(box.lo, at), box.lo), np.where(sign < 0, np.minimum(box.hi, -at), box.hi))


def _through(
    nodes: Sequence[NodeLike], node: NodeLike, forms: list[_Form], boxes: list[Box], tau: tuple[Box, Array, Array]
) -> tuple[_Form, Box]:
    form, x = forms[0], boxes[0]
    source = nodes[node.inputs[0]].shape
    linear = linear_part(node, source)
    if linear is not None:
        new = linear.apply(form.linear.reshape(-1, *source)).reshape(*form.linear.shape[:2], *node.shape)
        off = linear.apply(form.size, 0) * 2 * slack(linear.terms)
        size = partial(linear.apply, power=0)
        rest, plain = (image(b, linear.apply, size, linear.terms) for b in (form.rest, x))
        bias = linear.bias()
        if bias is not None:
            bias = np.broadcast_to(bias, node.shape)
            every, middle, half = (t.reshape(-1, *[1] * len(node.shape)) for t in (tau[0].lo, tau[1], tau[2]))
            new[:, -1] = new[:, -1] + bias * half
            off = off + 2 * EPS * (np.abs(new[:, -1]) + np.abs(bias) * half)
            rest = add(rest, multiply(point(bias), point(middle)))
            plain = add(plain, multiply(point(bias), Box(every, tau[0].hi.reshape(every.shape))))
        return _Form(new, widen(rest.lo - off, rest.hi + off)), plain
    if node.op in functions.FUNCTIONS:
        plain = functions.value_over(node.op, node.attributes, node.arrays, x)
        line, left = _line(node, x)
        new = form.linear * line[:, None]
        off = EPS * np.abs(new).sum(1) * (1 + slack(new.shape[1])) + 2.0**-1000
        rest = add(multiply(form.rest, point(line)), left)
        return _Form(new, widen(rest.lo - off, rest.hi + off)), plain
    if node.op == "add":
        plain = groups.value(node, boxes)
        signs = node.attributes["signs"]
        new = sum((f.linear if sign > 0 else -f.linear for f, sign in zip(forms, signs, strict=True)), np.zeros_like(form.linear))
        off = slack(len(forms)) * sum((f.size for f in forms), np.zeros_like(form.size))
        rest = point(np.zeros_like(form.size))
        for f, sign in zip(forms, signs, strict=True):
            rest = add(rest, f.rest if sign > 0 else negative(f.rest))
        return _Form(new, widen(rest.lo - off, rest.hi + off)), plain
    # The others are not written for many pieces at once, and come one by one.
    plain = groups.value(node, [b.moved(lambda t: t[0]) for b in boxes]).moved(lambda t: t[None])
    if node.op == "concat":
        axis = node.attributes["axis"]
        rest = Box(*(np.concatenate([getattr(f.rest, end) for f in forms], axis + 1) for end in ("lo", "hi")))
        return _Form(np.concatenate([f.linear for f in forms], axis + 2), rest), plain
    return _Form(np.zeros((*form.linear.shape[:2], *node.shape)), plain), plain


def _line(node: NodeLike, x: Box) -> tuple[Array, Box]:
    """A slope for every entry, and the range of what the function differs by from that slope times its argument."""
    if node.op == "leaky_relu":
        slope = np.broadcast_to(node.arrays["slope"], x.lo.shape)
        crosses = (x.lo < 0) & (x.hi > 0)
        chord = (x.hi - slope * x.lo) / np.where(crosses, x.hi - x.lo, 1.0)
        line = np.where(crosses & np.isfinite(chord), chord, np.where(x.lo >= 0, 1.0, slope))
        # Piecewise linear, so that the extremes of the difference are at the ends and at the kink.
        ends = [multiply(widen(slope - line, slope - line), point(x.lo)), multiply(widen(1 - line, 1 - line), point(x.hi))]
        low, high = np.minimum(np.minimum(ends[0].lo, ends[1].lo), 0.0), np.maximum(np.maximum(ends[0].hi, ends[1].hi), 0.0)
        return line, Box(np.where(crosses, low, 0.0), np.where(crosses, high, 0.0))
    slopes = functions.slope_over(node.op, node.attributes, node.arrays, x)
    line = np.nan_to_num(slopes.lo / 2 + slopes.hi / 2, nan=0.0, posinf=0.0, neginf=0.0)
    at = point(np.nan_to_num(x.lo / 2 + x.hi / 2, nan=0.0, posinf=0.0, neginf=0.0))
    value = functions.value_over(node.op, node.attributes, node.arrays, at)
    turned = multiply(add(slopes, negative(point(line))), add(x, negative(at)))
    return line, add(add(value, negative(multiply(point(line), at))), turned)
