"""The Clarke Jacobian over the domain by linear propagation, row by row of the output."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.numerics.interval import Interval
from steepest.numerics.matrix_norm import dual_norm_above, interval_norm_above
from steepest.numerics.rounding import ROOT_TINY, UNIT, above, below, gamma, sum_above
from steepest.ops.backward import BackwardBounds
from steepest.ops.enclosures import Enclosures, is_bounded
from steepest.ops.kinds import Affine, Bilinear, Elementwise, Group
from steepest.ops.minorant import dot, least
from steepest.results import Domain, Step, UpperBound


@dataclass(frozen=True)
class LinearJacobian:
    """Linear bound propagation of the Clarke Jacobian.

    A row of the Jacobian is ``G_0``, with ``G_l = e_i`` at the output and ``G_k = sum J_r' G_r`` over the nodes r that read node k.
    Then ``<c, G_k> = sum <J_r c, G_r>``: a direction c at node k is pushed forward. Where ``J_r c`` depends on the point, its entries
    lie in intervals [a, b], each times an entry g of ``G_r``, and ``min(a g, b g)`` is concave: over the interval [l, u] already
    known of g it is at least its chord, a linear function of g, and the walk goes on with the chord's slope as direction, to the
    output, where G is known. On the way the sum is also bounded by the intervals of the G reached, which are better where chords have
    become too loose; so the result is never wider than interval propagation. Entries of G are bounded so in their order, from the
    output down, at the nodes with uncertain slopes, and finally at the input. For linf the row's sum of magnitudes is bounded as one:
    ``|J_j|`` is at most its chord over its interval, and the sum of chords is one more direction.

    Enclosures of the values are tightened by backward linear bounds first. Rounding: directions are off by at most ``gamma |W| |c|``,
    so their products with G by ``gamma <|W| |c|, |G|>``.

    Args:
        entries: most numbers in the widest tensor of a batch of rows.
        matrix: most entries of the whole Jacobian; beyond it the bound does not apply.
        work: most multiplications for the rows of one node, per sample; a node that needs more keeps its intervals.
        deadline: past it, the rest keeps its intervals.
        enclosures: of the nodes over the domain by backward linear bounds of this work, where they are known already.

    Source: Shi, Wang, Zhang, Kolter and Hsieh 2022; the walk is the adjoint of theirs, for any graph.
    """

    name: str = "linear-jacobian"
    entries: int = 2**21
    matrix: int = 2**20
    work: float = 2e10
    deadline: Deadline = field(default_factory=Deadline)
    enclosures: Enclosures | None = None

    def applies(self, graph: Graph, domain: Domain) -> bool:
        """Whether the domain is bounded and the Jacobian small enough to be written down."""
        return is_bounded(graph, domain) and math.prod(graph.shape) * math.prod(graph.input_shape) <= self.matrix

    def bound(self, graph: Graph, domain: Domain, norm: float) -> UpperBound:
        """Bound ``|f(x) - f(y)| <= L |x - y|`` for x, y in the domain, which must be convex and bounded.

        Args:
            graph: the network.
            domain: where x and y lie.
            norm: 1, 2 or inf, at both ends.

        Returns:
            The bound, infinite where some derivative is unbounded over its enclosure.
        """
        started = time.perf_counter()
        known = self.enclosures or Enclosures.over(graph, domain, BackwardBounds(self.entries, self.work, self.deadline))
        steps = (Step(len(graph.nodes) - 1, {"work": self.work}),)
        value = self.over(graph, [x.map(lambda t: t[None]) for x in known.values], norm)[0].item()
        return UpperBound(self.name, value, steps, time.perf_counter() - started, None)

    def over(self, graph: Graph, xs: Sequence[Interval], norm: float) -> Tensor:
        """Bound the norm of every Clarke Jacobian over enclosures, ``[batch]``.

        Args:
            graph: the network.
            xs: of every node, ``[batch, *node shape]``.
            norm: 1, 2 or inf, at both ends.
        """
        if norm == math.inf:
            return self.row_sums(graph, xs).amax(1)
        whole = self.rows(graph, xs, _identity(graph))
        return interval_norm_above(*whole.map(lambda t: t.flatten(2)).centre_radius(), norm)

    def row_sums(self, graph: Graph, xs: Sequence[Interval]) -> Tensor:
        """Bound the sum of magnitudes of each row of every Clarke Jacobian over enclosures, ``[batch, rows]``.

        Args:
            graph: the network.
            xs: of every node, ``[batch, *node shape]``.
        """
        rows = _Rows(self, graph, list(xs), _identity(graph))
        whole = rows.jacobian()
        plain = sum_above(whole.magnitude().flatten(2), 2)
        return torch.minimum(plain, rows.absolute_sums(whole))

    def row_lengths(self, graph: Graph, xs: Sequence[Interval], rows: Tensor, p: float) -> Tensor:
        """Bound ``<g, f>``'s constant in the lp norm of the inputs, for given rows g: the dual norm of every ``g' J``, ``[batch, count]``.

        Args:
            graph: the network.
            xs: of every node, ``[batch, *node shape]``.
            rows: ``[batch or 1, count, *shape]``.
            p: 1, 2 or inf.
        """
        found = _Rows(self, graph, list(xs), rows)
        whole = found.jacobian()
        magnitude = whole.magnitude().flatten(2)
        if p == math.inf:
            return torch.minimum(sum_above(magnitude, 2), found.absolute_sums(whole))
        return dual_norm_above(magnitude, p)

    def rows(self, graph: Graph, xs: Sequence[Interval], rows: Tensor) -> Interval:
        """Enclose ``g' J`` for given rows g and every Clarke Jacobian J over enclosures; margins, say.

        Args:
            graph: the network.
            xs: of every node, ``[batch, *node shape]``.
            rows: ``[batch or 1, count, *shape]``.

        Returns:
            ``[batch, count, *input_shape]``.
        """
        return _Rows(self, graph, list(xs), rows).jacobian()


def _identity(graph: Graph) -> Tensor:
    return torch.eye(math.prod(graph.shape), dtype=torch.float64).reshape(1, -1, *graph.shape)


class _Rows:
    """The cotangents G of all nodes, ``[batch, count, *node shape]``, as they become known from the output down."""

    def __init__(self, options: LinearJacobian, graph: Graph, xs: list[Interval], rows: Tensor) -> None:
        self.options, self.graph, self.xs = options, graph, xs
        self.batch, self.count = len(xs[0].lo), rows.shape[1]
        self.cotangents: dict[int, Interval] = {len(graph.nodes) - 1: Interval.point(rows.expand(self.batch, *rows.shape[1:]))}
        self.readers = [[r for r, node in enumerate(graph.nodes) if k in node.inputs] for k in range(len(graph.nodes))]
        self.reach: dict[int, Tensor] = {}
        self.curves: dict[int, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = {}

    def jacobian(self) -> Interval:
        """Around ``G_0``."""
        pending = dict(self.cotangents)
        for k in range(len(self.graph.nodes) - 1, -1, -1):
            if k not in pending:
                continue
            found = pending.pop(k)
            if k < len(self.graph.nodes) - 1:
                found = self._refined(k, found)
            self.cotangents[k] = found
            if k == 0:
                break
            node = self.graph.nodes[k]
            for i, part in zip(node.inputs, node.op.pullback(found, *(self.xs[j] for j in node.inputs)), strict=True):
                pending[i] = pending[i] + part if i in pending else part
        if 0 not in self.cotangents:
            zero = torch.zeros(self.batch, self.count, *self.graph.input_shape, dtype=torch.float64)
            self.cotangents[0] = Interval.point(zero)
        return self.cotangents[0]

    def absolute_sums(self, whole: Interval) -> Tensor:
        """Upper bounds of the rows' sums of magnitudes, ``[batch, count]``."""
        low, high = whole.lo.flatten(2), whole.hi.flatten(2)
        finite = (torch.isfinite(low) & torch.isfinite(high)).all(-1)
        low, high = (torch.nan_to_num(t, posinf=0.0, neginf=0.0) for t in (low, high))
        crosses = (low < 0) & (high > 0)
        # |t| <= slope t + offset: the chord through (low, -low) and (high, high); the offset makes good for the slope's rounding.
        slope = torch.where(crosses, (high + low) / (high - low), torch.where(low >= 0, 1.0, -1.0)).clamp(-1.0, 1.0)
        offset = torch.where(crosses, above(torch.maximum(-low - slope * low, high - slope * high) + 8.0 * UNIT * (high - low)), 0.0)
        start = slope.reshape(self.batch, self.count, 1, *self.graph.input_shape)
        least_ = self._below(0, -start)[..., 0]
        total = above(offset.sum(-1) * (1.0 + gamma(offset.shape[-1])) - least_)
        return torch.where(finite, total, math.inf)

    def _refined(self, k: int, found: Interval) -> Interval:
        uncertain = self._uncertain(k, found).flatten(2)
        most = int(uncertain.sum(2).max())
        price = 2.0 * most * self.count * self._price(k)
        if most == 0 or price > self.options.work or self.options.deadline.passed():
            return found
        picked = torch.argsort(uncertain.to(torch.int8), dim=2, descending=True, stable=True)[..., :most]
        widest = max(math.prod(node.shape) for node in self.graph.nodes[k:])
        step = max(1, self.options.entries // (2 * self.batch * self.count * widest))
        lo, hi = found.lo.flatten(2).clone(), found.hi.flatten(2).clone()
        for part in picked.split(step, 2):
            one = torch.zeros(*part.shape, lo.shape[2], dtype=torch.float64).scatter_(3, part[..., None], 1.0)
            rows = torch.cat([one, -one], 2).reshape(self.batch, self.count, -1, *self.graph.nodes[k].shape)
            below_ = self._below(k, rows)
            low, high = below_[..., : part.shape[2]], -below_[..., part.shape[2] :]
            # Rows with fewer such entries than others are filled up with some that are left as they are.
            meant = uncertain.gather(2, part)
            lo.scatter_(2, part, torch.where(meant, torch.maximum(lo.gather(2, part), low), lo.gather(2, part)))
            hi.scatter_(2, part, torch.where(meant, torch.minimum(hi.gather(2, part), high), hi.gather(2, part)))
        return Interval(lo.reshape(found.lo.shape), hi.reshape(found.hi.shape))

    def _uncertain(self, k: int, found: Interval) -> Tensor:
        """Entries worth a walk: of the input and of a group's output all; of an elementwise node's those of uncertain sign and slope."""
        unknown = found.lo < found.hi
        if k == 0:
            return unknown
        node = self.graph.nodes[k]
        if isinstance(node.op, Elementwise):
            slopes = node.op.slopes(self.xs[node.inputs[0]])
            bent = (slopes.lo != slopes.hi).expand(self.batch, *node.shape)[:, None]
            return unknown & bent & (found.lo < 0) & (found.hi > 0)
        return unknown if isinstance(node.op, (Group, Bilinear)) else torch.zeros_like(unknown)

    def _price(self, k: int) -> float:
        """Multiplications for one direction from node k to the output."""
        price, reached = 0.0, {k}
        for i, node in enumerate(self.graph.nodes[k + 1 :], start=k + 1):
            if reached & set(node.inputs):
                reached.add(i)
                price += math.prod(node.shape) * (node.op.terms if isinstance(node.op, Affine) and not node.op.keeps_entries_apart else 4.0)
        return price

    def _below(self, k: int, directions: Tensor) -> Tensor:
        """Lower bounds of ``<c, G_k>`` for directions c, ``[batch, count, rows, *node shape]``; ``[batch, count, rows]``."""
        lead, last = directions.shape[:3], len(self.graph.nodes) - 1
        pending = {k: directions}
        left = {k: len(self.readers[k])}
        constant, error, total = (torch.zeros(lead, dtype=torch.float64) for _ in range(3))
        best = torch.full(lead, -math.inf, dtype=torch.float64)
        for r in range(k + 1, last + 1):
            node = self.graph.nodes[r]
            sources = [i for i in node.inputs if i in pending]
            if not sources:
                continue
            if not isinstance(node.op, Affine) and all(left[i] == len(self.readers[i]) for i in pending) and k not in pending:
                best = torch.maximum(best, self._settled(pending, constant, error, total))
            if isinstance(node.op, Elementwise):
                pending[r], offset, lost = self._bent(r, pending[node.inputs[0]])
            else:
                moved = self._pushed(r, pending)
                if isinstance(node.op, Affine):
                    reach = self._dot(pending[node.inputs[0]].abs(), self._reach(r))[0]
                    error = error + gamma(node.op.terms + math.prod(node.shape) + 8) * reach
                pending[r], offset, lost = self._chords(moved, self.cotangents[r])
            constant, error, total = constant + offset, error + lost, total + offset.abs()
            left[r] = len(self.readers[r])
            for i in set(sources):
                left[i] -= 1
                if left[i] == 0:
                    del pending[i], left[i]
        return torch.maximum(best, self._settled(pending, constant, error, total))

    def _pushed(self, r: int, pending: dict[int, Tensor]) -> Interval:
        """The directions at node r, before its own."""
        node = self.graph.nodes[r]
        lead = next(iter(pending.values())).shape[:3]
        zero = (
            torch.zeros(1, 1, *self.graph.nodes[i].shape, dtype=torch.float64).expand(
                lead[0], lead[1] * lead[2], *self.graph.nodes[i].shape
            )
            for i in node.inputs
        )
        given = tuple(pending[i].flatten(1, 2) if i in pending else nothing for i, nothing in zip(node.inputs, zero, strict=True))
        moved = node.op.push(given, *(self.xs[i] for i in node.inputs))
        low = moved.lo.reshape(*lead, *node.shape)
        return Interval.point(low) if moved.lo is moved.hi else Interval(low, moved.hi.reshape(*lead, *node.shape))

    def _reach(self, r: int) -> Tensor:
        """``|W|' |G_r|``, ``[batch, count, *in_shape]``."""
        if r not in self.reach:
            op = self.graph.nodes[r].op
            assert isinstance(op, Affine)
            self.reach[r] = torch.nan_to_num(op.adjoint(self.cotangents[r].magnitude(), absolute=True), nan=math.inf, posinf=math.inf)
        return self.reach[r]

    def _bent(self, r: int, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The chords of an elementwise node, whose slopes times c are ``|c|`` times those for 1 or for -1: prepared once."""
        if r not in self.curves:
            node, g = self.graph.nodes[r], self.cotangents[r]
            assert isinstance(node.op, Elementwise)
            slopes = node.op.slopes(self.xs[node.inputs[0]]).map(lambda t: t.expand(self.batch, *node.shape)[:, None, None])
            up = _chord(slopes.lo, slopes.hi, g)
            down = _chord(-slopes.hi, -slopes.lo, g)
            (p, o), (q, u) = up, (-down[0], down[1])
            reach = torch.nan_to_num(slopes.magnitude() * g.magnitude().unsqueeze(2), nan=0.0)
            even, odd = 0.5 * (p + q), 0.5 * (p - q)
            shift, gap = 0.5 * o - 0.5 * u, 0.5 * o + 0.5 * u
            self.curves[r] = even, odd, shift.squeeze(2), gap.squeeze(2), reach.squeeze(2)
        even, odd, shift, gap, reach = self.curves[r]
        size = c.abs()
        (first,), (second, most) = self._dot(c, shift), self._dot(size, gap, reach)
        return torch.addcmul(c * even, size, odd), first + second, 16.0 * gamma(math.prod(c.shape[3:]) + 8) * most

    def _chords(self, moved: Interval, g: Interval) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes of functions below ``min(a g, b g)`` for g in [l, u], the sum of their offsets, and what rounding may have done."""
        if moved.lo is moved.hi:
            zero = torch.zeros(moved.lo.shape[:3], dtype=torch.float64)
            return moved.lo, zero, zero
        low, high = moved.lo, moved.hi
        slope, offset = _chord(low, high, g)
        size = torch.nan_to_num(torch.maximum(low.abs(), high.abs()), posinf=0.0)
        lost = 8.0 * gamma(math.prod(low.shape[3:]) + 8) * self._dot(size, g.magnitude())[0]
        return slope, offset.flatten(3).sum(3), lost

    def _dot(self, c: Tensor, *gs: Tensor) -> list[Tensor]:
        """``<c, g>`` for directions ``[batch, count, rows, *shape]`` and ``[batch, count, *shape]``."""
        return [t.reshape(c.shape[:3]) for t in dot(c.flatten(0, 1), *(g.flatten(0, 1) for g in gs))]

    def _settled(self, pending: dict[int, Tensor], constant: Tensor, error: Tensor, total: Tensor) -> Tensor:
        """Lower bounds by the intervals of the cotangents reached."""
        for i, c in pending.items():
            part, lost = (t.reshape(c.shape[:3]) for t in least(c.flatten(0, 1), self.cotangents[i].map(lambda t: t.flatten(0, 1))))
            constant, error, total = constant + part, error + lost, total + part.abs()
        found = below(constant - 2.0 * (error + gamma(2 * len(self.graph.nodes) + 8) * total) - ROOT_TINY)
        return torch.nan_to_num(found, nan=-math.inf, neginf=-math.inf)


def _chord(low: Tensor, high: Tensor, g: Interval) -> tuple[Tensor, Tensor]:
    """Slope and offset of a line below ``min(low g, high g)`` for g in an interval.

    Args:
        low, high: ``[batch, count, rows, *shape]``.
        g: ``[batch, count, *shape]``.
    """
    least, most = g.lo.unsqueeze(2), g.hi.unsqueeze(2)
    crosses = (least < 0) & (most > 0)
    share = torch.nan_to_num(torch.where(crosses, most / (most - least), torch.where(least >= 0, 1.0, 0.0)), nan=0.5)
    slope = torch.where(low == high, low, share * low + (1.0 - share) * high)
    offset = torch.where(crosses & (low != high), torch.minimum((low - slope) * most, (high - slope) * least), 0.0)
    unknown = ~(torch.isfinite(slope) & torch.isfinite(offset))
    if bool(unknown.any()):
        slope = torch.where(unknown, 0.0, slope)
        offset = torch.where(unknown, torch.where((least == 0) & (most == 0), 0.0, -math.inf), offset)
    return slope, offset
