"""Splitting the inputs: the largest of the bounds over pieces that cover the domain, the worst piece cut first."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.numerics.interval import Interval
from steepest.ops.cells import Cells, enclose_cells, natural_scale, positively_homogeneous, unstable, whole_space, without_biases
from steepest.ops.enclosures import Enclosures, is_bounded
from steepest.ops.kinds import Affine
from steepest.ops.piecewise import LeakyRelu
from steepest.results import Domain, UpperBound
from steepest.results.cover import Cover

MARGIN = 1e-6
"""By how much the bound is raised above the worst piece, so that every piece can be proven in floating point."""


LESS = 0.9
"""Multipliers are looked for anew in a piece with at most this share of the neurons of uncertain slope of the last one that has them."""

FEW = 3
"""Where so few neurons are uncertain the sign of one is fixed instead of cutting the box."""

QUICK = 0.25
"""Share of the time that goes to a search without multipliers, which where they are slow is the better one."""


class Inner(Protocol):
    """A bound over one piece by multipliers, found from a neighbour's."""

    def tighten(self, graph: Graph, values: list[Interval], near: Any, deadline: Deadline) -> Any | None:
        """Something with ``value`` and, by node, ``inverse``."""
        ...

    def proves(self, graph: Graph, values: list[Interval], found: Any, bound: float) -> bool:
        """Whether it proves the bound."""
        ...


@dataclass(eq=False)
class _Piece:
    """A box of ``(u, tau)`` and signs of some neurons; ``key`` is the least bound known of it, its own or one of a piece that holds it.

    ``coordinate`` is where to cut it next, numbered as in a ``Cover``, or -1; ``stuck`` counts cuts since uncertain neurons became fewer.
    """

    lo: Tensor
    hi: Tensor
    signs: dict[int, int]
    key: float
    quick: float
    uncertain: int
    coordinate: int
    cut: float
    last_tried: int
    near: Any
    stuck: int = 0
    found: Any = None
    tried: bool = False
    children: tuple[_Piece, _Piece] | None = None

    @property
    def own(self) -> float:
        return min(self.quick, math.inf if self.found is None else self.found.value)


@dataclass(frozen=True)
class Splitting:
    """Branch and bound over the inputs, for networks with few of them.

    Each piece is a box, perhaps with the signs of some neurons, over which enclosures that are linear in the inputs fix most slopes once
    it is small. It is bounded by the intervals of the Clarke Jacobian or, in l2, by multipliers with the slopes of the piece; both bound
    ``|f(x) - f(y)| <= L |x - y|`` for any two inputs of the piece, convex or not, since between two values that an enclosure holds every
    nonlinearity has a slope that it allows. On a segment within the domain f is absolutely continuous, and almost every point of it
    is one of density of some closed piece, where secants within the piece give the derivative: so the largest L is one of the domain.

    Over all inputs of a positively homogeneous network (ReLU and its like) x is written ``u / tau`` with ``(u, tau)`` on the surface of
    a cube: with biases times tau every neuron has the sign at u that it has at x, so that finitely many boxes cover all of R^n.

    Args:
        quick: norm bounds of the Jacobian over a batch of enclosures, ``[boxes]``.
        inner: in l2, multipliers.
        deadline: when to return.
        entries: most numbers in the linear forms of a node over one box.
        inputs: most of them for boxes, which are of little use beyond.
        gates: or most neurons in all, of which then only the signs are told apart: the norm of the Jacobian is convex in each slope, so
            its maximum over all patterns of ends is one over all slopes, the exact gate maximum of SeqLip in one piece.
        pieces: most of them.
        batch: pieces cut at once.
        enclosures: of the nodes over the domain, where they are known already.

    Source: Jordan and Dimakis 2020 and Bhowmick et al. 2021 (LipBaB) for branch and bound on Lipschitz constants; Virmaux and
    Scaman 2018 (SeqLip) for the maximum over gates.
    """

    quick: Callable[[Graph, list[Interval], float], Tensor]
    inner: Inner | None = None
    deadline: Deadline = field(default_factory=lambda: Deadline.after(20.0))
    inputs: int = 12
    gates: int = 12
    entries: int = 2**21
    pieces: int = 20000
    batch: int = 16
    enclosures: Enclosures | None = None
    name: str = "splitting"

    def applies(self, graph: Graph, domain: Domain) -> bool:
        """Whether the domain is bounded, or the network has few neurons, or few inputs and is positively homogeneous."""
        if math.prod(graph.input_shape) * max(math.prod(n.shape) for n in graph.nodes) > self.entries:
            return False
        return is_bounded(graph, domain) or self.signs(graph) or self.boxes(graph, domain)

    def signs(self, graph: Graph) -> bool:
        """Whether neurons are so few that their signs may be told apart."""
        return _neurons(graph) <= self.gates

    def boxes(self, graph: Graph, domain: Domain) -> bool:
        """Whether the inputs are cut; else signs alone are told apart where neurons are few, and the domain is one piece otherwise."""
        return math.prod(graph.input_shape) <= self.inputs and (is_bounded(graph, domain) or positively_homogeneous(graph))

    def bound(self, graph: Graph, domain: Domain, norm: float) -> UpperBound:
        """Bound ``|f(x) - f(y)| <= L |x - y|`` for x, y in the domain, which must be convex.

        Args:
            graph: the network.
            domain: where x and y lie.
            norm: 1, 2 or inf, at both ends.

        Returns:
            The bound with the cover that proves it.
        """
        quick = self.inner is None or norm != 2.0
        if not quick and not self.boxes(graph, domain) and not self.signs(graph):
            return _Search(self, graph, domain, norm, self.inner, self.deadline).run().upper
        first = _Search(self, graph, domain, norm, None, self.deadline if quick else self.deadline.share(QUICK)).run()
        if quick or first.exhausted or self.deadline.passed():
            return first.upper
        second = _Search(self, graph, domain, norm, self.inner, self.deadline).run()
        return min(first.upper, second.upper, key=lambda u: u.value)


