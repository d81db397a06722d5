"""From a steep point and its direction to the pair of points whose secant is proven steepest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.interval import Interval
from steepest.results import Domain
from steepest.witnesses.budget import Budget
from steepest.witnesses.landscape import Landscape, norms
from steepest.witnesses.secant import inside, make_room, pull_inside, slopes_below


class Steep(Protocol):
    """Points ``[count, n]``, directions of norm one, and their hard norms, steepest first."""

    @property
    def x(self) -> Tensor:
        """Points."""
        ...

    @property
    def v(self) -> Tensor:
        """Directions."""
        ...

    @property
    def value(self) -> Tensor:
        """Norms."""
        ...


@dataclass(frozen=True, eq=False)
class Pair:
    """Two flat float64 points of the domain and a proven lower bound of the slope between them."""

    value: float
    x: Tensor
    y: Tensor


def some_pair(graph: Graph, domain: Domain, p: float) -> Pair | None:
    """Two different points of the domain, wherever they lie, or None where it surely holds no two float64 points apart.

    Tried around the centre, at several distances along the free coordinates.
    """
    n = math.prod(graph.input_shape)
    if domain.kind == "all":
        middle, reach = torch.zeros(1, n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    elif domain.kind == "box":
        assert domain.lo is not None and domain.hi is not None
        lo, hi = (torch.from_numpy(end.reshape(-1).copy()) for end in (domain.lo, domain.hi))
        # A point of the domain even where both ends are neighbours, and steps that clamping cuts to the other end.
        middle = pull_inside(domain, torch.zeros(1, n, dtype=torch.float64))
        reach = torch.where(torch.isfinite(hi - lo), hi - lo, 1.0)
    else:
        assert domain.centre is not None and domain.radius is not None
        middle = torch.from_numpy(domain.centre.reshape(1, -1).copy())
        reach = torch.full((n,), domain.radius, dtype=torch.float64)
    best: Pair | None = None
    for share in (0.0, 1e-6, 1e-3, 0.1, 0.9):
        for scale in (1.0, 1.0 / math.sqrt(n), 1.0 / n):
            step = (share * scale * reach)[None] if share else reach[None] * (torch.arange(n) == int(reach.argmax()))
            ends = pull_inside(domain, torch.cat([middle - step, middle + step]))
            if inside(domain, ends).all() and not torch.equal(ends[0], ends[1]):
                shaped = ends.reshape(2, 1, *graph.input_shape)
                value = slopes_below(graph, shaped[0], shaped[1], p).item()
                if best is None or value > best.value:
                    best = Pair(value, ends[0], ends[1])
    return best


def best_pair(landscape: Landscape, domain: Domain, steep: Steep, budget: Budget) -> Pair | None:
    """Secants through the given points at many lengths, and what climbing the best of them finds.

    Args:
        landscape: exact, in float64.
        domain: both points lie in it, surely.
        steep: where the network is steep, steepest first.
        budget: after which only what has begun is finished.
    """
    best: Pair | None = None
    for x, v, value in zip(steep.x, steep.v, steep.value, strict=True):
        if best is not None and (budget.passed() or value.item() <= best.value):
            continue
        best = _better(best, _proven(landscape, domain, *_along(domain, x, v), budget))
    if best is None or best.value <= 0:
        return best
    if best.value < (1 - 1e-6) * steep.value[0].item() and not budget.passed():
        # The secant misses part of the norm: the linear region is small, or the function curved.
        best = _better(best, _proven(landscape, domain, *_climbed(landscape, domain, best, budget), budget))
    return best


def _better(first: Pair | None, second: Pair | None) -> Pair | None:
    return first if second is None or (first is not None and first.value >= second.value) else second


def _along(domain: Domain, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs on the line through x: centred (moved inwards where they stick out) and one-sided, at many lengths, middling ones first."""
    size = max(x.square().mean().sqrt().item() * len(x) ** 0.5, 1e-3 if domain.kind == "all" else 0.0)
    if domain.kind == "ball":
        assert domain.radius is not None
        size = domain.radius
    elif domain.kind == "box":
        assert domain.lo is not None and domain.hi is not None
        width = torch.from_numpy((domain.hi - domain.lo).reshape(-1).copy())
        bounded = width[torch.isfinite(width) & (width > 0)]
        size = bounded.max().item() if len(bounded) else max(size, 1.0)
    powers = sorted(torch.linspace(-8, 1, 19, dtype=torch.float64).tolist(), key=lambda e: abs(e + 4.0))
    length = size * 10.0 ** torch.tensor(powers, dtype=torch.float64)[:, None]
    step = length * v
    middle = make_room(domain, x.expand_as(step), step)
    first = torch.cat([middle - step, x.expand_as(step), x.expand_as(step)])
    second = torch.cat([middle + step, x + step, x - step])
    return pull_inside(domain, first), pull_inside(domain, second)


