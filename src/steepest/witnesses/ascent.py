"""Gradient ascent of the Jacobian's norm with softened gates, and the proven secant at what it finds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.ops import Add, Concat
from steepest.ops.kinds import Affine
from steepest.results import Domain, LowerBound
from steepest.witnesses.chart import Chart, free_coordinates
from steepest.witnesses.landscape import Landscape, cast, norms
from steepest.witnesses.pairs import best_pair, some_pair
from steepest.witnesses.secant import pull_inside
from steepest.witnesses.starts import FEW, Terrain


@dataclass(frozen=True, eq=False)
class Found:
    """Points with their directions and hard norms: ``[count, n]``, ``[count, n]``, ``[count]``."""

    x: Tensor
    v: Tensor
    value: Tensor

    def best(self, count: int) -> Found:
        """The steepest few."""
        top = self.value.topk(min(count, len(self.value))).indices
        return Found(self.x[top], self.v[top], self.value[top])

    def joined(self, other: Found) -> Found:
        """Both."""
        return Found(torch.cat([self.x, other.x]), torch.cat([self.v, other.v]), torch.cat([self.value, other.value]))

    def improved(self, other: Found) -> Found:
        """Place by place the steeper."""
        better = other.value > self.value
        row = better[:, None]
        return Found(torch.where(row, other.x, self.x), torch.where(row, other.v, self.v), torch.where(better, other.value, self.value))


@dataclass(frozen=True)
class Schedule:
    """One climb: how many steps, from which sharpness to which, how fast, until when."""

    steps: int
    soft: float
    sharp: float
    rate: float
    until: float


@dataclass(frozen=True)
class GradientAscent:
    """Finds two points of a domain between which the network is steep, and proves how steep.

    Maximises ``log |J(x) v|_p`` over points x by Adam, with the hard gates of J softened to sigmoids that sharpen from
    step to step, and v kept extremal by the power method; then climbs again from the best points. Use it as the lower
    end of any bracket. Proven: the slope of the secant between two real points of the domain in exact arithmetic, hence
    a lower bound of the Lipschitz constant over it, in lp at both ends. The search itself is floating point and proves
    nothing.

    For a given seed and number of threads the result is the same on every run, unless the time limit cuts it short.

    Args:
        seconds: limit of the search; the steps are spread over it where they would not fit.
        stop: looked at as well; somebody may ask the search to end.
        seed: of all randomness.
        starts: points climbed at once, at least one.
        steps: of the climbs together, fewer where time is short.

    Source: the norms by Boyd 1974 and Higham 1992 (see ``Landscape.power``); the search is our own.
    """

    seconds: float = 10.0
    stop: Deadline = field(default_factory=Deadline)
    seed: int = 0
    starts: int = 32
    steps: int = 3000

    def search(self, graph: Graph, domain: Domain, norm: float, data: Tensor | None = None) -> LowerBound | None:
        """Search one domain.

        Args:
            graph: the network.
            domain: all inputs, a box or a ball.
            norm: 1, 2 or inf, at both ends.
            data: ``[count, *input_shape]``, typical inputs: their range seeds the search, those outside are drawn in.

        Returns:
            The steepest proven secant (zero for a constant network), or None where the domain does not hold two
            different float64 points.
        """
        began = time.perf_counter()
        free = free_coordinates(domain, math.prod(graph.input_shape))
        if not free.any() or (fallback := some_pair(graph, domain, norm)) is None:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        dtype = _precision(graph, domain)
        landscape = Landscape(cast(graph, dtype), norm, free)
        terrain = Terrain.of(graph, domain, data, dtype)
        if all(isinstance(n.op, (Affine, Add, Concat)) for n in graph.nodes[1:]):
            found = self._sample(landscape, terrain, generator, 4, 30)
        else:
            found = self._explore(landscape, terrain, generator, began)
        exact = Landscape(graph, norm, free)
        pair = best_pair(exact, domain, _finish(exact, terrain, found), began + self.seconds)
        if pair is None or pair.value < fallback.value:
            pair = fallback
        x, y = (t.reshape(graph.input_shape).numpy() for t in (pair.x, pair.y))
        middle, _ = _finish_value(exact, 0.5 * pair.x + 0.5 * pair.y, pair.x - pair.y)
        return LowerBound(pair.value, x, y, "ascent", time.perf_counter() - began, middle)

    def _explore(self, landscape: Landscape, terrain: Terrain, generator: torch.Generator, began: float) -> Found:
        """Sampling, climbs from many starts, then climbs from the best with perturbations."""
        # The last part is kept for the proof.
        until = began + 0.85 * self.seconds
        starts = max(1, min(self.starts, landscape.chunk()))
        few = landscape.inputs <= FEW
        terrains = [terrain] * (4 if few else 1)
        if few and terrain.domain.kind == "all":
            terrains = [terrain, *terrain.boxes(landscape.graph.input_shape, 4)]
        opened = time.perf_counter()
        best: Found | None = None
        for r, ground in enumerate(terrains):
            part = opened + 0.5 * (until - opened) * (r + 1) / len(terrains)
            pause = time.perf_counter() + 0.3 * (part - time.perf_counter())
            found = self._sample(landscape, ground, generator, (64 if few else 8) * starts, 4, pause)
            begin = self._mixed(landscape, ground, found, starts, generator)
            soft = 0.7 if ground.domain.kind == "all" else 0.3
            schedule = Schedule(self.steps // (2 * len(terrains)), soft, 40.0, 0.1, part)
            climbed = found.best(8).joined(self._climb(landscape, ground.chart(begin.x), begin, schedule))
            best = (climbed if best is None else best.joined(climbed)).best(16)
        assert best is not None
        rounds, opened = 3, time.perf_counter()
        share = (0.6 if few else 1.0) * (until - opened)
        rate = 0.03 if terrain.domain.kind == "all" else 0.1
        for r in range(rounds):
            begin = self._near(landscape, terrain, best, max(1, starts // 2), 0.3 * 0.5**r, generator)
            schedule = Schedule(self.steps // (2 * rounds), 3.0, 60.0, rate * 0.6**r, opened + share * (r + 1) / rounds)
            best = best.joined(self._climb(landscape, terrain.chart(begin.x), begin, schedule)).best(16)
        if few:
            best = self._evolve(landscape, terrain, best, generator, until)
        return best

    def _mixed(self, landscape: Landscape, terrain: Terrain, found: Found, starts: int, generator: torch.Generator) -> Found:
        """Starts: a quarter (half in a bounded domain) the best of the sample, the others at scales spread evenly."""
        kept = found.best(max(1, starts // (4 if terrain.domain.kind == "all" else 2)))
        count = starts - len(kept.x)
        if count == 0:
            return kept
        spread = torch.logspace(math.log10(terrain.least), math.log10(terrain.most), count, dtype=terrain.dtype)[:, None]
        return kept.joined(self._looked_at(landscape, terrain.draw(count, generator, spread), generator, 10))

    def _near(self, landscape: Landscape, terrain: Terrain, best: Found, count: int, widest: float, generator: torch.Generator) -> Found:
        """The best four, each with steps of several sizes beside it."""
        top = best.best(4)
        copies = -(-count // len(top.x))
        x, v = top.x.repeat(copies, 1), top.v.repeat(copies, 1)
        share = torch.linspace(0.0, widest, copies, dtype=x.dtype).repeat_interleave(len(top.x))[:, None]
        x = torch.where(share > 0, terrain.jitter(x, share, generator), x)
        value, v = landscape.hard(x, v)
        return Found(x, v, value)

    def _sample(
        self, landscape: Landscape, terrain: Terrain, generator: torch.Generator, count: int, rounds: int, until: float = math.inf
    ) -> Found:
        """Random points and their hard norms; the draw is cut short between batches where time runs out."""
        size = max(1, min(count, landscape.chunk()))
        found = self._looked_at(landscape, terrain.draw(size, generator), generator, rounds)
        for _ in range(-(-count // size) - 1):
            if time.perf_counter() > until or self.stop.passed():
                break
            found = found.joined(self._looked_at(landscape, terrain.draw(size, generator), generator, rounds))
        return found

    def _looked_at(self, landscape: Landscape, x: Tensor, generator: torch.Generator, rounds: int) -> Found:
        v = torch.randn(x.shape, generator=generator, dtype=x.dtype) * landscape.free
        value, v = landscape.hard(x, v / norms(v, landscape.p).clamp(min=1e-30)[:, None], rounds)
        return Found(x, v, value)

    def _climb(self, landscape: Landscape, chart: Chart, begin: Found, schedule: Schedule) -> Found:
        """Adam on ``log |J v|`` with gates sharpening geometrically; the best hard norm of every start is kept."""
        y = chart.origin()
        home, v, best = y.clone(), begin.v, begin
        mean, power = torch.zeros_like(y), torch.zeros_like(y)
        count = torch.zeros(len(y), 1, dtype=y.dtype)
        steps, opened = schedule.steps, time.perf_counter()
        warm = 1 if landscape.outputs == 1 else 2
        k = 0
        while k < steps and time.perf_counter() < schedule.until and not self.stop.passed():
            if k == 3:
                # The plan shortens to what fits, so that gates sharpen fully and the rate falls in time.
                cost = (time.perf_counter() - opened) / k
                steps = min(steps, max(k + 1, int(k + 0.9 * (schedule.until - time.perf_counter()) / (1.2 * cost))))
            progress = k / steps
            sharpness = schedule.soft * (schedule.sharp / schedule.soft) ** progress
            rate = schedule.rate * (0.05 + 0.475 * (1.0 + math.cos(math.pi * progress)))
            moving = y.detach().requires_grad_(True)
            linear = landscape.at(chart.points(moving), sharpness)
            v, _ = landscape.power(linear.detached(), v, warm)
            stretch = norms(landscape.push(linear, v), landscape.p)
            height = torch.log(stretch.clamp(min=torch.finfo(y.dtype).tiny))
            # Where the slope is the same everywhere (a linear or sorting network) there is nothing to climb.
            gradient = torch.autograd.grad(height.sum(), moving)[0] if height.requires_grad else torch.zeros_like(y)
            lost = ~(torch.isfinite(gradient).all(-1, keepdim=True) & torch.isfinite(stretch)[:, None])
            gradient = torch.where(lost, 0.0, gradient)
            # A start that left where the network is finite goes back to its best point and begins anew.
            count = torch.where(lost, 0.0, count + 1)
            mean = torch.where(lost, 0.0, 0.9 * mean + 0.1 * gradient)
            power = torch.where(lost, 0.0, 0.99 * power + 0.01 * gradient.square())
            step = (mean / (1 - 0.9**count + 1e-30)) / ((power / (1 - 0.99**count + 1e-30)).sqrt() + 1e-12)
            y = chart.settle(torch.where(lost, home, y + rate * step))
            v = torch.where(torch.isfinite(v).all(-1, keepdim=True), v, begin.v)
            k += 1
            if k % 4 == 0 or k == steps:
                x = chart.points(y)
                value, v = landscape.hard(x, v)
                home = torch.where((value > best.value)[:, None], y, home)
                best = best.improved(Found(x, v, value))
        return best

    def _evolve(self, landscape: Landscape, terrain: Terrain, best: Found, generator: torch.Generator, until: float) -> Found:
        """Random steps of all sizes from the best few, in all coordinates or in some."""
        for _ in range(max(1, self.steps // 4)):
            if time.perf_counter() > until or self.stop.passed():
                break
            parents = best.best(4)
            parents = Found(parents.x.repeat(16, 1), parents.v.repeat(16, 1), parents.value.repeat(16))
            share = 10 ** (-5.0 * torch.rand(len(parents.x), 1, generator=generator, dtype=terrain.dtype))
            child = terrain.jitter(parents.x, share, generator)
            some = torch.rand(child.shape, generator=generator) < 0.5
            child = torch.where(some, child, parents.x)
            value, v = landscape.hard(child, parents.v)
            best = best.joined(Found(child, v, value)).best(16)
        return best


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
