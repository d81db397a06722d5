"""Linear functions below rows of a node's output: one step of backward linear bound propagation, kind by kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from steepest.graph import Operator
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import gamma
from steepest.ops.kinds import Affine, Bilinear, Elementwise, Group
from steepest.ops.lines import lines


@dataclass(frozen=True, eq=False)
class Minorant:
    """``<a, f(x)> >= sum_i <parts_i, x_i> + constant - error`` for all x in the sets that the step was prepared for.

    Args:
        parts: one for each input of the node, ``[batch, rows, *in_shape]``; None for zero.
        constant: ``[batch, rows]``, possibly -inf.
        error: ``[batch, rows]``, non-negative: what rounding may have done.
    """

    parts: tuple[Tensor | None, ...]
    constant: Tensor
    error: Tensor


class Step(Protocol):
    """A node prepared for the sets of its inputs."""

    def below(self, a: Tensor) -> Minorant:
        """A minorant of rows ``[batch, rows, *shape]``."""
        ...


def dot(a: Tensor, *columns: Tensor) -> list[Tensor]:
    """``<a, column>`` for rows ``[batch, rows, *shape]`` and columns ``[batch, *shape]``, with ``0 inf = 0``."""
    flat = a.flatten(2)
    right = torch.stack([c.flatten(1).expand(len(flat), -1) for c in columns], -1)
    finite = torch.isfinite(right)
    if bool(finite.all()):
        return list((flat @ right).unbind(-1))
    found = flat @ torch.where(finite, right, 0.0)
    # An infinite end met by weights of either sign is unknown, and only ever used as a worst case: it is made -inf by the caller's sign.
    up = (flat.clamp(min=0.0) @ (right == torch.inf).double() > 0) | (flat.clamp(max=0.0) @ (right == -torch.inf).double() < 0)
    down = (flat.clamp(min=0.0) @ (right == -torch.inf).double() > 0) | (flat.clamp(max=0.0) @ (right == torch.inf).double() < 0)
    found = torch.where(up, torch.inf, found)
    return list(torch.where(down, -torch.inf, found).unbind(-1))


def size(shape: torch.Size) -> int:
    """Entries of a row."""
    return shape[2:].numel()


def least(a: Tensor, x: Interval) -> tuple[Tensor, Tensor]:
    """The least ``<a, x>`` over a box, and what rounding may have done to it; ``[batch, rows]`` each."""
    positive, negative = a.clamp(min=0.0), a.clamp(max=0.0)
    low, error = dot(positive, x.lo, x.magnitude())
    (high,) = dot(negative, x.hi)
    (other,) = dot(negative, x.magnitude())
    return low + high, gamma(size(a.shape) + 4) * (error - other)


@dataclass(frozen=True, eq=False)
class _Linear:
    op: Affine
    offset: Tensor | None
    reach: Tensor

    def below(self, a: Tensor) -> Minorant:
        (reach,) = dot(a.abs(), self.reach)
        constant = torch.zeros_like(reach) if self.offset is None else dot(a, self.offset)[0]
        return Minorant((self.op.adjoint(a),), constant, gamma(self.op.terms + size(a.shape) + 8) * reach)


@dataclass(frozen=True, eq=False)
class _Joined:
    op: Operator
    xs: tuple[Interval, ...]

    def below(self, a: Tensor) -> Minorant:
        zero = torch.zeros(a.shape[:2], dtype=torch.float64)
        # A sum or a concatenation hands its cotangent on as it is.
        return Minorant(tuple(part.lo for part in self.op.pullback(Interval.point(a), *self.xs)), zero, zero)


@dataclass(frozen=True, eq=False)
class _Curve:
    low: tuple[Tensor, Tensor]
    high: tuple[Tensor, Tensor]
    reach: Tensor

    def below(self, a: Tensor) -> Minorant:
        positive, negative = a.clamp(min=0.0), a.clamp(max=0.0)
        part = positive * self.low[0].unsqueeze(1) + negative * self.high[0].unsqueeze(1)
        constant = dot(positive, self.low[1])[0] + dot(negative, self.high[1])[0]
        (reach,) = dot(a.abs(), self.reach)
        return Minorant((part,), constant, gamma(size(a.shape) + 8) * reach)


@dataclass(frozen=True, eq=False)
class _Constant:
    value: Interval
    inputs: int

    def below(self, a: Tensor) -> Minorant:
        return Minorant((None,) * self.inputs, *least(a, self.value))


@dataclass(frozen=True, eq=False)
class _Product:
    """``B(x, y) = B(x, c) + B(b, y) - B(b, c) + B(x - b, y - c)`` with b, c the middles, and the last at most ``B(r, s)``, r, s the radii.

    Of all planes below a product over a box this one has the least largest gap (McCormick's are as far off in the middle and twice as
    far in a corner).
    """

    op: Bilinear
    middles: tuple[Interval, ...]
    sizes: tuple[Tensor, ...]
    middle: Interval
    rest: Tensor

    def below(self, a: Tensor) -> Minorant:
        parts, error = [], torch.zeros(a.shape[:2], dtype=torch.float64)
        for part, magnitude in zip(self.op.pullback(Interval.point(a), *self.middles), self.sizes, strict=True):
            middle, radius = part.centre_radius()
            parts.append(middle)
            error = error + dot(radius, magnitude)[0]
        low, off = least(-a, self.middle)
        (rest,) = dot(a.abs(), self.rest)
        return Minorant(tuple(parts), low - rest, error * (1.0 + gamma(size(a.shape))) + off + gamma(size(a.shape) + 8) * rest)


@dataclass(frozen=True, eq=False)
class _Mean:
    """Around the middle m of the set: ``<a, f(x) - f(m)>`` is ``<g, x - m>`` for some g in the pullback of a.

    With c and r the centre and radius of the pullback and s the set's radius, ``<g, x - m> >= <c, x - m> - <r, s>``. Where the node's
    plain enclosure is higher at m, that is used. Source: Lebourg's mean value theorem.
    """

    op: Group
    x: Interval
    middle: Tensor
    radius: Tensor
    at_middle: Interval
    value: Interval

    def below(self, a: Tensor) -> Minorant:
        centre, spread = self.op.pullback(Interval.point(a), self.x)[0].centre_radius()
        low, off = least(a, self.at_middle)
        plain, plain_off = least(a, self.value)
        shift, reach = dot(centre, self.middle)[0], dot(centre.abs(), self.middle.abs())[0]
        (lost,) = dot(spread, self.radius)
        use = low - lost > plain
        error = off + gamma(size(centre.shape) + 8) * (reach + lost + low.abs())
        return Minorant(
            (torch.where(use.reshape(*use.shape, *[1] * (centre.ndim - 2)), centre, 0.0),),
            torch.where(use, low - lost - shift, plain),
            torch.where(use, error, plain_off),
        )


def prepare(op: Operator, xs: tuple[Interval, ...], value: Interval) -> Step:
    """A node's step, for sets of its inputs.

    Args:
        op: any operator but the input.
        xs: ``[batch, *in_shape]``.
        value: encloses the output.
    """
    if isinstance(op, Affine):
        reach = torch.nan_to_num(op.linear(xs[0].magnitude(), absolute=True), nan=torch.inf, posinf=torch.inf)
        offset = None if op.offset is None else op.offset.expand(op.shape)[None]
        return _Linear(op, offset, reach if offset is None else reach + offset.abs())
    if isinstance(op, Elementwise):
        found = lines(op, xs[0])
        slope = torch.maximum(found.lower_slope.abs(), found.upper_slope.abs())
        offset = torch.maximum(found.lower_offset.abs(), found.upper_offset.abs())
        reach = torch.nan_to_num(slope * xs[0].magnitude(), nan=0.0) + offset
        return _Curve((found.lower_slope, found.lower_offset), (found.upper_slope, found.upper_offset), reach)
    bounded = all(bool(torch.isfinite(x.lo).all() and torch.isfinite(x.hi).all()) for x in xs)
    if isinstance(op, Bilinear):
        if not bounded:
            return _Constant(value, len(xs))
        parts = [x.centre_radius() for x in xs]
        middles = tuple(Interval.point(c) for c, _ in parts)
        rest = op.enclose(*(Interval.point(r) for _, r in parts)).hi
        return _Product(op, middles, tuple(x.magnitude() for x in xs), op.enclose(*middles), rest)
    if isinstance(op, Group):
        if not bounded:
            return _Constant(value, 1)
        middle, radius = xs[0].centre_radius()
        return _Mean(op, xs[0], middle, radius, op.enclose(Interval.point(middle)), value)
    return _Joined(op, xs)