def _proven(landscape: Landscape, domain: Domain, first: Tensor, second: Tensor, budget: Budget) -> Pair | None:
    """The best of many pairs: ranked in plain float64, then the leaders with outward rounding; those listed first come first."""
    kept = inside(domain, first) & inside(domain, second) & (first != second).any(-1)
    first, second = first[kept], second[kept]
    if not len(first):
        return None
    # Small parts where each takes long, so that a limit on time can fall between them.
    chunk = max(1, min(landscape.chunk(), 2**20 // landscape.entries))
    graph, p = landscape.graph, landscape.p
    with torch.no_grad():
        # Short pairs drown in rounding, which plain arithmetic does not see: what it costs is the width of one enclosure.
        width = graph.enclose(Interval.point(landscape.shaped(first[:1])))[-1]
        lost = norms((width.hi - width.lo).flatten(1), p).item()
        moved = []
        for a, b in zip(first.split(chunk), second.split(chunk), strict=True):
            if moved and budget.passed():
                break
            moved.append(norms((graph.evaluate(landscape.shaped(a)) - graph.evaluate(landscape.shaped(b))).flatten(1), p))
        rise = torch.cat(moved)
        estimate = (rise - lost) / norms((first - second)[: len(rise)], p)
    order = torch.nan_to_num(estimate, nan=0.0, posinf=0.0).argsort(descending=True)[:16]
    best: Pair | None = None
    for part in order.split(chunk):
        if best is not None and budget.passed():
            break
        a, b = first[part], second[part]
        values = slopes_below(landscape.graph, landscape.shaped(a), landscape.shaped(b), landscape.p)
        top = int(values.argmax())
        best = _better(best, Pair(values[top].item(), a[top], b[top]))
    return best


def _climbed(landscape: Landscape, domain: Domain, pair: Pair, budget: Budget, steps: int = 40) -> tuple[Tensor, Tensor]:
    """Pairs met while the slope of the secant itself is climbed from the given one, at three lengths."""
    middle = 0.5 * pair.x + 0.5 * pair.y
    half = 0.5 * (pair.x - pair.y)
    ends = torch.stack([torch.stack([middle + s * half, middle - s * half]) for s in (0.3, 1.0, 3.0)])
    ends = torch.stack([pull_inside(domain, e) for e in ends])
    length = norms(ends[:, 0] - ends[:, 1], landscape.p)
    seen: list[Tensor] = [ends]
    mean, power = torch.zeros_like(ends), torch.zeros_like(ends)
    for k in range(1, steps + 1):
        if budget.passed():
            break
        moving = ends.detach().requires_grad_(True)
        values = landscape.graph.evaluate(landscape.shaped(moving)).flatten(2)
        rise = torch.log(norms(values[:, 0] - values[:, 1], landscape.p).clamp(min=1e-300))
        run = torch.log(norms(moving[:, 0] - moving[:, 1], landscape.p).clamp(min=1e-300))
        (gradient,) = torch.autograd.grad((rise - run).sum(), moving)
        gradient = torch.where(landscape.free, torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0), 0.0)
        mean, power = 0.9 * mean + 0.1 * gradient, 0.99 * power + 0.01 * gradient.square()
        step = (mean / (1 - 0.9**k)) / ((power / (1 - 0.99**k)).sqrt() + 1e-300)
        # A step is a small part of the pair's own length.
        unit = norms(torch.ones_like(ends[0, 0]), landscape.p)
        ends = ends + 0.05 * (length / unit)[:, None, None] * step
        ends = torch.stack([pull_inside(domain, e) for e in ends])
        seen.append(ends)
    stacked = torch.cat(seen)
    return stacked[:, 0], stacked[:, 1]
