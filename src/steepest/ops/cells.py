"""Enclosures over many small boxes of inputs at once, linear in the inputs as far as they go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from steepest.graph import Graph, Node
from steepest.numerics.interval import Interval, linear_image
from steepest.numerics.rounding import ROOT_TINY, UNIT, above, gamma
from steepest.ops.group_max import GroupMax
from steepest.ops.join import Add, Concat
from steepest.ops.kinds import Affine, Elementwise
from steepest.ops.piecewise import LeakyRelu

WIDER = 8.0
"""Margin over what rounding needs, so that whoever encloses again by other formulas stays inside."""


@dataclass(frozen=True, eq=False)
class Cells:
    """What is known of every node over a batch of boxes of ``(u, tau)``, the inputs and the scale.

    With s in [-1, 1] the place in the box by halves of its sides, every node's value is ``sum_c s_c linear_c`` plus a remainder, and lies
    within its enclosure.

    Args:
        values: enclosures, ``[boxes, *node shape]``.
        linear: ``[boxes, inputs + 1, *node shape]``.
    """

    values: list[Interval]
    linear: list[Tensor]

    def empty(self) -> Tensor:
        """Where no input is left, ``[boxes]``."""
        return torch.stack([(x.lo > x.hi).flatten(1).any(1) for x in self.values]).any(0)

    def one(self, index: int) -> list[Interval]:
        """The enclosures over one box."""
        return [x.map(lambda t: t[index]) for x in self.values]


def positively_homogeneous(graph: Graph) -> bool:
    """Whether ``f_tau(u) = tau f(u / tau)`` is the same network with biases times tau, for every ``tau > 0``."""
    return all(isinstance(node.op, (Affine, LeakyRelu, Add, Concat, GroupMax)) for node in graph.nodes[1:])


def without_biases(graph: Graph) -> bool:
    """Whether no affine map has one, so that tau does not matter."""
    return not any(isinstance(n.op, Affine) and n.op.offset is not None and n.op.offset.any() for n in graph.nodes[1:])


def enclose_cells(
    graph: Graph,
    lo: Tensor,
    hi: Tensor,
    outer: list[Interval] | None = None,
    signs: Mapping[int, Tensor] | None = None,
    ball: tuple[Tensor, float] | None = None,
) -> Cells:
    """Enclose every node of the network with biases times tau over boxes of ``(u, tau)``.

    Where tau is one this is the network itself; elsewhere it has to be positively homogeneous. Each value is known as a linear
    form of the box's coordinates plus an interval (a Taylor model of degree one): affine maps act on both, a nonlinearity is a
    line, the chord of a kink or the mean slope, plus what it differs by; and the result is intersected with plain interval
    propagation.

    Args:
        graph: the network.
        lo, hi: ``[boxes, inputs + 1]``, tau last.
        outer: enclosures over a set that holds all boxes, of one sample, for tau = 1.
        signs: for some nodes, ``[boxes, *node shape]``: where it is 1 or -1, only inputs at which the entry has this sign or is zero are
            spoken of. Such an entry's enclosure ends at the least float beside zero, where a kink has one slope; there may be no inputs
            left, and then some enclosure is empty: ``lo > hi``.
        ball: centre and radius of an l2 ball, where only inputs in it are spoken of, in one box around it: then s is what divides the
            distance from the centre by the radius, and has norm one at most.
    """
    shape, count = graph.input_shape, lo.shape[1]
    bounded = torch.isfinite(lo) & torch.isfinite(hi)
    centre = torch.where(bounded, 0.5 * lo + 0.5 * hi, 0.0)
    radius = torch.where(bounded & (lo != hi), above(torch.maximum(hi - centre, centre - lo)), 0.0)
    if ball is not None:
        centre[:, :-1], radius[:, :-1] = ball[0].flatten(), ball[1]
    values = [Interval(lo[:, :-1].reshape(-1, *shape), hi[:, :-1].reshape(-1, *shape))]
    linear = [torch.diag_embed(radius)[:, :, :-1].reshape(len(lo), count, *shape)]
    # Of an unbounded side there is no linear form; it is all remainder.
    ends = (torch.where(bounded, centre, e)[:, :-1].reshape(-1, *shape) for e in (lo, hi))
    rests = [Interval(*ends)]
    tau = (Interval(lo[:, -1], hi[:, -1]), centre[:, -1], radius[:, -1])
    for k, node in enumerate(graph.nodes[1:], start=1):
        xs = [values[i] for i in node.inputs]
        form, rest, plain = _through(node, xs, [linear[i] for i in node.inputs], [rests[i] for i in node.inputs], tau)
        size = form.abs().sum(1) if ball is None else torch.linalg.vector_norm(form, dim=1) + ROOT_TINY
        reach = above(size * (1.0 + WIDER * gamma(count)))
        value = Interval.outward(rest.lo - reach, rest.hi + reach).intersect(plain)
        value = value if outer is None else value.intersect(outer[k])
        sign = None if signs is None else signs.get(k)
        if sign is not None:
            value = Interval(
                torch.where(sign > 0, value.lo.clamp(min=0.0), value.lo), torch.where(sign < 0, value.hi.clamp(max=0.0), value.hi)
            )
        values.append(value)
        linear.append(form)
        rests.append(rest)
    for k, sign in ({} if signs is None else signs).items():
        least = torch.full_like(values[k].lo, 5e-324)
        values[k] = Interval(
            torch.where(sign > 0, torch.maximum(values[k].lo, least), values[k].lo),
            torch.where(sign < 0, torch.minimum(values[k].hi, -least), values[k].hi),
        )
    return Cells(values, linear)


def _through(
    node: Node, xs: list[Interval], forms: list[Tensor], rests: list[Interval], tau: tuple[Interval, Tensor, Tensor]
) -> tuple[Tensor, Interval, Interval]:
    op, x, form, rest = node.op, xs[0], forms[0], rests[0]
    if isinstance(op, Affine):
        linear, size = op.linear, partial(op.linear, absolute=True)
        new = linear(form)
        slack = WIDER * gamma(op.terms + 2)
        off = slack * (size(form.abs().sum(1)) + size(rest.magnitude()))
        rest, plain = (linear_image(v, linear, size, op.terms) for v in (rest, x))
        if op.offset is not None:
            lead = [-1] + [1] * len(op.shape)
            bias = op.offset.expand(op.shape)
            new[:, -1] += bias * tau[2].reshape(lead)
            rest = rest + Interval.point(bias) * Interval.point(tau[1].reshape(lead))
            plain = plain + Interval.point(bias) * tau[0].map(lambda t: t.reshape(lead))
            off = off + WIDER * UNIT * (new[:, -1].abs() + bias.abs())
        return new, _wider(rest, off), _wider(plain, slack * plain.magnitude())
    plain = op.enclose(*xs)
    if isinstance(op, Elementwise):
        line, left = _line(op, x)
        new = line[:, None] * form
        rest = Interval.point(line) * rest + left
        return new, _wider(rest, WIDER * UNIT * (new.abs().sum(1) + rest.magnitude())), plain
    if isinstance(op, Add):
        new, total = op.evaluate(*forms), op.enclose(*rests)
        size = sum((f.abs().sum(1) for f in forms), torch.zeros_like(total.lo))
        return new, _wider(total, WIDER * gamma(len(forms)) * size), plain
    if isinstance(op, Concat):
        return op.evaluate(*forms), op.enclose(*rests), plain
    return torch.zeros(form.shape[0], form.shape[1], *op.shape, dtype=form.dtype), plain, plain


def _wider(x: Interval, by: Tensor) -> Interval:
    return Interval.outward(x.lo - by, x.hi + by)


def _line(op: Elementwise, x: Interval) -> tuple[Tensor, Interval]:
    """A slope, and what the function differs by from the line of that slope through the origin."""
    if isinstance(op, LeakyRelu):
        slope = op.slope.expand(op.shape)
        crosses = (x.lo < 0) & (x.hi > 0)
        chord = (x.hi - slope * x.lo) / torch.where(crosses, x.hi - x.lo, 1.0)
        line = torch.where(crosses & torch.isfinite(chord), chord, torch.where(x.lo >= 0, 1.0, slope))
        ends = [(slope - line) * x.lo, torch.zeros_like(line), (1.0 - line) * x.hi]
        low, high = torch.stack(ends).amin(0), torch.stack(ends).amax(0)
        off = WIDER * UNIT * (1.0 + slope.abs()) * (x.lo.abs() + x.hi.abs())
        left = Interval.outward(low - off, high + off)
        # Of one sign the function is the line itself.
        zero = torch.zeros_like(line)
        return line, Interval(torch.where(crosses, left.lo, zero), torch.where(crosses, left.hi, zero))
    slopes = op.slopes(x)
    middle = torch.nan_to_num(0.5 * slopes.lo + 0.5 * slopes.hi, nan=0.0, posinf=0.0, neginf=0.0)
    at = torch.nan_to_num(0.5 * x.lo + 0.5 * x.hi, nan=0.0, posinf=0.0, neginf=0.0)
    line, point = Interval.point(middle), Interval.point(at)
    left = op.enclose(point) - line * point + (slopes - line) * (x - point)
    return middle, _wider(left, WIDER * UNIT * (left.magnitude() + at.abs() * middle.abs()))


def unstable(graph: Graph, values: list[Interval]) -> list[tuple[int, Tensor]]:
    """For every elementwise node whose slope is not one number: the node it reads, and where, ``[boxes, *shape]``."""
    found = []
    for node in graph.nodes[1:]:
        if isinstance(node.op, Elementwise):
            slopes = node.op.slopes(values[node.inputs[0]])
            found.append((node.inputs[0], (slopes.lo != slopes.hi).expand(values[node.inputs[0]].lo.shape)))
    return found


def whole_space(inputs: int, scale: Tensor, biases: bool) -> tuple[Tensor, Tensor]:
    """Boxes of ``(u, tau)`` so that every input but the origin is ``u / tau`` for one of them.

    They are the faces ``u_i = +-scale_i`` with tau in [0, 1], and the one with ``tau = 1``. Without biases tau does not matter, and
    the last is left out.

    Returns:
        lo, hi: ``[boxes, inputs + 1]``.
    """
    lo, hi = torch.cat([-scale, torch.zeros(1)]).repeat(2 * inputs, 1), torch.cat([scale, torch.ones(1)]).repeat(2 * inputs, 1)
    for i in range(inputs):
        hi[2 * i, i] = -scale[i]
        lo[2 * i + 1, i] = scale[i]
    if not biases:
        lo[:, -1] = 1.0
        return lo, hi
    lo, hi = (torch.cat([e, e[:1]]) for e in (lo, hi))
    lo[-1, :-1], hi[-1, :-1], lo[-1, -1] = -scale, scale, 1.0
    return lo, hi


def natural_scale(graph: Graph) -> float:
    """A length that holds most kinks of the first layer: twice the median distance of its hyperplanes from the origin."""
    for node in graph.nodes[1:]:
        if isinstance(node.op, Affine) and node.op.offset is not None and node.op.offset.any():
            rows = node.op.row_norms_2(torch.ones(node.op.in_shapes[0], dtype=torch.float64)).flatten()
            distance = node.op.offset.expand(node.op.shape).flatten().abs() / rows.clamp(min=1e-300)
            typical = 2.0 * distance.median().item()
            if 0 < typical < math.inf:
                return 2.0 ** round(math.log2(typical))
    return 1.0
