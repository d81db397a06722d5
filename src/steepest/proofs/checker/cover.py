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


def cover_proves(nodes: Sequence[NodeLike], region: Box, outer: Sequence[Box], cover: Cover, p: float, bound: float) -> float:
    """A bound over the region, at most ``bound``, that the pieces prove.

    Pieces are boxes in ``(u, tau)`` and speak of the inputs ``u / tau``, which form a convex set. They are cut along coordinates, and both
    sides together are the whole; so a segment within the domain is divided among finitely many pieces, and the largest constant of a
    piece is one of the domain. If the region is bounded there is one tree, and tau is one. If not, the network must be positively
    homogeneous but for its biases: its values at ``u / tau`` are those at u with biases times tau, divided by tau, and so have the
    same signs and slopes. Every x is ``u / tau`` with ``tau = min(1, 1 / m)``, ``m = max |x_i| / scale_i``, on a face of the cube;
    without biases tau is free, and x = 0, a single point, needs no piece.

    Raises:
        ValueError: saying what is not proven.
    """
    bounded = np.isfinite(region.lo).all() and np.isfinite(region.hi).all()
    proven, waiting = 0.0, []
    together = _BATCH if all(n.op in _BATCHED for n in nodes[1:]) else 1

    def settle() -> float:
        lo, hi = (np.stack([piece[end] for piece in waiting]) for end in (1, 2))
        boxes = _values(nodes, lo, hi, outer if bounded else None)
        value = max(_jacobians(nodes, p, boxes, bound))
        if not value <= bound * (1 + 1e-6):
            raise ValueError(f"over a piece of {waiting[0][0]} to {waiting[-1][0]} the checker proves {value!r}, which is above {bound!r}")
        return value

    for number, (lo, hi, multipliers) in enumerate(_pieces(_roots(nodes, region, cover.scale), cover)):
        if not multipliers:
            waiting.append((number, lo, hi))
            if len(waiting) == together:
                proven, waiting = max(proven, settle()), []
            continue
        if p != 2:
            raise ValueError("Slope restrictions bound the l2 norm alone.")
        boxes = [b.moved(lambda t: t[0]) for b in _values(nodes, lo[None], hi[None], outer if bounded else None)]
        if not slopes_prove(nodes, boxes, multipliers, bound):
            raise ValueError(f"the multipliers of piece {number} do not prove {bound!r}")
        proven = max(proven, bound)
    return max(proven, settle()) if waiting else proven


def _jacobians(nodes: Sequence[NodeLike], p: float, boxes: list[Box], enough: float) -> Iterator[float]:
    """Bounds of the Jacobian's norm over every piece of a batch; where Frobenius' norm is small enough, that one."""
    if not all(n.op in _BATCHED for n in nodes[1:]):
        yield from (jacobian_constant(nodes, p, [b.moved(lambda t, i=i: t[i]) for b in boxes]) for i in range(len(boxes[0].lo)))
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
        matrix = whole.moved(lambda t, i=i: t[i])
        yield float(frobenius[i]) if p == 2 and frobenius[i] <= enough else matrix_constant(matrix, p)


def _roots(nodes: Sequence[NodeLike], region: Box, scale: Array) -> list[tuple[Array, Array]]:
    if np.isfinite(region.lo).all() and np.isfinite(region.hi).all():
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


def _pieces(roots: list[tuple[Array, Array]], cover: Cover) -> Iterator[tuple[Array, Array, Mapping[int, Array]]]:
    """Every piece in preorder, or an error where trees and pieces do not fit."""
    waiting = roots[::-1]
    used = 0
    for coordinate, at in zip(cover.coordinate.tolist(), cover.at.tolist(), strict=True):
        if not waiting:
            raise ValueError("the cover has more nodes than its trees")
        lo, hi = waiting.pop()
        if coordinate < 0:
            if used == len(cover.pieces):
                raise ValueError("the cover has fewer pieces than its trees")
            yield lo, hi, cover.pieces[used]
            used += 1
            continue
        if coordinate >= len(lo) or not lo[coordinate] <= at <= hi[coordinate]:
            raise ValueError(f"a cut at {at!r} is outside the piece that it cuts")
        below, above = hi.copy(), lo.copy()
        below[coordinate] = above[coordinate] = at
        waiting += [(above, hi), (lo, below)]
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

    def range(self) -> Box:
        reach = self.size * (1 + 2 * slack(self.linear.shape[1]))
        return widen(self.rest.lo - reach, self.rest.hi + reach)


def _values(nodes: Sequence[NodeLike], lo: Array, hi: Array, outer: Sequence[Box] | None) -> list[Box]:
    """Boxes ``[pieces, *shape]`` around every node's output with biases times tau, for ``(u, tau)`` between lo and hi.

    Each is enclosed twice, by intervals and as a linear form of the piece's coordinates with an interval for what that leaves.
    """
    shape, count = nodes[0].shape, len(lo)
    centre = lo / 2 + hi / 2
    radius = np.where(lo == hi, 0.0, np.nextafter(np.maximum(hi - centre, centre - lo), np.inf))
    tau = Box(lo[:, -1], hi[:, -1]), centre[:, -1], radius[:, -1]
    boxes = [Box(lo[:, :-1].reshape(count, *shape), hi[:, :-1].reshape(count, *shape))]
    linear = np.zeros((count, lo.shape[1], lo.shape[1]))
    linear[:, np.arange(lo.shape[1]), np.arange(lo.shape[1])] = radius
    forms = [_Form(linear[:, :, :-1].reshape(count, -1, *shape), point(centre[:, :-1].reshape(count, *shape)))]
    for k, node in enumerate(nodes[1:], start=1):
        form, plain = _through(nodes, node, [forms[i] for i in node.inputs], [boxes[i] for i in node.inputs], tau)
        box = overlap(form.range(), plain)
        boxes.append(box if outer is None else overlap(box, outer[k]))
        forms.append(form)
    return boxes


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
