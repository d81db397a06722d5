"""Splitting the inputs: the largest of the bounds over pieces that cover the domain, the worst piece cut first."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.numerics.interval import Interval
from steepest.ops.cells import Cells, enclose_cells, natural_scale, positively_homogeneous, unstable, whole_space, without_biases
from steepest.ops.region import enclose_domain
from steepest.results import Domain, UpperBound
from steepest.results.cover import Cover

MARGIN = 1e-6
"""By how much the bound is raised above the worst piece, so that every piece can be proven in floating point."""


LESS = 0.9
"""Multipliers are looked for anew in a piece with at most this share of the neurons of uncertain slope of the last one that has them."""

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
    """A box of ``(u, tau)``; ``key`` is the least bound known of it, its own or one of a piece that holds it."""

    lo: Tensor
    hi: Tensor
    key: float
    quick: float
    uncertain: int
    coordinate: int
    cut: float
    last_tried: int
    near: Any
    found: Any = None
    tried: bool = False
    children: tuple[_Piece, _Piece] | None = None

    @property
    def own(self) -> float:
        return min(self.quick, math.inf if self.found is None else self.found.value)


@dataclass(frozen=True)
class Splitting:
    """Branch and bound over the inputs, for networks with few of them.

    Pieces that are convex and cover a convex domain divide every segment in it among finitely many of them, so the largest of
    their constants is one of the domain. Each piece is a box, over which enclosures that are linear in the inputs fix most slopes once
    it is small, and it is bounded by the intervals of the Clarke Jacobian or, in l2, by multipliers with the slopes of the piece.

    Over all inputs of a positively homogeneous network (ReLU and its like) x is written ``u / tau`` with ``(u, tau)`` on the surface of
    a cube: with biases times tau every neuron has the sign at u that it has at x, so that finitely many boxes cover all of R^n; and the
    inputs of a box are a convex set, as its image under the perspective map.

    Args:
        quick: norm bounds of the Jacobian over a batch of enclosures, ``[boxes]``.
        inner: in l2, multipliers.
        deadline: when to return.
        inputs: most of them; boxes are of little use beyond.
        pieces: most of them.
        batch: pieces cut at once.

    Source: Jordan and Dimakis 2020 and Bhowmick et al. 2021 (LipBaB) for branch and bound on Lipschitz constants.
    """

    quick: Callable[[Graph, list[Interval], float], Tensor]
    inner: Inner | None = None
    deadline: Deadline = field(default_factory=lambda: Deadline.after(20.0))
    inputs: int = 12
    pieces: int = 20000
    batch: int = 16
    name: str = "splitting"

    def applies(self, graph: Graph, domain: Domain) -> bool:
        """Whether the network has few inputs, and the domain is bounded or the network positively homogeneous."""
        return math.prod(graph.input_shape) <= self.inputs and (_bounded(graph, domain) or positively_homogeneous(graph))

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
        first = _Search(self, graph, domain, norm, None, self.deadline if quick else self.deadline.share(QUICK)).run()
        if quick or first.exhausted or self.deadline.passed():
            return first.upper
        second = _Search(self, graph, domain, norm, self.inner, self.deadline).run()
        return min(first.upper, second.upper, key=lambda u: u.value)


def _bounded(graph: Graph, domain: Domain) -> bool:
    return all(bool(np.isfinite(e).all()) for e in domain.bounds(graph.input_shape))


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
        if _bounded(graph, domain):
            self.outer = enclose_domain(graph, domain)
            one = torch.ones(1, dtype=torch.float64)
            lo, hi = domain.bounds(graph.input_shape)
            self.roots = tuple(torch.cat([torch.from_numpy(e.flatten()), one])[None] for e in (lo, hi))
        else:
            self.roots = whole_space(count, self.scale, not without_biases(graph))
        self.started = time.perf_counter()
        self.history: list[tuple[float, float]] = []
        self.near: Any = None
        self.generator = torch.Generator().manual_seed(0)
        self.proof_time = 0.0
        self.tightened = 0
        self.count = 0

    def run(self) -> _Outcome:
        deadline = self.deadline
        count = len(self.roots[0])
        roots = self._pieces(self.roots[0], self.roots[1], [math.inf] * count, [None] * count, [0] * count)
        serial = itertools.count()
        heap = [(-p.key, next(serial), p) for p in roots]
        heapq.heapify(heap)
        floor, exhausted = 0.0, False
        while heap and not self._late(deadline) and self.count < self.options.pieces:
            worst = heap[0][2]
            if worst.key < math.inf and (not self.history or worst.key < self.history[-1][1]):
                self.history.append((time.perf_counter() - self.started, worst.key))
            # At random, since in the middle neurons may be at their kinks in numbers.
            some = torch.lerp(worst.lo, worst.hi, torch.rand(len(worst.lo), generator=self.generator, dtype=torch.float64))[None]
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
        values = enclose_cells(self.graph, piece.lo[None], piece.hi[None], self.outer).one(0)
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
        return piece.uncertain > 0 and (piece.coordinate >= 0 or self._worth(piece))

    def _pieces(self, lo: Tensor, hi: Tensor, keys: list[float], near: list[Any], last: list[int]) -> list[_Piece]:
        cells = enclose_cells(self.graph, lo, hi, self.outer)
        quick = self.options.quick(self.graph, cells.values, self.norm)
        marks = unstable(self.graph, cells.values)
        uncertain = sum((m.flatten(1).sum(1) for _, m in marks), torch.zeros(len(lo), dtype=torch.int64))
        coordinate, at = _where(cells, marks, lo, hi)
        self.count += len(lo)
        rows = zip(lo, hi, keys, quick.tolist(), uncertain.tolist(), coordinate.tolist(), at.tolist(), last, near, strict=True)
        return [_Piece(a, b, min(key, q), q, u, c, x, tried, n) for a, b, key, q, u, c, x, tried, n in rows]

    def _cut(self, pieces: list[_Piece]) -> list[_Piece]:
        if not pieces:
            return []
        lo = torch.stack([p.lo for p in pieces]).repeat_interleave(2, 0)
        hi = torch.stack([p.hi for p in pieces]).repeat_interleave(2, 0)
        for i, p in enumerate(pieces):
            hi[2 * i, p.coordinate] = p.cut
            lo[2 * i + 1, p.coordinate] = p.cut
        twice = [p for p in pieces for _ in (0, 1)]
        found = self._pieces(lo, hi, [p.key for p in twice], [p.near for p in twice], [p.last_tried for p in twice])
        for i, p in enumerate(pieces):
            p.children = (found[2 * i], found[2 * i + 1])
        return found

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
                values = enclose_cells(self.graph, leaf.lo[None], leaf.hi[None], self.outer).one(0)
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
        return UpperBound(self.options.name, bound, (), taken, history=tuple(history), cover=cover)


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
