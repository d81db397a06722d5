"""Enclosures of every node by backward linear bound propagation over balls and boxes, many at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import ROOT_TINY, below, gamma
from steepest.ops.kinds import Affine, Bilinear, Elementwise, Group
from steepest.ops.minorant import Step, dot, least, prepare, size
from steepest.ops.region import enclose_region
from steepest.results import Domain

WIDER = 8.0
"""Margin over rounding errors, so that whoever encloses again by other formulas stays inside."""


@dataclass(frozen=True, eq=False)
class Region:
    """Sets of inputs, one for each entry of a batch: a box, or a ball within a box.

    Args:
        box: ``[batch, *input_shape]``, finite where there is no ball.
        centre, radius: ``[batch, *input_shape]`` and ``[batch]``, of balls that hold all inputs spoken of, or None.
        p: their norm, 1, 2 or inf.
    """

    box: Interval
    centre: Tensor | None = None
    radius: Tensor | None = None
    p: float = math.inf

    @staticmethod
    def of_domain(domain: Domain, shape: tuple[int, ...]) -> Region:
        """The domain of a bound, a batch of one."""
        box = Interval(*(torch.from_numpy(end.copy())[None] for end in domain.bounds(shape)))
        if domain.kind != "ball" or domain.norm == math.inf:
            return Region(box)
        assert domain.centre is not None and domain.radius is not None and domain.norm is not None
        centre = torch.from_numpy(domain.centre.reshape(1, *shape).copy())
        return Region(box, centre, torch.tensor([domain.radius], dtype=torch.float64), domain.norm)

    @staticmethod
    def of_ball(centre: Tensor, radius: Tensor, p: float, within: Interval | None = None) -> Region:
        """Balls around ``centre`` of ``[batch, *input_shape]``, cut to a box of one input's shape or of the batch's."""
        reach = radius.reshape(-1, *[1] * (centre.ndim - 1)).expand(centre.shape)
        box = Interval.outward(centre - reach, centre + reach)
        box = box if within is None else box.intersect(within)
        return Region(box) if p == math.inf else Region(box, centre, radius, p)

    def least(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The least ``<a, x>``, and what rounding may have done to it; of box and ball, which is higher."""
        low, error = least(a, self.box)
        if self.centre is None:
            return low, error
        assert self.radius is not None
        flat, count = a.flatten(2), size(a.shape)
        # By the dual norm; squares are scaled so that they neither overflow nor vanish.
        if self.p == 1:
            dual = flat.abs().amax(-1)
        else:
            top = flat.abs().amax(-1, keepdim=True)
            scale = torch.where((top > 0) & torch.isfinite(top), top, 1.0)
            dual = (flat / scale).square().sum(-1).sqrt() * scale[..., 0] + ROOT_TINY
        middle, reach = dot(a, self.centre)[0], dot(a.abs(), self.centre.abs())[0]
        shift = dual * self.radius[:, None]
        other, off = middle - shift, gamma(count + 8) * (reach + shift)
        better = other - off > low - error
        return torch.where(better, other, low), torch.where(better, off, error)


