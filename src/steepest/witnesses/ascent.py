"""Ascent of the Jacobian's norm with softened gates, evolution where inputs are few, and the proven secant at what they find."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.ops import Add, Concat
from steepest.ops.kinds import Affine
from steepest.results import Domain, LowerBound
from steepest.witnesses.budget import Budget
from steepest.witnesses.chart import free_coordinates
from steepest.witnesses.climb import Climb
from steepest.witnesses.evolve import Evolution
from steepest.witnesses.found import Found
from steepest.witnesses.landscape import Landscape, cast, norms
from steepest.witnesses.pairs import best_pair, some_pair
from steepest.witnesses.secant import pull_inside
from steepest.witnesses.starts import FEW, Scales, Terrain

SHORTEST = 300
"""Steps of the shortest climb from fresh starts; others take 2, 4, 8 times as many."""

POLISH = 800
"""Steps of the shortest climb from what such a one found."""

GENERATIONS = 800
"""Of an evolution from a fresh sample."""


@dataclass(frozen=True)
class GradientAscent:
    """Finds two points of a domain between which the network is steep, and proves how steep.

    Maximises ``log |J(x) v|_p`` over points x by Adam, with the hard gates of J softened to sigmoids that sharpen from
    step to step, and v kept extremal by the power method. Climbs from fresh starts, short ones often and long ones
    seldom, take turns with climbs from the best points so far; up to 16 inputs, evolution takes its turn too. Use it as
    the lower end of any bracket. Proven: the slope of the secant between two real points of the domain in exact
    arithmetic, hence a lower bound of the Lipschitz constant over it, in lp at both ends. The search itself is floating
    point and proves nothing.

    Where ``steps`` are spent before ``seconds``, a seed and a number of threads determine the result.

    Args:
        seconds: of computing by the calling thread, so that other load on the machine does not decide what is found.
        stop: ends the search as well, by the wall clock or when somebody asks.
        seed: of all randomness.
        starts: points climbed at once, at least one; fewer where the network is large.
        steps: of all climbs and generations together.

    Source: the norms by Boyd 1974 and Higham 1992 (see ``Landscape.power``); climbs of lengths 1, 1, 2, 1, 1, 2, 4 after
    Luby, Sinclair and Zuckerman, Optimal speedup of Las Vegas algorithms, 1993; the search is our own.
    """

    seconds: float = 10.0
    stop: Deadline = field(default_factory=Deadline)
    seed: int = 0
    starts: int = 32
    steps: int = 100_000

    def search(
        self, graph: Graph, domain: Domain, norm: float, data: Tensor | None = None, points: Tensor | None = None
    ) -> LowerBound | None:
        """Search one domain.

        Args:
            graph: the network.
            domain: all inputs, a box or a ball.
            norm: 1, 2 or inf, at both ends.
            data: ``[count, *input_shape]``, typical inputs: their range seeds the search, those outside are drawn in.
            points: ``[count, *input_shape]``, float64, where the network is steep, from elsewhere: they join what is found.

        Returns:
            The steepest proven secant (zero for a constant network), or None where the domain does not hold two
            different float64 points.
        """
        began, budget = time.perf_counter(), Budget.of(self.seconds, self.stop)
        free = free_coordinates(domain, math.prod(graph.input_shape))
        if not free.any() or (fallback := some_pair(graph, domain, norm)) is None:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        dtype = _precision(graph, domain)
        landscape = Landscape(cast(graph, dtype), norm, free)
        terrain = Terrain.of(graph, domain, data, dtype)
        # The last part is kept for the proof.
        searching = budget.share(0.85)
        if all(isinstance(n.op, (Affine, Add, Concat)) for n in graph.nodes[1:]):
            found = _sample(landscape, terrain, generator, 4, 30, searching)
        else:
            found = self._explore(landscape, terrain, generator, searching)
        exact = Landscape(graph, norm, free)
        if points is not None:
            met = _looked_at(exact, pull_inside(domain, points).flatten(1), generator, 20)
            found = Found(found.x.double(), found.v.double(), found.value.double()).joined(met)
        pair = best_pair(exact, domain, _finish(exact, terrain, found), budget)
        if pair is None or pair.value < fallback.value:
            pair = fallback
        x, y = (t.reshape(graph.input_shape).numpy() for t in (pair.x, pair.y))
        middle, _ = _finish_value(exact, 0.5 * pair.x + 0.5 * pair.y, pair.x - pair.y)
        return LowerBound(pair.value, x, y, "ascent", time.perf_counter() - began, middle)

    def _explore(self, landscape: Landscape, terrain: Terrain, generator: torch.Generator, budget: Budget) -> Found:
        """Fresh starts, each improved; then the best alone."""
        # Fewer points at once where each takes long, more where a step costs the same for many.
        starts = max(1, min(self.starts, max(4, 2**19 // landscape.entries)))
        starts = max(starts, min(8 * starts, 2**16 // landscape.entries))
        parents = max(4, starts // 8)
        evolving = landscape.inputs <= FEW and landscape.entries <= 2**13
        grounds = [terrain]
        if evolving and terrain.domain.kind == "all":
            grounds += terrain.boxes(landscape.graph.input_shape, 4)
        polish = 200 if evolving else POLISH
        fresh, scales, left = budget.share(0.7), Scales.of(terrain), self.steps
        whole, kept = fresh.left(), 0.3 * self.steps
        best = _sample(landscape, terrain, generator, 8 * starts, 4, fresh.share(0.05)).best(2 * parents)
        for turn, length in enumerate(_luby()):
            # What is left must suffice for a climb that is worth it.
            if turn and (fresh.passed() or fresh.left() < 0.1 * whole or left <= kept):
                break
            ground = grounds[turn % len(grounds)]
            # One in four of those improved is of the best so far; what is new does not have to beat it unimproved.
            found = best.best(parents // 4)
            if evolving:
                evolution = Evolution.sized(landscape, _within(GENERATIONS, 0.4 * (left - kept)))
                pool = _sample(landscape, ground, generator, 8 * starts, 4, fresh.share(0.1))
                found = evolution.run(landscape, ground, pool, generator, fresh.share(0.4))
                left -= evolution.generations
            spread = scales.draw(starts, generator)
            begin = _mixed(landscape, ground, spread, generator)
            # Gates that begin softer suit some networks, and harder ones others.
            soft = (0.7 if ground.domain.kind == "all" else 0.3) * (1.0, 2.0)[turn % 2]
            climb = Climb(_within(SHORTEST * length, 0.35 * (left - kept)), soft, 100.0, 0.1)
            climbed = climb.run(landscape, ground.chart(begin.x), begin, fresh.share(0.35))
            left -= climb.steps
            if ground is terrain:
                scales.learn(spread, climbed.value)
            found = climbed.best(parents - len(found.x)).joined(found) if not evolving else climbed.joined(found).best(parents)
            steps = _within(polish * length, 0.9 * (left - kept))
            found = _polished(landscape, ground, found, steps, (2.0, 4.0)[turn % 2], starts // 2, generator, fresh.share(0.9))
            left -= steps
            best = best.joined(found).best(2 * parents)
        ending = budget.left()
        turn = 0
        while left > 0 and not budget.passed():
            spent = 1.0 - (left / kept if ending == math.inf else budget.left() / ending)
            best = best.best(max(1, parents >> int(3 * max(0.0, spent))))
            if evolving:
                evolution = Evolution.sized(landscape, min(left, GENERATIONS // 4))
                best = evolution.run(landscape, terrain, best, generator, budget.share(0.3))
                left -= evolution.generations
            steps = min(left, 2 * polish)
            best = _polished(landscape, terrain, best, steps, (2.0, 4.0)[turn % 2], starts // 2, generator, budget)
            left, turn = left - steps, turn + 1
        return best


def _within(wanted: int, limit: float) -> int:
    """So many steps, within a limit, at least one."""
    return max(1, min(wanted, int(limit)))


def _luby() -> Iterator[int]:
    """1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8, ..."""
    k = 1
    while True:
        # With 2^m - 1 terms ending in 2^(m-1), the next as many repeat them.
        place = k
        while place + 1 & place:
            place -= (1 << place.bit_length() - 1) - 1
        yield (place + 1) // 2
        k += 1


def _sample(landscape: Landscape, terrain: Terrain, generator: torch.Generator, count: int, rounds: int, budget: Budget) -> Found:
    """Random points and their hard norms; the draw is cut short between batches where time runs out."""
    size = max(1, min(count, landscape.chunk(), max(4, 2**19 // landscape.entries)))
    found = _looked_at(landscape, terrain.draw(size, generator), generator, rounds)
    for _ in range(-(-count // size) - 1):
        if budget.passed():
            break
        found = found.joined(_looked_at(landscape, terrain.draw(size, generator), generator, rounds))
    return found


def _looked_at(landscape: Landscape, x: Tensor, generator: torch.Generator, rounds: int) -> Found:
    v = torch.randn(x.shape, generator=generator, dtype=x.dtype) * landscape.free
    value, v = landscape.hard(x, v / norms(v, landscape.p).clamp(min=1e-30)[:, None], rounds)
    return Found(x, v, value)


def _mixed(landscape: Landscape, terrain: Terrain, spread: Tensor, generator: torch.Generator) -> Found:
    """Starts at the given scales; in a bounded domain half of them are the best of a sample."""
    count = len(spread)
    if terrain.domain.kind == "all":
        return _looked_at(landscape, terrain.draw(count, generator, spread), generator, 6)
    picked = _looked_at(landscape, terrain.draw(4 * count, generator), generator, 4).best(-(-count // 2))
    if count == 1:
        return picked
    return picked.joined(_looked_at(landscape, terrain.draw(count // 2, generator), generator, 6))


def _polished(
    landscape: Landscape, terrain: Terrain, found: Found, steps: int, soft: float, rows: int, generator: torch.Generator, budget: Budget
) -> Found:
    """Every point, or what climbs at small rates with harder gates find beside it."""
    count = len(found.x)
    copies = max(1, rows // count)
    parents = found.take(torch.arange(count).repeat(copies))
    draw = torch.rand(len(parents.x), 3, generator=generator, dtype=terrain.dtype)
    moved = terrain.jitter(parents.x, 10 ** (1.6 * draw[:, :1] - 2.3), generator)
    x = torch.where(draw[:, 1:2] < 0.75, moved, parents.x)
    rate = (1.0 if terrain.domain.kind == "all" else 3.0) * 10 ** (1.2 * draw[:, 2:] - 2.6)
    value, v = landscape.hard(x, parents.v, 2)
    climbed = Climb(steps, soft, 200.0, rate).run(landscape, terrain.chart(x), Found(x, v, value), budget)
    for copy in range(copies):
        found = found.improved(climbed.take(torch.arange(count) + copy * count))
    return found


def _precision(graph: Graph, domain: Domain) -> torch.dtype:
    """float32, unless the network is small enough not to care or the domain is narrow beside its distance from zero."""
    size = sum(getattr(n.op, "weight", torch.empty(0)).numel() for n in graph.nodes) + sum(math.prod(n.shape) for n in graph.nodes)
    if size <= 2**16:
        return torch.float64
    if domain.kind == "ball":
        assert domain.centre is not None and domain.radius is not None
        return torch.float64 if domain.radius < 1e-3 * abs(domain.centre).max() else torch.float32
    if domain.kind == "box":
        assert domain.lo is not None and domain.hi is not None
        width, middle = domain.hi - domain.lo, abs(domain.hi / 2 + domain.lo / 2)
        narrow = (width > 0) & (width < 1e-3 * middle)
        return torch.float64 if narrow.any() else torch.float32
    return torch.float32


def _finish(exact: Landscape, terrain: Terrain, found: Found) -> Found:
    """The best few again in float64, inside the domain, with their directions sharpened."""
    top = found.best(4)
    x = pull_inside(terrain.domain, top.x.double())
    v = top.v.double()
    if exact.cheap_in_full:
        value, v = exact.exact(x)
    else:
        value, v = exact.hard(x, v, 20)
    return Found(x, v, value).best(4)


def _finish_value(exact: Landscape, x: Tensor, v: Tensor) -> tuple[float | None, Tensor]:
    """The Jacobian's norm at one point, or None where it is not finite."""
    v = (v / norms(v, exact.p).clamp(min=1e-300))[None]
    value, v = exact.exact(x[None]) if exact.cheap_in_full else exact.hard(x[None], v, 20)
    return (value.item() if math.isfinite(value.item()) else None), v[0]