def _neurons(graph: Graph) -> int:
    return sum(math.prod(n.shape) for n in graph.nodes[1:] if not isinstance(n.op, Affine))


@dataclass(frozen=True)
class _Outcome:
    """A bound, and whether a slope of about that size was met, so that nothing is left to find."""

    upper: UpperBound
    exhausted: bool


class _Search:
    def __init__(self, options: Splitting, graph: Graph, domain: Domain, norm: float, inner: Inner | None, deadline: Deadline) -> None:
        self.options, self.graph, self.norm, self.inner, self.deadline = options, graph, norm, inner, deadline
        count = math.prod(graph.input_shape)
        self.scale = torch.full((count,), natural_scale(graph), dtype=torch.float64)
        self.outer: list[Interval] | None = None
        self.work: float | None = None
        self.boxes = options.boxes(graph, domain)
        self.signs = self.boxes or options.signs(graph)
        # An l1 ball lies in the l2 ball of its radius; once the box is cut, it is no longer the one around the ball.
        self.ball: tuple[Tensor, float] | None = None
        if domain.kind == "ball" and domain.norm != math.inf:
            assert domain.centre is not None and domain.radius is not None
            self.ball = torch.from_numpy(domain.centre), domain.radius
        if not self.boxes or is_bounded(graph, domain):
            known = options.enclosures or Enclosures.over(graph, domain)
            self.outer, self.work = known.values, known.work
            self.scale = self.scale[:0]
            one = torch.ones(1, dtype=torch.float64)
            lo, hi = domain.bounds(graph.input_shape)
            self.roots = tuple(torch.cat([torch.from_numpy(e.flatten()), one])[None] for e in (lo, hi))
        else:
            self.roots = whole_space(count, self.scale, not without_biases(graph))
        self.started = time.perf_counter()
        self.history: list[tuple[float, float]] = []
        # Entries of all nodes, numbered; and the nodes that only functions with a kink at zero read.
        self.firsts = list(itertools.accumulate((math.prod(n.shape) for n in graph.nodes), initial=0))[:-1]
        readers = [(i, node.op) for node in graph.nodes[1:] for i in node.inputs]
        self.kinks = {i for i, _ in readers} - {i for i, op in readers if not isinstance(op, LeakyRelu)}
        self.near: Any = None
        self.generator = torch.Generator().manual_seed(0)
        self.proof_time = 0.0
        self.tightened = 0
        self.count = 0

    def run(self) -> _Outcome:
        deadline = self.deadline
        roots = self._measured(
            [_Piece(lo, hi, {}, math.inf, math.inf, 2**60, -1, 0.0, 0, None) for lo, hi in zip(*self.roots, strict=True)]
        )
        serial = itertools.count()
        heap = [(-p.key, next(serial), p) for p in roots]
        heapq.heapify(heap)
        floor, exhausted = 0.0, False
        while heap and not self._late(deadline) and self.count < self.options.pieces:
            worst = heap[0][2]
            if worst.key < math.inf and (not self.history or worst.key < self.history[-1][1]):
                self.history.append((time.perf_counter() - self.started, worst.key))
            # At random, since in the middle neurons may be at their kinks in numbers.
            place = torch.rand(len(worst.lo), generator=self.generator, dtype=torch.float64)
            some = torch.lerp(worst.lo.clamp(min=-1e3), worst.hi.clamp(max=1e3), place)[None]
            # Within the ball, where the domain is one.
            some[:, :-1] = (
                torch.lerp(0.5 * worst.lo + 0.5 * worst.hi, some[0], 1.0 / len(place))[:-1] if self.ball is not None else some[:, :-1]
            )
            floor = max(floor, self.options.quick(self.graph, enclose_cells(self.graph, some, some).values, self.norm).item())
            exhausted = worst.key <= floor * (1.0 + MARGIN)
            if exhausted or not self._improves(worst):
                break
            cut: list[_Piece] = []
            for _ in range(min(self.options.batch, len(heap))):
                piece = heapq.heappop(heap)[2]
                if self._worth(piece):
                    self._tighten(piece, deadline)
                elif self._improves(piece):
                    cut.append(piece)
                    continue
                heapq.heappush(heap, (-piece.key, next(serial), piece))
                if self._late(deadline):
                    break
            for child in self._cut(cut):
                heapq.heappush(heap, (-child.key, next(serial), child))
        return _Outcome(self._result(roots), exhausted)

    def _tighten(self, piece: _Piece, deadline: Deadline) -> None:
        assert self.inner is not None
        values = self._cells([piece]).one(0)
        piece.found = self.inner.tighten(self.graph, values, piece.near or self.near, deadline)
        piece.tried, piece.last_tried = True, piece.uncertain
        if piece.found is None:
            return
        if self.near is None:
            begun = time.perf_counter()
            self.inner.proves(self.graph, values, piece.found, 1.001 * piece.found.value)
            self.proof_time = time.perf_counter() - begun
        self.near = piece.near = piece.found
        piece.key = min(piece.key, piece.found.value)
        self.tightened += 1

    def _late(self, deadline: Deadline) -> bool:
        # What is left must do for proving the pieces that need multipliers: about half of those that were tried.
        return deadline.passed() or time.perf_counter() + 0.6 * self.proof_time * self.tightened > deadline.at

    def _worth(self, piece: _Piece) -> bool:
        """Whether multipliers may say more than they did of a larger piece."""
        if self.inner is None or piece.tried or piece.uncertain == 0:
            return False
        return not piece.last_tried or piece.uncertain <= LESS * piece.last_tried

    def _improves(self, piece: _Piece) -> bool:
        # With every slope known by signs alone, smaller boxes may still show that no input has these signs.
        return (piece.uncertain > 0 or bool(piece.signs and piece.quick)) and (piece.coordinate >= 0 or self._worth(piece))

    def _cells(self, pieces: Sequence[_Piece]) -> Cells:
        nodes = sorted({bisect_right(self.firsts, flat) - 1 for p in pieces for flat in p.signs})
        signs = {k: torch.zeros(len(pieces), math.prod(self.graph.nodes[k].shape), dtype=torch.int8) for k in nodes}
        for i, p in enumerate(pieces):
            for flat, sign in p.signs.items():
                k = bisect_right(self.firsts, flat) - 1
                signs[k][i, flat - self.firsts[k]] = sign
        lo, hi = torch.stack([p.lo for p in pieces]), torch.stack([p.hi for p in pieces])
        # A box that is cut is no longer the one around the ball.
        whole = torch.equal(lo, self.roots[0]) and torch.equal(hi, self.roots[1]) and not nodes
        ball = self.ball if whole or not self.boxes else None
        return enclose_cells(self.graph, lo, hi, self.outer, {k: t.reshape(-1, *self.graph.nodes[k].shape) for k, t in signs.items()}, ball)

    def _measured(self, pieces: list[_Piece]) -> list[_Piece]:
        """Find out about new pieces, whose fields are still those of what they were cut from."""
        if not pieces:
            return pieces
        cells = self._cells(pieces)
        empty = cells.empty()
        quick = torch.where(empty, 0.0, self.options.quick(self.graph, cells.values, self.norm))
        marks = unstable(self.graph, cells.values)
        uncertain = sum((m.flatten(1).sum(1) for _, m in marks), torch.zeros(len(pieces), dtype=torch.int64)).masked_fill(empty, 0)
        lo, hi = torch.stack([p.lo for p in pieces]), torch.stack([p.hi for p in pieces])
        coordinate, at = _where(cells, marks, lo, hi)
        kinked = self._kinked(marks, len(pieces))
        self.count += len(pieces)
        for i, p in enumerate(pieces):
            p.stuck = p.stuck + 1 if int(uncertain[i]) == p.uncertain else 0
            p.quick, p.uncertain = quick[i].item(), int(uncertain[i])
            p.key = min(p.key, p.quick)
            p.coordinate, p.cut = int(coordinate[i]) if self.boxes else -1, at[i].item()
            few = not self.boxes or 0 < p.uncertain <= FEW or p.stuck > 2 * lo.shape[1] or p.coordinate < 0
            if self.signs and few and int(kinked[i]) >= 0:
                p.coordinate, p.cut = lo.shape[1] + int(kinked[i]), 0.0
        return pieces

    def _kinked(self, marks: list[tuple[int, Tensor]], count: int) -> Tensor:
        """The first neuron of every piece whose sign may be fixed, -1 where there is none."""
        found = torch.full((count,), -1)
        for k, mark in reversed(marks):
            if k not in self.kinks:
                continue
            any_, first = mark.flatten(1).any(1), mark.flatten(1).int().argmax(1)
            found = torch.where(any_, self.firsts[k] + first, found)
        return found

    def _cut(self, pieces: list[_Piece]) -> list[_Piece]:
        children = []
        for p in pieces:
            a, b = (replace(p, signs=dict(p.signs), found=None, tried=False, children=None) for _ in (0, 1))
            if p.coordinate < len(p.lo):
                a.hi, b.lo = p.hi.clone(), p.lo.clone()
                a.hi[p.coordinate] = b.lo[p.coordinate] = p.cut
            else:
                a.signs[p.coordinate - len(p.lo)], b.signs[p.coordinate - len(p.lo)] = -1, 1
            p.children = (a, b)
            children += [a, b]
        return self._measured(children)

    # The tree that is left where pieces that were cut in vain are whole again.

    def _value(self, piece: _Piece) -> float:
        if piece.children is None:
            return piece.own
        below = max(self._value(c) for c in piece.children)
        if piece.own <= below:
            piece.children = None
        return min(piece.own, below)

    def _leaves(self, piece: _Piece) -> list[_Piece]:
        return [piece] if piece.children is None else [leaf for c in piece.children for leaf in self._leaves(c)]

    def _result(self, roots: list[_Piece]) -> UpperBound:
        value = max(self._value(r) for r in roots)
        leaves = [leaf for r in roots for leaf in self._leaves(r)]
        bound = value * (1.0 + MARGIN)
        if not math.isfinite(bound):
            taken = time.perf_counter() - self.started
            return UpperBound(self.options.name, math.inf, (), taken, remark="Splitting was left out: no cover had a finite bound in time.")
        for leaf in leaves:
            while leaf.quick * (1.0 + MARGIN) > bound:
                assert self.inner is not None and leaf.found is not None
                values = self._cells([leaf]).one(0)
                if self.inner.proves(self.graph, values, leaf.found, bound):
                    break
                bound *= 1.0 + 10.0 * MARGIN
                if bound > 1.01 * value:
                    bound = leaf.quick * (1.0 + 2.0 * MARGIN)
        pieces = []
        for leaf in leaves:
            by_jacobian = leaf.quick * (1.0 + MARGIN) <= bound
            pieces.append({} if by_jacobian else {n: (bound * bound * t).numpy() for n, t in leaf.found.inverse.items()})
        nodes = [n for r in roots for n in _preorder(r)]
        cover = Cover(
            self.scale.numpy(),
            np.array([-1 if n.children is None else n.coordinate for n in nodes], dtype=np.int64),
            np.array([0.0 if n.children is None else n.cut for n in nodes]),
            tuple(pieces),
        )
        taken = time.perf_counter() - self.started
        history = [(s, max(v, bound)) for s, v in self.history] + [(taken, bound)]
        return UpperBound(self.options.name, bound, (), taken, history=tuple(history), cover=cover, work=self.work)


def _preorder(piece: _Piece) -> list[_Piece]:
    return [piece] if piece.children is None else [piece, *_preorder(piece.children[0]), *_preorder(piece.children[1])]


def _where(cells: Cells, marks: list[tuple[int, Tensor]], lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """The coordinate to cut each box along, -1 where there is none, and where.

    Every neuron of uncertain slope votes with the shares of its linear form; of coordinates that may still be cut, the one with most
    votes is cut in the middle.
    """
    votes = torch.zeros_like(lo)
    for k, mark in marks:
        form = cells.linear[k].flatten(2)
        size = form.abs()
        share = size / size.sum(1, keepdim=True).clamp(min=1e-300)
        votes += (share * mark.flatten(1)[:, None]).sum(2)
    middle = 0.5 * lo + 0.5 * hi
    able = (middle > lo) & (middle < hi)
    # Where no linear form says anything, the widest side.
    score = torch.where(able, votes + 1e-9 * (hi - lo) / (hi - lo).amax(1, keepdim=True).clamp(min=1e-300), -1.0)
    best, coordinate = score.max(1)
    at = middle.gather(1, coordinate[:, None])[:, 0]
    return torch.where(best >= 0, coordinate, -1), at