@dataclass(frozen=True)
class BackwardBounds:
    """Backward linear bound propagation (CROWN), intersected with intervals.

    A row of a node's output is bounded from below by a linear function of what the node reads, that by one of what those nodes read,
    and so on to the inputs, where the least value over the region is known by the dual norm; and on the way over the boxes already
    known of the nodes that are reached, which is better where the lines have become too loose. Every nonlinearity's lines need its
    input's enclosure, so nodes are bounded in their order: those read by nonlinear nodes, and the output, backwards, and of these
    only the entries at which some slope is uncertain. Everything else is enclosed by intervals from what it reads. Each rounding
    error is bounded by ``gamma(terms) |row| |term|``, with the sizes of terms known from the enclosures, and subtracted. The
    enclosures are never wider than those of plain intervals.

    Args:
        entries: most numbers in the widest tensor of a batch of rows.
        work: most multiplications for the rows of one node and sample; a node that needs more is left to intervals.
        deadline: past it, nodes are left to intervals.

    Source: Zhang et al. 2018 (CROWN); Xu et al. 2020 (general graphs).
    """

    entries: int = 2**21
    work: float = 2e10
    deadline: Deadline = field(default_factory=Deadline)

    def over(self, graph: Graph, region: Region, known: Sequence[Interval] | None = None) -> list[Interval]:
        """Sets that hold every node's output, ``[batch, *node shape]``.

        Args:
            graph: the network.
            region: the inputs.
            known: enclosures of every node that hold for all inputs spoken of, ``[batch, *node shape]``, by which the result is cut:
            signs that
                were assumed, say. Only such inputs are spoken of then; an empty set, ``lo > hi``, says that there are none.
        """
        step = self._together(graph)
        if len(region.box.lo) > step:
            parts = [self.over(graph, *_cut(region, known, i, i + step)) for i in range(0, len(region.box.lo), step)]
            return [Interval(torch.cat([p[k].lo for p in parts]), torch.cat([p[k].hi for p in parts])) for k in range(len(graph.nodes))]
        return self._walked(graph, region, known, _wanted(graph) | {len(graph.nodes) - 1}).values

    def floors(self, graph: Graph, region: Region, rows: Tensor) -> tuple[list[Interval], Tensor]:
        """Enclosures of every node, and lower bounds of rows of the output over the region; the output is enclosed by intervals alone.

        Args:
            graph: the network.
            region: the inputs.
            rows: ``[batch, count, *shape]``.

        Returns:
            Of every node ``[batch, *node shape]``; and ``[batch, count]``, the least ``<row, f(x)>`` or less, possibly -inf.
        """
        step = self._together(graph)
        if len(rows) > step:
            parts = [self.floors(graph, _cut(region, None, i, i + step)[0], rows[i : i + step]) for i in range(0, len(rows), step)]
            nodes = range(len(graph.nodes))
            values = [Interval(torch.cat([v[k].lo for v, _ in parts]), torch.cat([v[k].hi for v, _ in parts])) for k in nodes]
            return values, torch.cat([low for _, low in parts])
        walk = self._walked(graph, region, None, _wanted(graph))
        widest = max(math.prod(node.shape) for node in graph.nodes)
        few = max(1, self.entries // (len(rows) * widest))
        return walk.values, torch.cat([walk.below(len(graph.nodes) - 1, part) for part in rows.split(few, 1)], 1)

    def _together(self, graph: Graph) -> int:
        return max(1, self.entries // (8 * max(math.prod(node.shape) for node in graph.nodes)))

    def _walked(self, graph: Graph, region: Region, known: Sequence[Interval] | None, wanted: set[int]) -> _Walk:
        plain = enclose_region(graph, region.box, region.centre, region.radius, region.p)
        walk = _Walk(graph, region, self.entries, [], [])
        exact = _exact(graph, region.p)
        for k, node in enumerate(graph.nodes):
            xs = tuple(walk.values[i] for i in node.inputs)
            value = plain[k] if k == 0 else node.op.enclose(*xs).intersect(plain[k])
            value = value if known is None else value.intersect(known[k])
            if k in wanted and not exact[k] and not self.deadline.passed():
                value = self._refined(walk, k, value)
            walk.values.append(value)
            walk.steps.append(None if k == 0 else prepare(node.op, xs, value))
        return walk

    def _refined(self, walk: _Walk, k: int, value: Interval) -> Interval:
        uncertain = _uncertain(walk.graph, k, value).flatten(1)
        most = int(uncertain.sum(1).max())
        if most == 0 or 2.0 * most * _price(walk.graph, k) > self.work:
            return value
        picked = torch.argsort(uncertain.to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
        widest = max(math.prod(node.shape) for node in walk.graph.nodes[: k + 1])
        step = max(1, self.entries // (2 * len(picked) * widest))
        lo, hi = value.lo.flatten(1).clone(), value.hi.flatten(1).clone()
        for part in picked.split(step, 1):
            one = torch.zeros(*part.shape, lo.shape[1], dtype=torch.float64).scatter_(2, part[..., None], 1.0)
            found = walk.below(k, torch.cat([one, -one], 1).reshape(len(part), -1, *walk.graph.nodes[k].shape))
            low, high = found[:, : part.shape[1]], -found[:, part.shape[1] :]
            # Samples with fewer such entries than others are filled up with some that are left as they are.
            meant = uncertain.gather(1, part)
            lo.scatter_(1, part, torch.where(meant, torch.maximum(lo.gather(1, part), low), lo.gather(1, part)))
            hi.scatter_(1, part, torch.where(meant, torch.minimum(hi.gather(1, part), high), hi.gather(1, part)))
        return Interval(lo.reshape(value.lo.shape), hi.reshape(value.hi.shape))


@dataclass(frozen=True, eq=False)
class _Walk:
    graph: Graph
    region: Region
    entries: int
    values: list[Interval]
    steps: list[Step | None]

    def below(self, k: int, rows: Tensor) -> Tensor:
        """Lower bounds of ``<row, node k>`` over the region, ``[batch, rows]``."""
        pending = {k: rows}
        best = torch.full(rows.shape[:2], -math.inf, dtype=torch.float64)
        constant, error, total = (torch.zeros(rows.shape[:2], dtype=torch.float64) for _ in range(3))

        def settle() -> Tensor:
            low, off, most = constant, error, total
            for i, a in pending.items():
                part, lost = self.region.least(a) if i == 0 else least(a, self.values[i])
                low, off, most = low + part, off + lost, most + part.abs()
            found = below(low - WIDER * (off + gamma(2 * len(self.values) + 8) * most) - ROOT_TINY)
            return torch.maximum(best, torch.nan_to_num(found, nan=-math.inf, neginf=-math.inf))

        for i in range(k, 0, -1):
            if i not in pending:
                continue
            node = self.graph.nodes[i]
            if i < k and not isinstance(node.op, Affine):
                best = settle()
            step = (
                self.steps[i]
                if i < k
                else prepare(node.op, tuple(self.values[j] for j in node.inputs), Interval.whole(rows.shape[:1] + node.shape))
            )
            assert step is not None
            found = step.below(pending.pop(i))
            constant, error, total = constant + found.constant, error + found.error, total + found.constant.abs()
            for j, part in zip(node.inputs, found.parts, strict=True):
                if part is None:
                    continue
                if j in pending:
                    error = error + gamma(4) * dot(pending[j].abs() + part.abs(), self.values[j].magnitude())[0]
                    pending[j] = pending[j] + part
                else:
                    pending[j] = part
        return settle()


def _cut(region: Region, known: Sequence[Interval] | None, first: int, last: int) -> tuple[Region, list[Interval] | None]:
    def part(t: Tensor) -> Tensor:
        return t[first:last]

    cut = Region(
        region.box.map(part),
        None if region.centre is None else part(region.centre),
        None if region.radius is None else part(region.radius),
        region.p,
    )
    return cut, None if known is None else [x.map(part) for x in known]


def _wanted(graph: Graph) -> set[int]:
    """Nodes that something nonlinear reads."""
    found: set[int] = set()
    for node in graph.nodes[1:]:
        if isinstance(node.op, (Elementwise, Group, Bilinear)):
            found.update(node.inputs)
    return found


def _exact(graph: Graph, p: float) -> list[bool]:
    """Where plain enclosures are the best there are: inputs, moved and scaled, and but for p = 1 the first affine map of these."""
    apart, exact = [True], [True]
    for node in graph.nodes[1:]:
        first = isinstance(node.op, Affine) and apart[node.inputs[0]]
        apart.append(first and isinstance(node.op, Affine) and node.op.keeps_entries_apart)
        exact.append(apart[-1] or (first and p != 1))
    return exact


def _uncertain(graph: Graph, k: int, value: Interval) -> Tensor:
    """Entries of which a better enclosure can help: all, or where only elementwise nodes read them, those of uncertain slope."""
    readers = [node.op for node in graph.nodes[1:] if k in node.inputs]
    if not readers or not all(isinstance(op, (Elementwise, Affine)) for op in readers):
        return value.lo < value.hi
    found = torch.zeros(value.lo.shape, dtype=torch.bool)
    for op in readers:
        if isinstance(op, Elementwise):
            slopes = op.slopes(value)
            found = found | (slopes.lo != slopes.hi)
    return found & (value.lo < value.hi)


def _price(graph: Graph, k: int) -> float:
    """Multiplications for one row of node k."""
    needed, price = {k}, 0.0
    for i in range(k, 0, -1):
        if i in needed:
            node = graph.nodes[i]
            needed.update(node.inputs)
            price += math.prod(node.shape) * (node.op.terms if isinstance(node.op, Affine) and not node.op.keeps_entries_apart else 4.0)
    return price


def tighten_domain(graph: Graph, domain: Domain, bounds: BackwardBounds | None = None) -> list[Interval]:
    """As ``enclose_domain``, by backward linear bounds: of one sample, ``[*node shape]``."""
    region = Region.of_domain(domain, graph.input_shape)
    return [x.map(lambda t: t[0]) for x in (bounds or BackwardBounds()).over(graph, region)]


def tighten_ball(
    graph: Graph, centre: Tensor, radius: Tensor, p: float, within: Interval | None = None, bounds: BackwardBounds | None = None
) -> list[Interval]:
    """As ``enclose_ball``, by backward linear bounds.

    Args:
        graph: the network.
        centre: ``[*lead, *input_shape]``, float64.
        radius: ``[*lead]``, non-negative.
        p: 1, 2 or inf.
        within: a box of one input's shape that holds all inputs, or None.
        bounds: options.

    Returns:
        Of every node, ``[*lead, *node shape]``.
    """
    lead = radius.shape
    region = Region.of_ball(centre.reshape(-1, *graph.input_shape), radius.reshape(-1), p, within)
    found = (bounds or BackwardBounds()).over(graph, region)
    return [x.map(lambda t: t.reshape(*lead, *t.shape[1:])) for x in found]
